// Token strips. Text goes into the page by textContent only, so markup in a text shows as text.
// Hovering a token, or moving along a strip with the arrow keys, says its value.

const CONTEXT = 28 // tokens kept on each side of the peak until the whole text is asked for

function shownText(text) {
  return text.replace(/\n/g, "↵\n").replace(/\t/g, "⇥\t")
}

function addReadout(root) {
  const box = document.createElement("div")
  box.className = "readout"
  box.setAttribute("role", "status")
  root.appendChild(box)
  return {
    say(token, span) {
      box.replaceChildren()
      const word = document.createElement("b")
      word.textContent = token.text.replace(/\n/g, "↵") || "∅"
      box.appendChild(word)
      for (const line of token.lines || []) {
        const row = document.createElement("span")
        row.textContent = line
        box.appendChild(row)
      }
      const frame = root.getBoundingClientRect()
      const at = span.getClientRects()[0] || span.getBoundingClientRect()
      box.style.display = "flex"
      const left = Math.max(0, Math.min(at.left - frame.left, frame.width - box.offsetWidth))
      box.style.left = `${left}px`
      box.style.top = `${at.bottom - frame.top + 6}px`
    },
    hide() {
      box.style.display = "none"
    },
  }
}

function fillStrip(line, strip, colour, readout, whole) {
  line.replaceChildren()
  const n = strip.tokens.length
  const peak = strip.peak ?? 0
  const from = whole || !strip.clip ? 0 : Math.max(0, peak - CONTEXT)
  const to = whole || !strip.clip ? n : Math.min(n, peak + CONTEXT + 1)
  const spans = []
  if (from > 0) line.appendChild(document.createTextNode("… "))
  for (let i = from; i < to; i++) {
    const token = strip.tokens[i]
    const span = document.createElement("span")
    span.className = token.special ? "token special" : "token"
    span.textContent = shownText(token.text)
    if (token.under !== undefined) {
      const under = document.createElement("small")
      under.textContent = token.under
      span.appendChild(under)
    }
    const share = (token.value || 0) / (strip.max || 1)
    if (share > 0) {
      const strength = Math.round(8 + 62 * Math.min(1, share))
      span.style.backgroundColor = `color-mix(in srgb, ${token.colour || colour} ${strength}%, transparent)`
    }
    if (strip.peak === i && share > 0) span.classList.add("peak")
    span.onmouseenter = () => readout.say(token, span)
    span.onmouseleave = () => readout.hide()
    spans.push([token, span])
    line.appendChild(span)
  }
  if (to < n) line.appendChild(document.createTextNode(" …"))
  let at = -1
  line.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (event.key === "Escape") readout.hide()
    if (!step || !spans.length) return
    event.preventDefault()
    if (at >= 0) spans[at][1].classList.remove("active")
    at = at < 0 ? Math.max(0, Math.min(spans.length - 1, peak - from)) : at + step
    at = Math.max(0, Math.min(spans.length - 1, at))
    spans[at][1].classList.add("active")
    readout.say(spans[at][0], spans[at][1])
  }
  line.onblur = () => {
    if (at >= 0) spans[at][1].classList.remove("active")
    readout.hide()
  }
  return from > 0 || to < n
}

export default function (component) {
  const { parentElement, data } = component
  const root = parentElement.querySelector(".strips")
  root.replaceChildren()
  root.classList.toggle("boxed", Boolean(data.boxed))
  const readout = addReadout(root)
  for (const strip of data.strips) {
    const row = document.createElement("div")
    row.className = "row"
    if (strip.head) {
      const head = document.createElement("div")
      head.className = "head"
      for (const [i, text] of strip.head.entries()) {
        const part = document.createElement(i === 0 ? "b" : "span")
        part.textContent = text
        head.appendChild(part)
      }
      row.appendChild(head)
    }
    const line = document.createElement("div")
    line.className = "line"
    line.tabIndex = 0
    line.setAttribute("role", "group")
    line.setAttribute("aria-label", `${strip.label || "tokens"}: ${strip.tokens.map((t) => t.text).join("")}`)
    row.appendChild(line)
    if (fillStrip(line, strip, data.colour, readout, false)) {
      const more = document.createElement("button")
      more.textContent = "whole text"
      let whole = false
      more.onclick = () => {
        whole = !whole
        more.textContent = whole ? "shorter" : "whole text"
        fillStrip(line, strip, data.colour, readout, whole)
      }
      row.appendChild(more)
    }
    root.insertBefore(row, root.lastChild)
  }
}
