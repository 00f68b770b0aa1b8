"""A dictionary against the world's factors: who follows them, what is absorbed or split, what clamps do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, frame, glossary, show, theme
from workbench.truth import LATENTS, METRICS, NEURONS, PCA, POOLS, RANDOM_DENSE, RANDOM_SPARSE, SAID, sentence

if TYPE_CHECKING:
    from workbench.truth import Truth

SYMBOLS = {
    LATENTS: "circle",
    NEURONS: "square-open",
    PCA: "x-thin-open",
    RANDOM_DENSE: "diamond-open",
    RANDOM_SPARSE: "triangle-up-open",
}


def view(found: Truth) -> None:
    """All of one dictionary's ground truth."""
    levels = found.levels()
    counts = sorted(levels["candidates"].unique())
    chosen = counts[0]
    if len(counts) > 1:
        chosen = st.selectbox(
            "Candidates of each pool", counts, key="candidates", bind="query-params", width=240,
            help=glossary.WORDS["candidates"],
        )  # fmt: skip
    frame.caption(
        "Means over factors; the unit and its threshold are chosen on one half of the documents and scored on "
        "the other. Bars are 95 % intervals over documents, the dotted line is chance."
    )
    table = levels.filter(pl.col("candidates") == chosen)
    alt = f"AUROC, AP and F1 of {found.dictionary}'s latents beside neurons, PCA and random, {chosen} each"
    show.chart(_pools(table, found), "truth-pools", alt, table)
    with st.expander("All of it in words, at every number of candidates"):
        frame.note(sentence(found.figures))
    left, right = st.columns(2, gap="large")
    with left:
        _structure(found)
    with right:
        _causal(found)


def _pools(table: pl.DataFrame, found: Truth) -> go.Figure:
    """A panel a metric, a row a pool."""
    palette = theme.palette()
    others = (palette.others[0], palette.muted, palette.others[1], palette.others[2])
    colours = {LATENTS: palette.accent} | dict(zip(POOLS[1:], others, strict=True))
    rows = [pool for pool in POOLS if pool in set(table["pool"])]
    panels = [metric for metric in METRICS if metric in set(table["metric"])]
    titles = [METRICS[metric] for metric in panels]
    made = make_subplots(1, len(panels), shared_yaxes=True, horizontal_spacing=0.035, subplot_titles=titles)
    made.update_layout(charts.figure(90 + 32 * len(rows)).layout)
    for at, metric in enumerate(panels, start=1):
        for row in table.filter(pl.col("metric") == metric).iter_rows(named=True):
            made.add_trace(_mark(row, rows.index(row["pool"]), colours[row["pool"]]), 1, at)
        chance = found.figures["chance"][metric.removeprefix("unit_")]
        made.add_vline(x=chance, line={"color": palette.muted, "width": 1.5, "dash": "dot"}, row=1, col=at)
    names = [SAID[pool].removeprefix("the ").removeprefix("a ") for pool in rows]
    made.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=names, range=[len(rows) - 0.5, -0.5], fixedrange=True
    )
    made.update_xaxes(nticks=5, fixedrange=True)
    made.update_annotations(font_size=13)
    made.update_layout(margin={"t": 34})
    return made


def _mark(row: Mapping[str, Any], place: int, colour: str) -> go.Scatter:
    return go.Scatter(
        x=[row["mean"]],
        y=[place],
        mode="markers",
        marker={
            "color": colour,
            "symbol": SYMBOLS[row["pool"]],
            "size": 10,
            "line": {"width": 2, "color": colour},
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [row["high"] - row["mean"]],
            "arrayminus": [row["mean"] - row["low"]],
            "color": colour,
            "thickness": 2,
            "width": 5,
        },
        hovertemplate=f"%{{x:.3f}} ({row['low']:.3f} to {row['high']:.3f})<extra>{SAID[row['pool']]}</extra>",
    )


def _structure(found: Truth) -> None:
    """Shares absorbed, split and composed, beside the random dictionary's."""
    st.subheader("Absorbed, split, composed", anchor=False)
    table = found.structure()
    if table["n"].sum() == 0:
        frame.caption("No parent has a latent of its own, and no factor is split.")
        return
    palette = theme.palette()
    names = {SAID[LATENTS]: palette.accent, SAID[RANDOM_SPARSE]: palette.others[2]}
    symbols = {SAID[LATENTS]: SYMBOLS[LATENTS], SAID[RANDOM_SPARSE]: SYMBOLS[RANDOM_SPARSE]}
    made = charts.dots_with_intervals(table, "figure", "pool", "value", names, symbols, "share")
    show.chart(made, "structure", f"Shares absorbed, split and composed in {found.dictionary}", table)
    frame.caption(
        "Absorbed: of a child's tokens, those where its latent stands in for the silent latent of its parent. "
        "Split: factors that take several latents. Composed: latents that follow two factors together better "
        "than one. Bars are 95 % Wilson intervals; tokens of a document are not independent, so the first is "
        "wider in truth."
    )


def _causal(found: Truth) -> None:
    """The other answer's probability under each clamp, beside random latents and the two ceilings."""
    st.subheader("Does it act as the factor?", anchor=False)
    table = found.clamped()
    if not table.height:
        frame.caption("Nothing was clamped: no text is gone on with rightly whose factors have latents.")
        return
    palette = theme.palette()
    series = table["series"].unique(maintain_order=True).to_list()
    ring = (palette.muted, palette.accent, palette.others[2], palette.others[0], palette.ink)
    marks = ("line-ns-open", "circle", "triangle-up-open", "square-open", "diamond-open")
    colours, symbols = dict(zip(series, ring, strict=True)), dict(zip(series, marks, strict=True))
    made = charts.dots_with_intervals(
        table, "group", "series", "value", colours, symbols, "probability of the other answer"
    )
    show.chart(made, "causal", f"What clamping {found.dictionary}'s best latents does", table)
    frame.caption(
        "The best latents of a factor and of another one are swapped; all latents, and all that stands "
        "there, show what any edit at this place could do. Bars are 95 % intervals over texts."
    )
