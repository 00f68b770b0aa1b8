// The lineage tree: a card per checkpoint, columns by depth, lines from parent to child.
// Names and figures come in as data and are set with textContent.

const SVG = "http://www.w3.org/2000/svg"

// A bar of `value` on a track that ends at `max` (1 unless told), with an interval and marks upon it.
function bar(figure, colour) {
  const place = (value) => `${100 * Math.max(0, Math.min(1, value / (figure.max ?? 1)))}%`
  const track = element("div", "track")
  const fill = element("div", "fill")
  fill.style.width = place(figure.value)
  fill.style.background = colour
  track.appendChild(fill)
  if (figure.low !== undefined) {
    const whisker = element("div", "whisker")
    whisker.style.left = place(figure.low)
    whisker.style.width = `max(4px, ${place(figure.high - figure.low)})`
    track.appendChild(whisker)
  }
  for (const mark of figure.marks || []) {
    const tick = element("div", "tick")
    tick.style.left = place(mark.value)
    track.appendChild(tick)
  }
  return track
}

function card(node) {
  const made = element("article", `card ${node.state}`)
  made.style.setProperty("--stage", node.colour)
  const title = element("h3")
  title.appendChild(element("i"))
  title.appendChild(element("span", "", node.name))
  made.appendChild(title)
  made.appendChild(element("p", "line", node.line))
  const list = element("dl")
  for (const figure of node.figures) {
    const row = element("div", "figure")
    row.appendChild(element("dt", "", figure.label))
    row.appendChild(element("dd", "", figure.text))
    if (figure.value !== undefined) row.appendChild(bar(figure, node.colour))
    if (figure.marks) {
      row.appendChild(element("div", "marks", figure.marks.map((m) => m.label).join(" · ")))
    }
    list.appendChild(row)
  }
  made.appendChild(list)
  if (node.link) {
    const link = element("a", "", "Trace it")
    link.href = node.link
    link.target = "_self"
    link.setAttribute("aria-label", `Trace ${node.name}`)
    made.appendChild(link)
  }
  return made
}

function drawLines(tree, svg, cards, nodes) {
  const frame = tree.getBoundingClientRect()
  svg.replaceChildren()
  svg.setAttribute("width", tree.scrollWidth)
  svg.setAttribute("height", tree.scrollHeight)
  for (const node of nodes) {
    const child = cards.get(node.name)
    const parent = cards.get(node.parent)
    if (!child || !parent) continue
    const a = parent.getBoundingClientRect()
    const b = child.getBoundingClientRect()
    const path = document.createElementNS(SVG, "path")
    const [x0, y0] = [a.right - frame.left + tree.scrollLeft, a.top - frame.top + 30]
    const [x1, y1] = [b.left - frame.left + tree.scrollLeft, b.top - frame.top + 30]
    const middle = (x0 + x1) / 2
    path.setAttribute("d", `M${x0} ${y0} C${middle} ${y0} ${middle} ${y1} ${x1} ${y1}`)
    path.setAttribute("class", node.state === "done" ? "grown" : "planned")
    svg.appendChild(path)
  }
}

export default function (component) {
  const { parentElement, data } = component
  const tree = parentElement.querySelector(".tree")
  tree.replaceChildren()
  const svg = document.createElementNS(SVG, "svg")
  svg.setAttribute("aria-hidden", "true")
  tree.appendChild(svg)
  const columns = new Map()
  const cards = new Map()
  for (const node of data.nodes) {
    if (!columns.has(node.depth)) columns.set(node.depth, tree.appendChild(element("div", "column")))
    const made = card(node)
    cards.set(node.name, made)
    columns.get(node.depth).appendChild(made)
  }
  const draw = () => drawLines(tree, svg, cards, data.nodes)
  draw()
  const watcher = new ResizeObserver(draw)
  watcher.observe(tree)
  return () => watcher.disconnect()
}
