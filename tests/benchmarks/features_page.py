"""The Features page on a wide dictionary, timed in a browser.

    python -m tests.benchmarks.features_page [--json] [--quick]

Grows a lab with one dictionary of 16,384 latents through the real builders (a small model that was not trained:
what is timed is the page), serves it, and opens it in Chromium. Every figure is taken by a clock inside the
browser and is the median of several rounds, in seconds:

    first_view  from the start of the navigation until heading, table, and the heading and the examples of a
                latent stand; `first_view_all` until all charts do too and the page's script has ended. The
                server has shown the page before and the browser has its files
    search      from Enter in the search field until the sentence about that word stands and the script has
                ended; another word each time
    click       from the press on another row of the table until the heading and the examples of that latent
                stand; `click_all` until its charts do too and the script has ended

The peer is a Streamlit page of one heading: what the frame alone takes on this machine at that time.
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

# Looked at every 10 ms: looking at every frame would have the browser draw frames for the clock alone.
CLOCK = """
window.marble = {
  ready: () => {
    const app = document.querySelector('.stApp');
    return app && app.getAttribute('data-test-script-state') === 'notRunning'
      && !document.querySelector('[data-stale="true"]');
  },
  heading: () => (document.querySelector('h3') || {}).innerText || '',
  until: (start, done) => new Promise(resolve => {
    const look = () => done() ? resolve(performance.now() - start) : setTimeout(look, 10);
    look();
  }),
  stands: () => document.querySelector('[data-testid="stDataFrame"] canvas')
    && marble.heading().startsWith('Latent') && marble.examples(),
  inside: selector => [...document.querySelectorAll('[data-testid^="stBidiComponent"]')]
    .flatMap(e => [e, e.shadowRoot, e.firstElementChild && e.firstElementChild.shadowRoot])
    .filter(root => root && root.querySelector(selector)).length,
  examples: () => marble.inside('.strips .line'),
  drawn: () => marble.stands() && marble.ready() && marble.inside('.panels .bars') >= 2
    && marble.inside('.panels .dot'),
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
def served(script: Path, home: Path, lab: str = "wide") -> Iterator[str]:
    """A Streamlit script on a free port, with a lab of `home` opened."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.port", str(port)]
    environment = os.environ | {"MARBLE_HOME": str(home), "MARBLE_LAB": lab}
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


def first_view(page: Any, address: str) -> tuple[float, float]:
    """Seconds from navigation to a page that can be read, and to one that is whole."""
    page.goto(address, wait_until="commit")
    some, everything = page.evaluate(
        "Promise.all([marble.until(0, () => marble.stands()), marble.until(0, () => marble.drawn())])"
    )
    return some / 1_000, everything / 1_000


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
            const all = marble.until(e.timeStamp, () => changed() && marble.drawn());
            resolve(Promise.all([examples, all]));
          }, {once: true, capture: true}));
        }"""
    )
    box = page.locator('[data-testid="stDataFrame"] canvas').first.bounding_box()
    page.mouse.click(box["x"] + 14, box["y"] + 35 * (row + 1.5))  # the marker before the row
    some, everything = page.evaluate("window.pressed")
    return some / 1_000, everything / 1_000


def rows_to_click(home: Path) -> tuple[list[int], int]:
    """Rows in sight whose latents fire (of others there are no texts to wait for), and a latent further down to
    begin with, so that every click shows another heading."""
    from workbench.feature_query import Query, Searcher
    from workbench.features import FeatureTable
    from workbench.lab import Lab

    found = Searcher(FeatureTable.of(Lab(home / "wide"), DICTIONARY)).find(Query())
    firing = [row for row, n in enumerate(found["max_activation"].head(100)) if n > 0]
    return [row for row in firing if 1 <= row <= 4], int(found["latent"][firing[-1]])


def measure(home: Path, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Medians over `rounds` of our page and of a bare one, after a round that warms server and browser up."""
    from playwright.sync_api import sync_playwright

    names = ("first_view", "first_view_all", "search", "click", "click_all")
    found: dict[str, list[float]] = {name: [] for name in names}
    frame: list[float] = []
    rows, start = rows_to_click(home)
    asked = f"features?dictionary={DICTIONARY}&lab=wide&latent={start}"
    bare = home / "bare.py"
    bare.write_text("import streamlit as st\n\nst.subheader('Latent')\n")
    ours, theirs = served(ROOT / "pages" / "app.py", home), served(bare, home)
    with ours as address, theirs as other, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(300_000)
        page.add_init_script(CLOCK)
        for round_ in range(rounds + 1):
            page.goto(other, wait_until="commit")
            nothing = page.evaluate("marble.until(0, () => marble.heading() && marble.ready())") / 1_000
            seen = first_view(page, f"{address}/{asked}")
            pressed = click(page, rows[round_ % len(rows)])
            took = search(page, WORDS[round_ % len(WORDS)])
            if round_:
                frame.append(nothing)
                for name, value in zip(names, (*seen, took, *pressed), strict=True):
                    found[name].append(value)
            report.say(
                f"round {round_} of {rounds}: first view {seen[0]:.2f} (all {seen[1]:.2f}), search {took:.2f}, "
                f"click {pressed[0]:.2f} (all {pressed[1]:.2f}), a bare page {nothing:.2f} s"
            )
        browser.close()
    medians = {name: statistics.median(values) for name, values in found.items()}
    return medians, {"first_view": statistics.median(frame)}


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
        figures, bare = measure(home, rounds)
    finally:
        if not kept:
            shutil.rmtree(home, ignore_errors=True)
    config = {"n_latents": n_latents, "rounds": rounds, "bounds_s": str(BOUNDS)}
    report.write(
        "features_page",
        [report.Row.of(config, figures, {"bare_streamlit_page": bare}, "first_view")],
        switches.json,
    )


if __name__ == "__main__":
    sys.exit(main())
