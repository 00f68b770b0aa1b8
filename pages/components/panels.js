// Pictures of one latent: bars with their figures, and small plots of boxes or dots. What is drawn, and where, comes
// in as data; bars are a real table, so that they can be read aloud, and what leads somewhere is a button.

const percent = (share) => `${100 * Math.max(0, Math.min(1, share))}%`

function bars(panel, choose, readout) {
  const table = element("table", "bars")
  table.setAttribute("aria-label", panel.alt)
  const place = (value) => (Math.max(panel.low, Math.min(panel.high, value)) - panel.low) / (panel.high - panel.low)
  const zero = place(0)
  const body = table.appendChild(element("tbody"))
  for (const row of panel.rows) {
    const tr = body.appendChild(element("tr"))
    const th = tr.appendChild(element("th"))
    th.scope = "row"
    const name = th.appendChild(element(row.go !== undefined ? "button" : row.link ? "a" : "span", "name", row.label))
    if (row.link) Object.assign(name, { href: row.link, target: "_self" })
    if (row.go !== undefined) tr.onclick = () => choose(row.go)
    const track = tr.appendChild(element("td", "track")).appendChild(element("div", "plane"))
    const fill = track.appendChild(element("div", "fill"))
    const end = place(row.value)
    fill.style.left = percent(Math.min(zero, end))
    fill.style.width = `max(1px, ${percent(Math.abs(end - zero))})`
    fill.style.background = row.colour
    for (const mark of row.marks || []) {
      track.appendChild(element("div", mark.symbol)).style.left = percent(place(mark.value))
    }
    if (panel.rule !== undefined) track.appendChild(element("div", "rule")).style.left = percent(place(panel.rule))
    tr.appendChild(element("td", "figure", row.text))
    tr.onmouseenter = () => readout.say(row.label, row.said, name)
    tr.onmouseleave = () => readout.hide()
  }
  return table
}

function plot(panel, choose, readout) {
  const frame = element("div", "plot")
  frame.style.height = `${panel.height}px`
  frame.setAttribute("role", "img")
  frame.setAttribute("aria-label", panel.alt)
  const plane = frame.appendChild(element("div", "plane"))
  const addTick = (axis, side, tick) => {
    const line = plane.appendChild(element("div", `${axis} tick`))
    line.style[side] = percent(tick.at)
    line.appendChild(element("span", "", tick.label))
  }
  for (const tick of panel.y_ticks) addTick("y", "bottom", tick)
  for (const tick of panel.x_ticks) addTick("x", "left", tick)
  const addShape = (className, left, said) => {
    const drawn = plane.appendChild(element("div", className))
    drawn.style.left = percent(left)
    drawn.style.background = panel.colour
    drawn.onmouseenter = () => readout.say(said[0], said.slice(1), drawn)
    drawn.onmouseleave = () => readout.hide()
    return drawn
  }
  for (const box of panel.boxes || []) {
    const drawn = addShape("box", box.from, box.said)
    drawn.style.width = `calc(${percent(box.to - box.from)} - 1px)`
    drawn.style.height = percent(box.height)
  }
  for (const dot of panel.dots || []) {
    const drawn = addShape("dot", dot.x, dot.said)
    drawn.style.bottom = percent(dot.y)
    drawn.dataset.latent = dot.go
    drawn.onclick = () => choose(dot.go)
  }
  if (panel.ring) {
    const drawn = plane.appendChild(element("div", "chosen"))
    drawn.style.left = percent(panel.ring.x)
    drawn.style.bottom = percent(panel.ring.y)
  }
  return frame
}

export default function (component) {
  const { parentElement, data, setTriggerValue } = component
  const root = parentElement.querySelector(".panels")
  const focusAgain = heldFocus(root, "button, a")
  root.replaceChildren()
  const grid = root.appendChild(element("div", "grid"))
  grid.style.setProperty("--columns", data.columns)
  const readout = addReadout(root)
  const choose = (latent) => setTriggerValue("latent", latent)
  for (const panel of data.panels) {
    const box = grid.appendChild(element("section"))
    if (panel.title) box.appendChild(element("h5", "", panel.title))
    if (panel.caption) box.appendChild(element("p", "caption", panel.caption))
    if (panel.y_title) box.appendChild(element("p", "axis", panel.y_title))
    box.appendChild((panel.rows ? bars : plot)(panel, choose, readout))
    if (panel.x_title) box.appendChild(element("p", "axis below", panel.x_title))
  }
  focusAgain()
}
