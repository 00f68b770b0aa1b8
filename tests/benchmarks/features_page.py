"""The Features page on a wide dictionary, timed in a browser.

    python -m tests.benchmarks.features_page [--json] [--quick]

Grows a lab with one dictionary of 16,384 latents through the real builders (a small model that was not trained:
what is timed is the page), serves it, and opens it in Chromium. Every figure is taken by a clock inside the
browser and is the median of several rounds, in seconds:

    first_view  from the start of the navigation until heading, table, examples and both kinds of chart stand
                and the page's script has ended; the server has shown the page before, the browser has its cache
    search      from Enter in the search field until the sentence about that word stands and the script has
                ended; another word each time
    click       from the press on another row of the table until the heading and the examples of that latent
                stand; `click_all` until its charts do too and the script has ended

"""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks import report

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
BOUNDS = {"first_view": 1.0, "search": 1.0, "click": 0.5}  # seconds
DICTIONARY = "sae-sft"
WORDS = ("river", "window", "apple", "between", "banana", "summer", "green", "letter", "tree", "little")

# Looked at once a frame, so that the clock adds at most one frame to what it times.
CLOCK = """
window.marble = {
  ready: () => {
    const app = document.querySelector('.stApp');
    return app && app.getAttribute('data-test-script-state') === 'notRunning'
      && !document.querySelector('[data-stale="true"]');
  },
  heading: () => (document.querySelector('h3') || {}).innerText || '',
  until: (start, done) => new Promise(resolve => {
    const look = () => done() ? resolve(performance.now() - start) : requestAnimationFrame(look);
    look();
  }),
  drawn: () => document.querySelector('[data-testid="stDataFrame"] canvas')
    && document.querySelectorAll('.js-plotly-plot .main-svg').length >= 4
    && document.querySelector('.js-plotly-plot .gl-container canvas')
    && marble.heading().startsWith('Latent') && marble.examples(),
  examples: () => [...document.querySelectorAll(
    '[data-testid="stBidiComponentRegular"], [data-testid="stBidiComponentIsolated"]')]
    .some(e => ((e.shadowRoot || e).textContent || (e.firstElementChild && e.firstElementChild.shadowRoot
      && e.firstElementChild.shadowRoot.textContent) || '').length > 20),
};
"""


def make_lab(home: Path, n_latents: int) -> None:
    """A lab with one wide SAE and enough held-out text for most latents to have a dozen examples."""
    from tests.tiny_lab import build, tiny_recipe
    from tests.tiny_lab import make_lab as small_lab

    recipe, replace = tiny_recipe(), dataclasses.replace
    quick = n_latents < 16_384
    sae = next(d for d in recipe.dictionaries if d.name == DICTIONARY)
    wide = replace(
        recipe,
        model=replace(recipe.model, d_model=64, n_heads=4),
        activations=replace(recipe.activations, heldout_tokens=15_000 if quick else 120_000),
        dictionaries=(replace(sae, d_sae=n_latents, k=16, steps=40, batch_size=512),),
        comparisons=(),
    )
    build(small_lab(home, "wide", wide, characters=60_000 if quick else 500_000), f"features/{DICTIONARY}")


@contextmanager
def served(home: Path) -> Iterator[str]:
    """The app on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "streamlit", "run", "pages/app.py", "--server.port", str(port)]
    environment = os.environ | {"MARBLE_HOME": str(home), "MARBLE_LAB": "wide"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **quiet) as server:
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.25)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def first_view(page: Any, address: str) -> float:
    """Seconds from navigation to a page that is whole."""
    page.goto(address, wait_until="commit")
    return page.evaluate("marble.until(0, () => marble.drawn() && marble.ready())") / 1_000


def search(page: Any, word: str) -> float:
    """Seconds from Enter to the sentence about `word`."""
    field = page.get_by_role("textbox", name="Search", exact=True)
    field.fill(word)
    page.evaluate(
        """word => {
          window.searched = new Promise(resolve => addEventListener('keydown', e => {
            const said = () => [...document.querySelectorAll('.marble-note')]
              .some(p => p.innerText.includes('“' + word + '”') || p.innerText.startsWith('No latent matches'));
            resolve(marble.until(e.timeStamp, () => said() && marble.ready()));
          }, {once: true, capture: true}));
        }""",
        word,
    )
    field.press("Enter")
    return page.evaluate("window.searched") / 1_000


def click(page: Any, row: int) -> tuple[float, float]:
    """Seconds from the press on a row to the heading and examples of its latent, and to all of it."""
    page.evaluate(
        """() => {
          const before = marble.heading();
          window.pressed = new Promise(resolve => addEventListener('pointerdown', e => {
            const changed = () => marble.heading() !== before && marble.heading().startsWith('Latent');
            const examples = marble.until(e.timeStamp, () => changed() && marble.examples());
            const all = marble.until(e.timeStamp, () => changed() && marble.drawn() && marble.ready());
            resolve(Promise.all([examples, all]));
          }, {once: true, capture: true}));
        }"""
    )
    box = page.locator('[data-testid="stDataFrame"] canvas').first.bounding_box()
    page.mouse.click(box["x"] + 14, box["y"] + 35 * (row + 1.5))  # the marker before the row
    some, everything = page.evaluate("window.pressed")
    return some / 1_000, everything / 1_000


def measure(home: Path, rounds: int) -> dict[str, float]:
    """Medians over `rounds`, after one round that warms server and browser up."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {name: [] for name in ("first_view", "search", "click", "click_all")}
    with served(home) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 1800})
        page.set_default_timeout(300_000)
        page.add_init_script(CLOCK)
        for round_ in range(rounds + 1):
            seen = first_view(page, f"{address}/features?dictionary={DICTIONARY}&lab=wide")
            pressed, whole = click(page, 1 + round_ % 9)
            took = search(page, WORDS[round_ % len(WORDS)])
            if round_:
                for name, value in zip(found, (seen, took, pressed, whole), strict=True):
                    found[name].append(value)
            report.say(
                f"round {round_} of {rounds}: first view {seen:.2f}, search {took:.2f}, "
                f"click {pressed:.2f}, all of it {whole:.2f} s"
            )
        browser.close()
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    switches = report.parse("The Features page on 16,384 latents, timed in a browser.")
    if shutil.which("chromium") is None or report.missing("playwright"):
        sys.exit("this benchmark needs chromium and the Python package playwright: install both")
    n_latents, rounds = (2_048, 3) if switches.quick else (16_384, 7)
    kept = os.environ.get("MARBLE_WIDE_HOME")  # a home that holds the lab `wide` already
    home = Path(kept or tempfile.mkdtemp(prefix="marble-wide-"))
    try:
        if not kept:
            report.say(f"growing a lab with {n_latents:,} latents")
            make_lab(home, n_latents)
        figures = measure(home, rounds)
    finally:
        if not kept:
            shutil.rmtree(home, ignore_errors=True)
    config = {"n_latents": n_latents, "rounds": rounds, "bounds_s": str(BOUNDS)}
    report.write("features_page", [report.Row(config, figures, {}, {})], switches.json)


if __name__ == "__main__":
    sys.exit(main())
