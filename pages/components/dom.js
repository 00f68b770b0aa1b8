// What the lab's components share. Text goes into the page by textContent only, so markup in it shows as text.

function element(tag, className, text) {
  const made = document.createElement(tag)
  if (className) made.className = className
  if (text !== undefined) made.textContent = text
  return made
}

// A box below what the pointer or the keyboard is on, that says more of it; kept inside `root`.
function addReadout(root) {
  const box = root.appendChild(element("div", "readout"))
  box.setAttribute("role", "status")
  return {
    say(title, lines, beside) {
      box.replaceChildren(element("b", "", title), ...(lines || []).map((line) => element("span", "", line)))
      const frame = root.getBoundingClientRect()
      const at = beside.getClientRects()[0] || beside.getBoundingClientRect()
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

// A choice draws anew: call this before and what it gives back after, and the keyboard stays at its place in `what`.
function heldFocus(root, what) {
  const held = [...root.querySelectorAll(what)].indexOf(root.getRootNode().activeElement)
  return () => root.querySelectorAll(what)[held]?.focus({ preventScroll: true })
}
