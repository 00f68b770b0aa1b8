"""Small pictures of one latent, many at once: bars, a histogram, a curve of dots, drawn by one light component.

A dashboard has nine such pictures. As plotly figures they took three quarters of the page's script, and the
browser a second for plotly alone; these are a few hundred elements. Larger pictures stay plotly's (`charts`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import streamlit as st

from pages.components import theme

if TYPE_CHECKING:
    import polars as pl

_component = st.components.v2.component(
    "marble_panels",
    html='<div class="panels"></div>',
    css=theme.source("panels.css", "readout.css"),
    js=theme.source("dom.js", "panels.js"),
)
FEW = 10  # a logarithmic axis of counts below has no tick to read them by
RING, TICK = "ring", "tick-mark"


class Mark(TypedDict):
    """A sign on a bar: `RING` or `TICK` at a value."""

    symbol: str
    value: float


class Row(TypedDict, total=False):
    """One bar: from zero to `value`, `text` at its end, `said` on hover, `go` the latent that a click chooses,
    `link` the page that its name leads to."""

    label: str
    value: float
    text: str
    colour: str
    marks: list[Mark]
    said: list[str]
    go: int
    link: str


class Panel(NamedTuple):
    """A picture, what it is (`alt`, for those who do not see it), and the table of what it shows."""

    drawn: dict[str, Any]
    alt: str
    table: pl.DataFrame
    title: str = ""
    caption: str = ""


def draw(panels: Sequence[Panel], key: str, columns: int = 1, chooser: str | None = None) -> None:
    """Draw `panels`, `columns` beside each other where there is room; what is clicked goes to widget `chooser`."""
    if not panels:
        return

    def choose() -> None:
        if chooser is not None and (latent := st.session_state[key].get("latent")) is not None:
            st.session_state[chooser] = int(latent)

    data = [{"title": p.title, "caption": p.caption, "alt": p.alt, **p.drawn} for p in panels]
    _component(key=key, data={"panels": data, "columns": columns}, on_latent_change=choose)
    with st.expander("The same as tables", key=f"{key}-twin", on_change="rerun") as unfolded:
        if unfolded.open:
            for i, panel in enumerate(panels):
                st.caption(panel.title or panel.alt)
                st.dataframe(panel.table, key=f"{key}-table-{i}", hide_index=True)


def bars(
    rows: Sequence[Row],
    x_title: str,
    low: float | None = None,
    high: float | None = None,
    rule: float | None = None,
) -> dict[str, Any]:
    """Horizontal bars, the first on top, on an axis from `low` to `high` (told, or what holds zero and all bars); a
    dotted line at `rule`."""
    values = [row["value"] for row in rows]
    ends = (min([0.0, *values]) if low is None else low, max([0.0, *values]) if high is None else high)
    drawn = {
        "rows": list(rows),
        "x_title": x_title,
        "low": ends[0],
        "high": ends[1] if ends[1] > ends[0] else 1.0,
    }
    return drawn if rule is None else drawn | {"rule": rule}


def histogram(edges: Sequence[float], counts: Sequence[int], colour: str, x_title: str) -> dict[str, Any]:
    """Counts between edges; the axis of counts is logarithmic, since activations have long tails, but not where all
    counts are below ten."""
    low, high, top = edges[0], edges[-1], max(counts)
    width = high - low or 1.0

    def height(count: float) -> float:
        if not count:
            return 0.0
        # the logarithmic axis begins at one half, so that one token is seen
        return count / top if top < FEW else math.log(2 * count) / math.log(2 * top)

    marks = ticks(0, top, 4) if top < FEW else [10.0**e for e in range(math.floor(math.log10(top)) + 1)]
    boxes = [
        {
            "from": (a - low) / width,
            "to": (b - low) / width,
            "height": height(n),
            "said": [f"{n:,} tokens", f"{a:.3g} to {b:.3g}"],
        }
        for (a, b), n in zip(itertools.pairwise(edges), counts, strict=True)
        if n
    ]
    return {
        "height": 190,
        "colour": colour,
        "x_title": x_title,
        "y_title": "tokens",
        "boxes": boxes,
        "x_ticks": [{"at": (t - low) / width, "label": f"{t:.4g}"} for t in ticks(low, high, 4)],
        "y_ticks": [{"at": height(t), "label": f"{t:,.0f}"} for t in marks],
    }


def ticks(low: float, high: float, about: int) -> list[float]:
    """About so many round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(f for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]
