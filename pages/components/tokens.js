// Token strips. Hovering a token, or moving along a strip with the arrow keys, says its value; where tokens can be
// chosen, a click or Enter does it.

const CONTEXT = 28 // tokens kept on each side of the peak until the whole text is asked for

function shownText(text) {
  return text.replace(/\n/g, "↵\n").replace(/\t/g, "⇥\t")
}

function called(token) {
  return token.text.replace(/\n/g, "↵") || "∅"
}

function fillStrip(line, strip, colour, readout, whole, choose) {
  line.replaceChildren()
  const n = strip.tokens.length
  const peak = strip.peak ?? 0
  const from = whole || !strip.clip ? 0 : Math.max(0, peak - CONTEXT)
  const to = whole || !strip.clip ? n : Math.min(n, peak + CONTEXT + 1)
  const spans = []
  if (from > 0) line.appendChild(document.createTextNode("… "))
  for (let i = from; i < to; i++) {
    const token = strip.tokens[i]
    const span = element("span", token.special ? "token special" : "token", shownText(token.text))
    if (token.under !== undefined) span.appendChild(element("small", "", token.under))
    const share = (token.value || 0) / (strip.max || 1)
    if (share > 0) {
      const strength = Math.round(8 + 62 * Math.min(1, share))
      span.style.backgroundColor = `color-mix(in srgb, ${token.colour || colour} ${strength}%, transparent)`
    }
    if (strip.peak === i && share > 0) span.classList.add("peak")
    span.onmouseenter = () => readout.say(called(token), token.lines, span)
    span.onmouseleave = () => readout.hide()
    if (strip.chosen === i) span.classList.add("chosen")
    if (choose) span.onclick = () => choose(i)
    spans.push([token, span])
    line.appendChild(span)
  }
  if (to < n) line.appendChild(document.createTextNode(" …"))
  let at = -1
  line.onkeydown = (event) => {
    if (choose && event.key === "Enter" && at >= 0) choose(from + at)
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (event.key === "Escape") readout.hide()
    if (!step || !spans.length) return
    event.preventDefault()
    if (at >= 0) spans[at][1].classList.remove("active")
    const begin = (strip.chosen ?? peak) - from
    at = at < 0 ? Math.max(0, Math.min(spans.length - 1, begin)) : at + step
    at = Math.max(0, Math.min(spans.length - 1, at))
    spans[at][1].classList.add("active")
    readout.say(called(spans[at][0]), spans[at][0].lines, spans[at][1])
  }
  line.onblur = () => {
    if (at >= 0) spans[at][1].classList.remove("active")
    readout.hide()
  }
  return from > 0 || to < n
}

export default function (component) {
  const { parentElement, data, setTriggerValue } = component
  const root = parentElement.querySelector(".strips")
  const focusAgain = heldFocus(root, ".line")
  root.replaceChildren()
  root.classList.toggle("boxed", Boolean(data.boxed))
  root.classList.toggle("choosing", Boolean(data.choosing))
  const readout = addReadout(root)
  for (const [number, strip] of data.strips.entries()) {
    const choose = data.choosing ? (i) => setTriggerValue("token", `${number}.${i}`) : undefined
    const row = element("div", "row")
    if (strip.head) {
      const head = row.appendChild(element("div", "head"))
      for (const [i, text] of strip.head.entries()) head.appendChild(element(i === 0 ? "b" : "span", "", text))
    }
    const line = row.appendChild(element("div", "line"))
    line.tabIndex = 0
    line.setAttribute("role", "group")
    line.setAttribute("aria-label", `${strip.label || "tokens"}: ${strip.tokens.map((t) => t.text).join("")}`)
    if (fillStrip(line, strip, data.colour, readout, false, choose)) {
      const more = row.appendChild(element("button", "", "whole text"))
      let whole = false
      more.onclick = () => {
        whole = !whole
        more.textContent = whole ? "shorter" : "whole text"
        fillStrip(line, strip, data.colour, readout, whole, choose)
      }
    }
    root.insertBefore(row, root.lastChild)
  }
  focusAgain()
}
