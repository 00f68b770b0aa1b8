// Attention: a small picture of every head, and one enlarged. Hover or focus a token to see what it looks
// back at. Small pictures come as 8 bits a cell, the opacity that they are painted with; the enlarged head as 16 bits a
// weight, 65535 = 1; both [query][key <= query]. What lies above the diagonal is not small but masked: a token cannot
// look ahead. It is drawn as a grey that no weight has, hatched where enlarged.

const ONE = 65535

function rgb(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))
}

function whole(packed, n) {
  const weights = new packed.constructor(n * n)
  for (let query = 0, from = 0; query < n; from += ++query) {
    weights.set(packed.subarray(from, from + query + 1), query * n)
  }
  return weights
}

function paint(canvas, opacities, n, colour) {
  canvas.width = n
  canvas.height = n
  const context = canvas.getContext("2d")
  const image = context.createImageData(n, n)
  const [r, g, b] = rgb(colour)
  for (let i = 0; i < n * n; i++) {
    const masked = i % n > Math.floor(i / n)
    image.data[4 * i] = masked ? 128 : r
    image.data[4 * i + 1] = masked ? 128 : g
    image.data[4 * i + 2] = masked ? 128 : b
    image.data[4 * i + 3] = masked ? 56 : opacities[i]
  }
  context.putImageData(image, 0, 0)
}

function hatch(canvas, n) {
  const size = 480
  canvas.width = size
  canvas.height = size
  const context = canvas.getContext("2d")
  const cell = size / n
  context.beginPath()
  context.moveTo(cell, 0)
  for (let query = 0; query < n - 1; query++) {
    context.lineTo((query + 1) * cell, (query + 1) * cell)
    context.lineTo((query + 2) * cell, (query + 1) * cell)
  }
  context.lineTo(size, 0)
  context.clip()
  context.strokeStyle = "rgb(128 128 128 / 55%)"
  context.lineWidth = 1.5
  for (let at = -size; at < size; at += 14) {
    context.beginPath()
    context.moveTo(at, size)
    context.lineTo(at + size, 0)
    context.stroke()
  }
}

// The tokens along one side of the matrix; where they are many only some of them, so that they can be read.
function names(tokens, side) {
  const box = element("div", `names ${side}`)
  box.setAttribute("aria-hidden", "true") // the strip beside the matrix says them
  const step = Math.ceil(tokens.length / 20)
  tokens.forEach((token, i) => box.appendChild(element("span", "", i % step ? "" : token)))
  return box
}

function enlarge(box, data, weights, name) {
  box.replaceChildren()
  const n = data.tokens.length
  box.appendChild(element("h4", "", name))
  const flex = box.appendChild(element("div", "enlarged"))
  const left = flex.appendChild(element("div", "left"))
  const labelled = left.appendChild(element("div", "labelled"))
  labelled.appendChild(names(data.tokens, "rows"))
  const stack = labelled.appendChild(element("div", "stack"))
  labelled.appendChild(element("div"))
  labelled.appendChild(names(data.tokens, "columns"))
  const canvas = stack.appendChild(element("canvas", "matrix"))
  hatch(stack.appendChild(element("canvas", "mask")), n)
  left.appendChild(element("p", "key", "rows look at columns; hatched: masked, no token sees those after it"))
  canvas.setAttribute("role", "img")
  canvas.setAttribute("aria-label", `${name}: rows look back at columns, what lies above the diagonal is masked; the tokens beside it say the same in words`)
  // square root: faint looks are seen too
  paint(canvas, Array.from(weights, (weight) => 255 * Math.sqrt(weight / ONE)), n, data.colour)
  const side = flex.appendChild(element("div", "side"))
  const strip = side.appendChild(element("div", "strip"))
  strip.tabIndex = 0
  strip.setAttribute("role", "group")
  strip.setAttribute("aria-label", "tokens; arrow keys move from one to the next")
  const says = side.appendChild(element("p", "says"))
  says.setAttribute("role", "status")
  const spans = data.tokens.map((token) => strip.appendChild(element("span", "token", token)))
  let at = n - 1
  const look = (query) => {
    at = query
    const row = Array.from(weights.slice(query * n, query * n + n))
    spans.forEach((span, key) => {
      const strength = key <= query ? Math.round((70 * row[key]) / ONE) : 0
      span.style.backgroundColor = strength ? `color-mix(in srgb, ${data.colour} ${strength}%, transparent)` : ""
      span.classList.toggle("query", key === query)
      span.classList.toggle("later", key > query)
    })
    const best = row.map((w, key) => [w, key]).sort((a, b) => b[0] - a[0]).slice(0, 3)
    says.replaceChildren(element("b", "", data.tokens[query]), document.createTextNode(" looks back at "))
    best.filter(([w]) => w / ONE >= 0.005).forEach(([w, key], i) => {
      if (i) says.appendChild(document.createTextNode(", "))
      says.appendChild(element("b", "", data.tokens[key]))
      says.appendChild(document.createTextNode(` ${(w / ONE).toFixed(2)}`))
    })
  }
  spans.forEach((span, i) => (span.onmouseenter = () => look(i)))
  strip.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (!step) return
    event.preventDefault()
    look(Math.max(0, Math.min(n - 1, at + step)))
  }
  canvas.onmousemove = (event) => {
    const frame = canvas.getBoundingClientRect()
    look(Math.max(0, Math.min(n - 1, Math.floor((n * (event.clientY - frame.top)) / frame.height))))
  }
  look(at)
}

export default function (component) {
  const { parentElement, data, setTriggerValue } = component
  const root = parentElement.querySelector(".heads")
  const focusAgain = heldFocus(root, "button, .strip")
  root.replaceChildren()
  const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0))
  const n = data.tokens.length
  const side = Math.ceil(n / data.block)
  const size = (side * (side + 1)) / 2
  const small = bytesOf(data.small)
  const opacitiesOf = (layer, head) => {
    const start = (layer * data.n_heads + head) * size
    return whole(small.subarray(start, start + size), side)
  }
  const called = (layer, head) => {
    const named = data.names[`${layer}.${head}`]
    return `layer ${layer}, head ${head}${named ? `: ${named}` : ""}`
  }
  const grid = root.appendChild(element("div", "grid"))
  grid.style.gridTemplateColumns = `1.6rem repeat(${data.n_heads}, minmax(34px, 92px))`
  const box = root.appendChild(element("div", "box"))
  const buttons = []
  const press = (layer, head) => {
    buttons.forEach(([button, l, h]) => button.setAttribute("aria-pressed", String(l === layer && h === head)))
  }
  grid.appendChild(element("span", "layer", ""))
  for (let head = 0; head < data.n_heads; head++) grid.appendChild(element("span", "layer number", `${head}`))
  for (let layer = 0; layer < data.n_layers; layer++) {
    grid.appendChild(element("span", "layer", `${layer}`))
    for (let head = 0; head < data.n_heads; head++) {
      const button = grid.appendChild(element("button"))
      button.setAttribute("aria-label", `layer ${layer}, head ${head}`)
      const named = data.names[`${layer}.${head}`]
      button.title = called(layer, head)
      paint(button.appendChild(element("canvas")), opacitiesOf(layer, head), side, data.colour)
      button.appendChild(element("small", "", named ? named.split(",")[0] : "\u00a0"))
      button.onclick = () => {
        press(layer, head)
        setTriggerValue("head", `${layer}.${head}`) // its weights come with the answer
      }
      buttons.push([button, layer, head])
    }
  }
  press(data.layer, data.head)
  const pattern = new Uint16Array(bytesOf(data.pattern).buffer)
  enlarge(box, data, whole(pattern, n), called(data.layer, data.head))
  focusAgain()
}
