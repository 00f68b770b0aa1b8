"""One journey in a real browser: from the Lab page to a latent's dashboard, and markup that stays text."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.lab import Lab

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE = 300_000  # ms: the first view imports torch, perhaps beside other work

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium here: the browser journey is left out"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(tiny_lab: Lab) -> Iterator[str]:
    """The app, served for the tiny lab."""
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", "pages/app.py", "--server.port", str(port)]
    home = {"MARBLE_HOME": str(tiny_lab.path.parent), "MARBLE_LAB": tiny_lab.name}
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            _wait_until_up(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait_until_up(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(960):
        assert server.poll() is None, "the app ended before it answered"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    raise AssertionError("the app did not answer within four minutes")


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """A page of a fresh browser; any script error fails the test."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        opened = browser.new_page(viewport={"width": 1440, "height": 1800})
        opened.set_default_timeout(PATIENCE)
        failures: list[str] = []
        opened.on("pageerror", lambda error: failures.append(str(error)))
        yield opened
        browser.close()
        assert failures == []


def test_from_the_lab_to_a_latents_dashboard(address: str, page: Any) -> None:
    page.goto(address)
    page.get_by_role("heading", name="Lineage").wait_for()
    page.get_by_role("heading", name="grpo").wait_for()
    page.get_by_role("link", name="sae-sft").click()
    page.get_by_role("heading", name="Features").wait_for()
    number = page.get_by_label("Latent (or choose a row, or click a point)")
    number.fill("5")
    number.press("Enter")
    page.get_by_role("heading", name="Latent 5:").wait_for()
    page.wait_for_url("**latent=5**")
    page.goto(page.url)  # the address alone brings the same view
    page.get_by_role("heading", name="Latent 5:").wait_for()


def test_markup_in_a_prompt_shows_as_text(address: str, page: Any) -> None:
    page.goto(f"{address}/trace?prompt=%3Cimg%20src%3Dx%20onerror%3D%22window.hurt%3D1%22%3E&b=none")
    page.get_by_role("heading", name="Tokens").wait_for()
    tokens = page.get_by_role("group", name="tokens of the prompt")
    assert "onerror" in tokens.get_attribute("aria-label")
    assert "<" in tokens.inner_text()
    assert page.evaluate("window.hurt") is None
    assert page.locator("img[src=x]").count() == 0


HELD = """(() => {
  let held = document.activeElement
  while (held.shadowRoot?.activeElement) held = held.shadowRoot.activeElement
  return held
})"""


def test_a_head_is_chosen_by_keyboard(address: str, page: Any) -> None:
    page.goto(f"{address}/trace?b=none&stage=Attend")
    head = page.get_by_role("button", name="layer 1, head 1")
    head.wait_for()
    head.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**head=1.1**")
    page.get_by_role("heading", name="layer 1, head 1").wait_for()
    page.wait_for_function(f"{HELD}().ariaLabel === 'layer 1, head 1'")  # the keyboard stays


def test_a_position_is_chosen_by_keyboard(address: str, page: Any) -> None:
    """Twice: what was chosen draws the grid anew, and the keyboard goes on from where it was."""
    page.goto(f"{address}/trace?b=none&stage=Predict")
    cell = page.get_by_role("grid").locator("tbody tr").last.locator("td").nth(1)
    cell.focus()
    for place in (1, 2):
        page.keyboard.press("Enter")
        page.wait_for_url(f"**at={place}**")
        page.locator(f"th.at:nth-child({place + 2})").wait_for()
        page.keyboard.press("ArrowRight")


POINT = """() => {
  const plot = document.querySelector('.js-plotly-plot')
  if (!plot?._fullLayout?.xaxis) return null
  plot.scrollIntoView({block: 'center'})
  const trace = plot._fullData[0], layout = plot._fullLayout, box = plot.getBoundingClientRect()
  const at = trace.x.indexOf(Math.max(...trace.x))  // at the rim, where no other point lies on it
  return [box.left + layout.xaxis._offset + layout.xaxis.d2p(trace.x[at]),
          box.top + layout.yaxis._offset + layout.yaxis.d2p(trace.y[at]), trace.customdata[at][0]]
}"""


def test_a_click_on_the_map_shows_its_latent(address: str, page: Any) -> None:
    """The map is drawn from arrays, whose numbers come back in another form than lists'."""
    page.goto(f"{address}/features?dictionary=sae-sft&view=Map&latent=5")
    page.get_by_role("heading", name="Latent 5:").wait_for()
    page.wait_for_function(POINT)
    page.wait_for_timeout(1500)  # pictures above it may still take their height
    x, y, latent = page.evaluate(POINT)
    page.mouse.move(x, y)
    page.wait_for_timeout(300)
    page.mouse.click(x, y)
    page.get_by_role("heading", name=f"Latent {latent}:").wait_for()
    page.wait_for_url(f"**latent={latent}**")


UNDER = """([x, y]) => {
  let found = document.elementFromPoint(x, y)
  while (found.shadowRoot?.elementFromPoint(x, y)) found = found.shadowRoot.elementFromPoint(x, y)
  return found.dataset.latent
}"""


def test_a_click_on_the_curve_of_densities_shows_its_latent(address: str, page: Any) -> None:
    page.goto(f"{address}/features?dictionary=sae-sft&latent=5")
    page.get_by_role("heading", name="Latent 5:").wait_for()
    dot = page.locator(".dot:not([data-latent='5'])").last
    dot.evaluate("dot => dot.scrollIntoView({block: 'center'})")
    page.wait_for_timeout(1000)  # what is above it may still take its height
    box = dot.bounding_box()
    at = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    latent = page.evaluate(UNDER, at)  # where dots overlap, the one on top
    page.mouse.click(*at)
    page.get_by_role("heading", name=f"Latent {latent}:").wait_for()
    page.wait_for_url(f"**latent={latent}**")


def test_a_neighbour_is_chosen_by_keyboard(address: str, page: Any) -> None:
    page.goto(f"{address}/features?dictionary=sae-sft&latent=5")
    near = page.get_by_role("table", name="latents nearest by cosine").get_by_role("button").first
    latent = near.inner_text().split(":")[0]
    near.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=f"Latent {latent}:").wait_for()
    page.wait_for_function(f"{HELD}().tagName === 'BUTTON'")  # the keyboard stays in the list


def test_the_chosen_view_can_be_read_in_the_dark(address: str, page: Any) -> None:
    """Text in the colour of buttons has a contrast below 4.5 on the dark page."""
    page.emulate_media(color_scheme="dark")
    page.goto(f"{address}/features?dictionary=sae-sft")
    chosen = page.get_by_role("radio", name="Dashboard")
    chosen.wait_for()
    assert chosen.evaluate("e => getComputedStyle(e).color") == "rgb(159, 192, 211)"


def test_an_opened_address_is_the_view_that_was_left(address: str, page: Any) -> None:
    """Search, filters, order, view and latent are in the address; the keyboard alone gets there."""
    from playwright.sync_api import expect

    page.goto(f"{address}/features?dictionary=sae-sft")
    search = page.get_by_label("Search", exact=True)
    search.focus()
    page.keyboard.type("the")
    page.keyboard.press("Enter")
    page.wait_for_url("**find=the**")
    page.get_by_role("radio", name="Steer").focus()
    page.keyboard.press("Space")
    page.wait_for_url("**view=Steer**")
    page.get_by_text("Strength, in times its strongest activation").wait_for()
    strength = page.get_by_role("slider").last
    strength.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**strength=2.25**")
    heading = page.get_by_role("heading", name="Latent").first.inner_text()
    page.goto(page.url)
    page.get_by_role("heading", name=heading).wait_for()
    expect(page.get_by_label("Search", exact=True)).to_have_value("the", timeout=PATIENCE)


def test_a_clicked_token_of_an_answer_is_in_the_address(address: str, page: Any) -> None:
    """By mouse, then by keyboard, which keeps its place; a latent behind the token leads to its page."""
    page.goto(f"{address}/compare?view=Answers&ask=What%20is%20the%20capital&ask_a=base&ask_b=sft&joint=5")
    prompt = page.get_by_role("group", name="prompt:")
    prompt.locator(".token").nth(3).click()
    page.wait_for_url("**ask_token=3**")
    prompt.locator(".token.chosen").wait_for()
    prompt.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url("**ask_token=4**")
    page.get_by_role("table", name="what the difference between the streams").get_by_role("link").first.click()
    page.wait_for_url("**/features?*latent=*")
    number = page.url.split("latent=")[1].split("&")[0]
    page.get_by_role("heading", name=f"Latent {number}:").wait_for()
