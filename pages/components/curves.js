// Small curves. What is drawn and where comes in as data: places are shares of the plane.

const SVG = "http://www.w3.org/2000/svg"

function shape(parent, tag, attributes) {
  const made = parent.appendChild(document.createElementNS(SVG, tag))
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  return made
}

const place = (x, y) => `${100 * x},${100 * (1 - y)}`

function drawn(plot, height, readout) {
  const frame = element("div", "plot")
  frame.style.height = `${height}px`
  frame.setAttribute("role", "img")
  frame.setAttribute("aria-label", plot.alt)
  const plane = frame.appendChild(element("div", "plane"))
  const addTick = (axis, side, tick) => {
    const line = plane.appendChild(element("div", `${axis} tick`))
    line.style[side] = `${100 * tick.at}%`
    line.appendChild(element("span", "", tick.label))
  }
  for (const tick of plot.y_ticks) addTick("y", "bottom", tick)
  for (const tick of plot.x_ticks) addTick("x", "left", tick)
  const svg = shape(plane, "svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none" })
  for (const curve of plot.curves) {
    if (curve.low.length) {
      const there = curve.x.map((x, i) => place(x, curve.high[i]))
      const back = curve.x.map((x, i) => place(x, curve.low[i])).reverse()
      shape(svg, "polygon", { points: [...there, ...back].join(" "), fill: curve.colour, "fill-opacity": 0.2 })
    }
    shape(svg, "polyline", {
      points: curve.x.map((x, i) => place(x, curve.y[i])).join(" "), fill: "none", stroke: curve.colour,
      "stroke-width": 2, "vector-effect": "non-scaling-stroke", "stroke-dasharray": curve.dashed ? "5 4" : "none",
    })
  }
  for (const curve of plot.curves) {
    for (const [i, x] of curve.x.entries()) {
      const dot = plane.appendChild(element("div", curve.dashed ? "dot hollow" : "dot"))
      dot.style.left = `${100 * x}%`
      dot.style.bottom = `${100 * curve.y[i]}%`
      dot.style.setProperty("--colour", curve.colour)
      dot.onmouseenter = () => readout.say(curve.name, curve.said[i], dot)
      dot.onmouseleave = () => readout.hide()
    }
  }
  return frame
}

export default function (component) {
  const { parentElement, data } = component
  const root = parentElement.querySelector(".curves")
  root.replaceChildren()
  const grid = root.appendChild(element("div", "grid"))
  grid.style.setProperty("--columns", data.columns)
  const readout = addReadout(root)
  for (const plot of data.plots) {
    const box = grid.appendChild(element("section"))
    if (plot.title) box.appendChild(element("h5", "", plot.title))
    const legend = box.appendChild(element("p", "legend"))
    for (const { name, colour, dashed } of plot.legend) {
      const key = legend.appendChild(element("span", "key"))
      key.appendChild(element("i", dashed ? "dashed" : "")).style.borderColor = colour
      key.appendChild(document.createTextNode(name))
    }
    box.appendChild(element("p", "axis", plot.y_title))
    box.appendChild(drawn(plot, data.height, readout))
    box.appendChild(element("p", "axis below", plot.x_title))
  }
}
