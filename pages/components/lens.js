// The logit lens as a table: a row a layer, a column a token; each cell names the likeliest next token.
// Arrow keys walk through the cells; the panel beneath says the five likeliest and the true next token's rank.

function tell(panel, data, row, position) {
  const cell = data.cells[row][position]
  panel.replaceChildren()
  const title = element("p", "where")
  title.appendChild(element("b", "", data.rows[row]))
  title.appendChild(document.createTextNode(" after "))
  title.appendChild(element("b", "", data.tokens[position]))
  panel.appendChild(title)
  for (const [text, p] of cell.top) {
    const line = element("div", "candidate")
    line.appendChild(element("span", "word", text))
    const track = element("span", "track")
    const fill = element("span", "fill")
    fill.style.width = `${100 * p}%`
    fill.style.background = data.colour
    track.appendChild(fill)
    line.appendChild(track)
    line.appendChild(element("span", "p", p < 0.001 ? "<0.001" : p.toFixed(3)))
    panel.appendChild(line)
  }
  panel.appendChild(element("p", "truth", cell.truth))
}

export default function (component) {
  const { parentElement, data, setTriggerValue } = component
  const root = parentElement.querySelector(".lens")
  const focusAgain = heldFocus(root, "td")
  root.replaceChildren()
  const sight = root.appendChild(element("p", "sight"))
  const scroller = root.appendChild(element("div", "scroller"))
  const panel = root.appendChild(element("div", "panel"))
  panel.setAttribute("role", "status")
  const table = scroller.appendChild(element("table"))
  table.setAttribute("role", "grid")
  table.setAttribute("aria-label", data.label)
  const head = table.appendChild(element("thead")).appendChild(element("tr"))
  head.appendChild(element("th", "corner", ""))
  for (const [p, token] of data.tokens.entries()) {
    const th = head.appendChild(element("th", p === data.position ? "at" : ""))
    th.scope = "col"
    th.appendChild(element("span", "", token))
  }
  const body = table.appendChild(element("tbody"))
  const cells = []
  let here = [data.rows.length - 1, data.position]
  const go = (row, position, focus) => {
    const old = cells[here[0]][here[1]]
    old.tabIndex = -1
    old.classList.remove("here")
    here = [row, position]
    const cell = cells[row][position]
    cell.tabIndex = 0
    cell.classList.add("here")
    if (focus) cell.focus()
    tell(panel, data, row, position)
  }
  for (const [r, name] of data.rows.entries()) {
    const tr = body.appendChild(element("tr"))
    const th = tr.appendChild(element("th", "", name))
    th.scope = "row"
    cells.push([])
    for (const [p, cell] of data.cells[r].entries()) {
      const td = tr.appendChild(element("td"))
      td.tabIndex = -1
      const strength = Math.round(4 + 66 * cell.top[0][1])
      td.style.backgroundColor = `color-mix(in srgb, ${data.colour} ${strength}%, var(--st-background-color))`
      td.appendChild(element("span", cell.hit ? "hit" : "", cell.top[0][0]))
      td.onmouseenter = () => go(r, p, false)
      td.onclick = () => setTriggerValue("position", p)
      td.onfocus = () => here[0] === r && here[1] === p || go(r, p, false)
      cells[r].push(td)
    }
  }
  table.onkeydown = (event) => {
    if (event.key === "Enter") setTriggerValue("position", here[1])
    const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key]
    if (!move) return
    event.preventDefault()
    const row = Math.max(0, Math.min(data.rows.length - 1, here[0] + move[0]))
    const position = Math.max(0, Math.min(data.tokens.length - 1, here[1] + move[1]))
    go(row, position, true)
  }
  go(here[0], here[1], false)
  const columns = [...head.children].slice(1)
  const edge = () => head.children[0].offsetWidth + 2 // what scrolls is hidden behind the names of layers up to here
  const tell_sight = () => {
    const from = scroller.scrollLeft + edge()
    const to = scroller.scrollLeft + scroller.clientWidth
    const seen = columns.flatMap((c, p) => (c.offsetLeft >= from - 3 && c.offsetLeft + c.offsetWidth <= to + 1 ? [p] : []))
    const all = seen.length === columns.length || !seen.length
    sight.textContent = all ? "" : `tokens ${seen[0]} to ${seen[seen.length - 1]} of 0 to ${columns.length - 1}: scroll for the others`
  }
  // The position is in sight, and the first column that is seen is seen whole.
  const reveal = () => {
    const last = columns[here[1]]
    const least = last.offsetLeft + last.offsetWidth + 6 - scroller.clientWidth
    if (least > 0) {
      const first = columns.find((c) => c.offsetLeft - edge() >= least) || last
      const wanted = first.offsetLeft - edge()
      const missing = wanted + scroller.clientWidth - scroller.scrollWidth
      if (missing > 0) table.style.paddingRight = `${missing + 4}px`
      scroller.scrollLeft = wanted
    }
    tell_sight()
  }
  scroller.onscroll = tell_sight
  reveal()
  focusAgain()
}
