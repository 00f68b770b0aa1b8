"""How far weights moved: a map of layers and kinds for each pair of checkpoints."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, frame, kept, show, theme, words

if TYPE_CHECKING:
    from workbench.drift import Drift

OUTSIDE = "outside of layers"
CELL, HEAD = 30, 110  # pixels of a row, and of titles and axis
PER_ROW = 3


class Reading(NamedTuple):
    """A figure of weights: its column, what it is called, what it says, the ends of its scale (None: as found)."""

    column: str
    title: str
    says: str
    ends: tuple[float, float] | None


READINGS = {
    r.title: r
    for r in (
        Reading("moved", "moved", "‖ΔW‖ / ‖W‖: how far a matrix moved, in lengths of its own", None),
        Reading("cosine", "cosine", "cosine between the matrix before and after: 1 is no turn", None),
        Reading(
            "rank_share", "effective rank",
            "effective rank of ΔW over the largest it could have: near 0, the update is a few directions; near 1, "
            "it is spread over all", (0, 1),
        ),
        Reading("top_energy", "energy in 8 directions", "share of ‖ΔW‖² in its 8 largest directions", (0, 1)),
        Reading("unchanged", "unchanged", "share of numbers that are the same, as stored", (0, 1)),
        Reading(
            "unchanged_bfloat16", "unchanged in bfloat16",
            "share of numbers that are the same after a cast to bfloat16: what such a checkpoint would not show",
            (0, 1),
        ),
    )
}  # fmt: skip


def view(drift: Drift, checkpoints: Sequence[str]) -> None:
    """Totals, the choice of a figure, a map a pair."""
    pairs = list(itertools.combinations(checkpoints, 2))
    totals = [(f"{a} → {b}", words.number(drift.figures["moved"][f"{a}|{b}"])) for a, b in pairs]
    frame.facts(totals)
    frame.caption(
        "‖ΔW‖ / ‖W‖ over all weights together. The maps have it, and more, by layer and kind of matrix."
    )
    for a, b in pairs:
        if missing := drift.figures["apart"][f"{a}|{b}"]:
            frame.note(f"{len(missing)} parameters of {a} and {b} differ in name or shape and are left out.")
    title = st.pills(
        "Figure", list(READINGS), default="moved", key="weights", bind="query-params", required=True
    )
    reading = READINGS[title or "moved"]
    frame.caption(f"{reading.says}. Hollow cells: vectors have no rank, and an update of zero has none.")
    table = drift.weights.with_columns(rank_share=pl.col("effective_rank") / pl.col("largest_rank"))
    alt = f"{reading.title} of every matrix, by layer and kind, for each pair of checkpoints"
    shown = table.select("before", "after", "parameter", "layer", "kind", "n", reading.column)
    show.chart(kept.picture(drawn, table, pairs, reading), "weights-map", alt, shown)


def drawn(table: pl.DataFrame, pairs: Sequence[tuple[str, str]], reading: Reading) -> go.Figure:
    """Heat maps beside each other on one scale: rows are kinds, columns layers."""
    kinds = table["kind"].unique(maintain_order=True).to_list()
    layers = [*sorted(layer for layer in table["layer"].unique() if layer is not None), None]
    columns = min(PER_ROW, len(pairs))
    rows = -(-len(pairs) // columns)
    height = rows * (HEAD + CELL * len(kinds))
    titles = [f"{a} → {b}" for a, b in pairs]
    made = make_subplots(
        rows, columns, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03, vertical_spacing=0.12
    )
    made.update_layout(charts.figure(height).layout)
    known = table[reading.column].drop_nulls()
    low, high = reading.ends or ((known.min(), known.max()) if len(known) else (0, 1))
    for at, (a, b) in enumerate(pairs):
        part = table.filter(pl.col("before") == a, pl.col("after") == b)
        cells = {(r["kind"], r["layer"]): r for r in part.iter_rows(named=True)}
        grid = [[_value(cells.get((kind, layer)), reading) for layer in layers] for kind in kinds]
        made.add_trace(
            go.Heatmap(
                z=grid,
                x=[OUTSIDE if layer is None else f"layer {layer}" for layer in layers],
                y=kinds,
                zmin=low,
                zmax=high,
                colorscale=scale(),
                showscale=at == 0,
                colorbar={"title": reading.title, "thickness": 12},
                texttemplate="%{z:.2g}" if len(layers) <= 8 else None,
                textfont={"color": theme.palette().ink},
                hovertemplate="%{y}, %{x}: %{z:.4g}<extra>" + f"{a} → {b}" + "</extra>",
                hoverongaps=False,
                xgap=2,
                ygap=2,
            ),
            at // columns + 1,
            at % columns + 1,
        )
    made.update_yaxes(autorange="reversed", showgrid=False, fixedrange=True, automargin=True)
    made.update_xaxes(showgrid=False, fixedrange=True, automargin=True)
    made.update_layout(margin={"t": 40})
    return made


def _value(row: dict[str, float] | None, reading: Reading) -> float | None:
    return None if row is None else row[reading.column]


def scale() -> list[tuple[float, str]]:
    """From the page's own colour to a tint of the accent: nothing is nothing in either theme."""
    palette = theme.palette()
    return [(0.0, palette.panel), (1.0, palette.tint)]
