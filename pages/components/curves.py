"""Small curves, a few beside each other, drawn by one light component: a page of plotly figures costs the browser
half a second, these a few dozen elements. Every curve has dots to hover, a band where it has a spread, and a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import streamlit as st

from pages.components import theme
from pages.components.panels import ticks

if TYPE_CHECKING:
    import polars as pl

_component = st.components.v2.component(
    "marble_curves",
    html='<div class="curves"></div>',
    css=theme.source("curves.css", "readout.css"),
    js=theme.source("dom.js", "curves.js"),
)


class Curve(NamedTuple):
    """One line: a value, and what is said on hover, for each x; `low` and `high` where it has a spread."""

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    said: Sequence[Sequence[str]]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False


class Axis(NamedTuple):
    """`marks`: where ticks stand and what they say (round numbers unless told); `low` and `high` widen it."""

    title: str
    log: bool = False
    marks: Sequence[tuple[float, str]] = ()
    low: float | None = None
    high: float | None = None
    downwards: bool = False


class Plot(NamedTuple):
    """A picture, what it is for those who do not see it, and the table of what it shows."""

    title: str
    alt: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    table: pl.DataFrame


def draw(plots: Sequence[Plot], key: str, columns: int = 1, height: int = 190) -> None:
    """Draw `plots`, `columns` beside each other where there is room, with their tables below."""
    _component(key=key, data={"plots": [_plot(plot) for plot in plots], "columns": columns, "height": height})
    with st.expander("The same as tables", key=f"{key}-twin", on_change="rerun") as unfolded:
        if unfolded.open:
            for i, plot in enumerate(plots):
                st.caption(plot.title or plot.alt)
                st.dataframe(plot.table, key=f"{key}-table-{i}", hide_index=True)


def _plot(plot: Plot) -> dict[str, Any]:
    across = _Scale.of(plot.x, [x for curve in plot.curves for x in curve.x])
    up = _Scale.of(plot.y, [y for curve in plot.curves for y in (*curve.y, *curve.low, *curve.high)])
    named = {curve.name: (curve.colour, curve.dashed) for curve in plot.curves}
    return {
        "title": plot.title,
        "alt": plot.alt,
        "x_title": plot.x.title,
        "y_title": plot.y.title,
        "x_ticks": across.ticks(plot.x),
        "y_ticks": up.ticks(plot.y),
        "legend": [{"name": n, "colour": c, "dashed": d} for n, (c, d) in named.items()],
        "curves": [
            {
                "name": curve.name,
                "colour": curve.colour,
                "dashed": curve.dashed,
                "x": [across.at(x) for x in curve.x],
                "y": [up.at(y) for y in curve.y],
                "low": [up.at(y) for y in curve.low],
                "high": [up.at(y) for y in curve.high],
                "said": [list(lines) for lines in curve.said],
            }
            for curve in plot.curves
        ],
    }


class _Scale(NamedTuple):
    """Where a value stands between the ends of its axis, 0 to 1."""

    low: float
    high: float
    log: bool
    downwards: bool

    @classmethod
    def of(cls, axis: Axis, values: Sequence[float]) -> _Scale:
        ends = [v for v in (*values, *(m for m, _ in axis.marks), axis.low, axis.high) if v is not None]
        low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
        if high == low:
            low, high = (low / 2, high * 2) if axis.log else (low, low + 1)
        return cls(low, high, axis.log, axis.downwards)

    def at(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low)
        return round(1 - share if self.downwards else share, 5)

    def ticks(self, axis: Axis) -> list[dict[str, Any]]:
        marks = axis.marks or [(t, f"{t:.4g}") for t in (self._decades() if self.log else self._round())]
        return [{"at": self.at(value), "label": label} for value, label in marks]

    def _round(self) -> list[float]:
        return ticks(self.low, self.high, 4)

    def _decades(self) -> list[float]:
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5)):
            found = [f * 10.0**e for e in exponents for f in factors if self.low <= f * 10.0**e <= self.high]
            if len(found) >= 3:
                break
        return found
