"""The Trace page answering a new prompt, stage by stage, timed in a browser.

    python -m tests.benchmarks.trace_page [--json] [--quick]

Makes a lab of the demo's shape (its weights are random: what is timed is the page), or takes the lab `demo` of the
home in `MARBLE_TRACE_HOME`, serves it, and opens each stage in Chromium with one checkpoint and with two. A round
types a prompt of 64 tokens that was never read before and presses Ctrl+Enter. Figures are medians of the rounds, in
seconds by a clock inside the browser, from that key until every panel of the stage has been drawn anew and the
page's script has ended; the server has loaded the checkpoints and the browser has its files. `worst` is the slowest
round. On a shared machine the clock measures the neighbours too, so the load average is told, and `cpu`, the
processor time that server and browser together took for the answer: what an idle core would take.

The peer is a Streamlit page of one text field that says what was typed: what the frame alone takes.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks import report
from tests.benchmarks.features_page import CLOCK, FLAGS, ROOT, served

TOKENS = 64
BOUNDS = {1: 1.0, 2: 1.5}  # seconds, by the number of checkpoints
STAGES = {  # what each draws, once for each checkpoint or (0) once
    "Tokenize": {".strips .line": 0},
    "Embed": {".strips .line": 0},  # what is nearest stays where the chosen token does
    "Attend": {".heads .matrix": 1},
    "Predict": {".lens table": 1, ".curves polyline": 0},
    "Sample": {".panels .bars": 1},
    "Loop": {".strips .line": 1, ".panels .bars": 1},
}
WORDS = (
    "people government states union peace river window between banana letter summer war public treaty money law "
    "congress senate nation power great country year time men land trade right free service"
).split()
SEEN = """
window.trace = {
  roots: () => [...document.querySelectorAll('[data-testid^="stBidiComponent"]')]
    .flatMap(e => [e, e.shadowRoot, e.firstElementChild && e.firstElementChild.shadowRoot]).filter(Boolean),
  found: selector => [...new Set(trace.roots().flatMap(root => [...root.querySelectorAll(selector)]))],
  mark: wanted => Object.keys(wanted).forEach(s => trace.found(s).forEach(e => { e.markedOld = true })),
  fresh: wanted => Object.entries(wanted).every(([s, n]) => {
    return trace.found(s).filter(e => !e.markedOld).length >= n  // what no prompt changes is not drawn anew
  }),
};
"""
BARE = """import streamlit as st

text = st.text_area("Text", key="prompt")
st.subheader(text or "nothing")
"""


class Case(NamedTuple):
    """A stage with so many checkpoints beside each other."""

    stage: str
    checkpoints: int

    @property
    def wanted(self) -> dict[str, int]:
        """How many of each element it draws."""
        return {selector: max(1, each * self.checkpoints) for selector, each in STAGES[self.stage].items()}

    @property
    def name(self) -> str:
        return f"{self.stage.lower()}_{self.checkpoints}"


def make_lab(home: Path) -> None:
    """Checkpoints of the demo's shape."""
    import dataclasses

    from tests.tiny_lab import make_lab, tiny_recipe
    from workbench.stage_config import ModelConfig, TokenizerConfig

    shape = ModelConfig(n_layers=3, d_model=128, n_heads=4, d_mlp=448, n_ctx=128)
    recipe = dataclasses.replace(tiny_recipe(), model=shape, tokenizer=TokenizerConfig(vocab_size=2048))
    make_lab(home, "demo", recipe, characters=60_000)


def prompts(home: Path, seed: int = 0) -> Iterator[str]:
    """Texts that the lab's tokenizer reads as 64 tokens, BOS included, no two alike."""
    from workbench.checkpoint import Checkpoint
    from workbench.lab import Lab
    from workbench.prompt import read_prompt

    tokenizer, rng = Checkpoint.of(Lab(home / "demo"), "base").tokenizer(), random.Random(seed)
    while True:
        text = ""
        while (n := len(read_prompt(tokenizer, text, 10 * TOKENS).ids)) < TOKENS:
            text = f"{text} {rng.choice(WORDS)}".strip()
        if n == TOKENS:
            yield text


class Took(NamedTuple):
    """Seconds by the browser's clock, and of processors."""

    wall: float
    cpu: float


def spent() -> float:
    """Seconds of processors that everything this process has started (server, browser) has used so far."""
    import psutil

    total = 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += child.cpu_times().user + child.cpu_times().system
    return total


def answered(page: Any, text: str, wanted: dict[str, int]) -> Took:
    """What it takes from Ctrl+Enter to the last panel."""
    field = page.get_by_role("textbox", name="Text", exact=True)
    field.fill(text)
    page.evaluate(
        """wanted => {
          trace.mark(wanted);
          window.took = new Promise(resolve => addEventListener('keydown', e => {
            if (e.key !== 'Enter') return
            resolve(marble.until(e.timeStamp, () => trace.fresh(wanted) && marble.ready()));
          }, {capture: true}));
        }""",
        wanted,
    )
    return _submitted(page, field)


def _submitted(page: Any, field: Any) -> Took:
    before = spent()
    field.press("Control+Enter")
    wall = page.evaluate("window.took") / 1_000
    return Took(wall, spent() - before)


def echoed(page: Any, text: str) -> Took:
    """The same on a bare page."""
    field = page.get_by_role("textbox", name="Text", exact=True)
    field.fill(text)
    page.evaluate(
        """text => {
          window.took = new Promise(resolve => addEventListener('keydown', e => {
            if (e.key !== 'Enter') return
            resolve(marble.until(e.timeStamp, () => marble.heading() === text && marble.ready()));
          }, {capture: true}));
        }""",
        text,
    )
    return _submitted(page, field)


def measure(home: Path, rounds: int) -> tuple[dict[Case, list[Took]], list[Took]]:
    """What every round of each case took, after one that is not counted, and of the bare page."""
    from playwright.sync_api import sync_playwright

    found: dict[Case, list[Took]] = {}
    bare = home / "bare.py"
    bare.write_text(BARE)
    texts = prompts(home)
    ours, theirs = served(ROOT / "pages" / "app.py", home, "demo"), served(bare, home, "demo")
    with ours as address, theirs as other, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 1800})
        page.set_default_timeout(600_000)  # the first page imports torch, perhaps beside much other work
        page.add_init_script(CLOCK)
        page.add_init_script(SEEN)
        for case in (Case(stage, n) for stage in STAGES for n in BOUNDS):
            beside = "sft" if case.checkpoints == 2 else "none"
            page.goto(f"{address}/trace?stage={case.stage}&a=base&b={beside}&lab=demo")
            page.wait_for_function("wanted => trace.fresh(wanted) && marble.ready()", arg=case.wanted)
            found[case] = [answered(page, next(texts), case.wanted) for _ in range(rounds + 1)][1:]
            told = ", ".join(f"{name} {value:.2f}" for name, value in figures(found[case]).items())
            report.say(f"{case.name}: {told}; bound {BOUNDS[case.checkpoints]} s")
        page.goto(other)
        page.wait_for_function("marble.heading() && marble.ready()")
        frame = [echoed(page, next(texts)) for _ in range(rounds + 1)][1:]
        browser.close()
    return found, frame


def figures(took: list[Took]) -> dict[str, float]:
    """Median and worst by the clock, median of processor time."""
    walls = [each.wall for each in took]
    return {
        "median": statistics.median(walls),
        "worst": max(walls),
        "cpu": statistics.median(each.cpu for each in took),
    }


def main() -> None:
    switches = report.parse("The Trace page answering a new prompt of 64 tokens, timed in a browser.")
    if shutil.which("chromium") is None or report.missing("playwright", "psutil"):
        sys.exit("this benchmark needs chromium, playwright and psutil: install them")
    rounds = 5 if switches.quick else 9
    kept = os.environ.get("MARBLE_TRACE_HOME")  # a home that holds the lab `demo` already
    home = Path(kept or tempfile.mkdtemp(prefix="marble-trace-"))
    try:
        if not kept:
            make_lab(home)
        found, frame = measure(home, rounds)
    finally:
        if not kept:
            shutil.rmtree(home, ignore_errors=True)
    bare = figures(frame)
    rows = []
    for case, took in found.items():
        config = {
            "stage": case.stage, "checkpoints": case.checkpoints, "tokens": TOKENS, "rounds": rounds,
            "bound_s": BOUNDS[case.checkpoints], "load": round(os.getloadavg()[0], 1),
        }  # fmt: skip
        rows.append(report.Row.of(config, figures(took), {"bare_streamlit_page": bare}, "median"))
    report.write("trace_page", rows, switches.json)


if __name__ == "__main__":
    sys.exit(main())
