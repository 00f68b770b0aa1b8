"""Probe transfer on the page: the matrix of checkpoints, each factor of a chosen pair, and what probes can learn by
heart."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, frame, kept, show, theme, words
from pages.components.drift_weights import scale
from workbench.linear_probes import LEAST_SHARE, MOST_FACTORS, MOST_SHARE
from workbench.probe_transfer import MEAN

if TYPE_CHECKING:
    from workbench.probe_transfer import ProbeTransfer

CELL, HEAD = 64, 120  # pixels of a checkpoint's row, and of titles and axis
PANELS = ("AUROC", "transfer gap: AUROC less that of the probe fitted there")
READ = {"accuracy": "its own factors", "control": "control task", "selectivity": "selectivity"}


def view(found: ProbeTransfer) -> None:
    """Matrix, factors of a pair, selectivity."""
    if not found.known:
        frame.note("No factor of the world is on in enough held-out tokens to fit probes for it.")
        return
    fit, choose, score = (
        f"{n:,} tokens of {d} documents"
        for n, d in zip(found.figures["tokens"], found.figures["documents"], strict=True)
    )
    frame.caption(
        f"A linear probe (logistic regression) for each of {len(found.figures['factors'])} factors of the world, "
        f"fitted on one checkpoint's activations at {found.figures['site']} ({fit}; penalty chosen on {choose}), "
        f"scored on another's at the same tokens of other documents ({score}). A factor counts that is on in "
        f"{words.share(LEAST_SHARE)} to {words.share(MOST_SHARE)} of the tokens; the {MOST_FACTORS} most frequent "
        "are taken. Where the diagonal is high and the rest is low, the factor is there and is written otherwise. "
        "The transfer gap is below zero by what a probe loses on the way."
    )
    names = found.figures["checkpoints"]
    means = found.means.drop("factor", "task", "positives")
    show.chart(
        kept.picture(matrix, means, names),
        "probe-matrix",
        "AUROC and transfer gap of probes fitted on one checkpoint and scored on another, mean over factors",
        means,
    )
    _factors(found, names)
    _selectivity(found, names)


def _factors(found: ProbeTransfer, names: list[str]) -> None:
    st.subheader("Factor by factor", anchor=False)
    pairs = {f"{a} → {b}": (a, b) for a, b in itertools.permutations(names, 2)}
    frame.doubted("probes", "pair", list(pairs))
    named = st.selectbox("Fitted on and scored on", list(pairs), key="probes", bind="query-params", width=240)
    fitted, scored = pairs[str(named)]
    frame.caption(
        f"AUROC on {scored}, 95 % intervals over documents; 0.5 is chance. The control task [Hewitt and Liang "
        "2019] labels word types at random, as many tokens as the factor has: it is what a probe knows of a token "
        "from the word alone."
    )
    below = found.below_control(scored)
    if below:
        frame.note(
            f"Below the control task even on {scored} itself (marked ▼): {', '.join(below)}. The control task is "
            "told by the word alone, which a stream holds well. A factor that hangs on the text before a token, "
            "the same words standing inside and outside of it (a question, an answer), can be harder to tell for a "
            "linear probe at this site than a word."
        )
    table = found.of_pair(fitted, scored).with_columns(
        factor=pl.when(pl.col("factor").is_in(below)).then(pl.format("▼ {}", "factor")).otherwise("factor")
    )
    said = f"AUROC on {scored} of probes fitted on {fitted} and on {scored} itself, factor by factor"
    show.chart(kept.picture(factors, table, scored), "probe-factors", said, table)


def _selectivity(found: ProbeTransfer, names: list[str]) -> None:
    st.subheader("Read, or learnt by heart?", anchor=False)
    frame.caption(
        "Balanced accuracy of each checkpoint's own probes, mean over factors, and on the control tasks of "
        "the same factors; 0.5 is chance. Selectivity is the first less the second."
    )
    rows = found.probes.filter(pl.col("factor") == MEAN)
    table = pl.concat(
        rows.select(
            pl.lit(said).alias("figure"), "checkpoint", pl.col(name).alias("value"),
            pl.col(f"{name}_low").alias("low"), pl.col(f"{name}_high").alias("high"), "n",
        )
        for name, said in READ.items()
    )  # fmt: skip
    made = kept.picture(
        charts.dots_with_intervals,
        table, "figure", "checkpoint", "value", theme.colours(names), theme.symbols(names), "balanced accuracy",
    )  # fmt: skip
    show.chart(made, "probe-selectivity", "accuracy, control task and selectivity of each checkpoint", table)


def matrix(means: pl.DataFrame, names: list[str]) -> go.Figure:
    """Two squares: rows are what is fitted on, columns what is scored on."""
    made = make_subplots(1, len(PANELS), subplot_titles=PANELS, horizontal_spacing=0.16)
    made.update_layout(charts.figure(HEAD + CELL * len(names)).layout)
    cells = {(row["fitted"], row["scored"]): row for row in means.iter_rows(named=True)}
    empty, full = (colour for _, colour in scale())
    ends = {"auroc": (0.5, 1.0, empty, full), "gap": (-0.5, 0.0, full, empty)}  # full: told; full: all is lost
    for column, (figure, (low, high, *colours)) in enumerate(ends.items(), 1):
        grid = [[cells[i, j] for j in names] for i in names]
        made.add_trace(
            go.Heatmap(
                z=[[cell[figure] for cell in row] for row in grid],
                x=names,
                y=names,
                zmin=low,
                zmax=high,
                colorscale=list(enumerate(colours)),
                showscale=False,
                text=[[_said(cell, figure) for cell in row] for row in grid],
                texttemplate="%{text}",
                textfont={"color": theme.palette().ink},
                hovertemplate="fitted on %{y}, scored on %{x}:<br>%{text}<extra></extra>",
                xgap=2,
                ygap=2,
            ),
            1,
            column,
        )
    made.update_yaxes(title="fitted on", autorange="reversed", showgrid=False, fixedrange=True)
    made.update_xaxes(title="scored on", showgrid=False, fixedrange=True)
    made.update_layout(margin={"t": 40})
    return made


def _said(cell: dict[str, float], figure: str) -> str:
    """A figure over its interval; what rounds to zero has no sign."""
    value, low, high = (f"{round(cell[f'{figure}{end}'], 3) + 0.0:.3f}" for end in ("", "_low", "_high"))
    return f"{value}<br>{low} to {high}"


def factors(table: pl.DataFrame, scored: str) -> go.Figure:
    """A row a factor: probes of the other, of the checkpoint itself, and of the control task."""
    palette = theme.palette()
    own, *_ = (by for by in table["by"] if by.endswith("itself"))
    looks = {
        by: (palette.muted, "x-thin-open") if by.startswith("control")
        else (theme.colours([scored])[scored], "circle-open") if by == own
        else (palette.accent, "circle")
        for by in table["by"].unique(maintain_order=True)
    }  # fmt: skip
    colours = {by: colour for by, (colour, _) in looks.items()}
    symbols = {by: symbol for by, (_, symbol) in looks.items()}
    made = charts.dots_with_intervals(
        table, "factor", "by", "auroc", colours, symbols, "AUROC", from_zero=False
    )
    made.add_vline(x=0.5, line={"color": palette.muted, "width": 1, "dash": "dot"})
    made.update_traces(marker_line_width=2, selector={"marker.symbol": "x-thin-open"})
    return made
