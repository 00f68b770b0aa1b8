"""What checkpoints say by themselves: KL on their own samples beside shared text, and how each of them speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, frame, kept, show, theme, words
from workbench.samples import FIGURES, OWN, PROSE, QUESTIONS, SHARED

if TYPE_CHECKING:
    from workbench.comparison import Comparison
    from workbench.samples import Samples

PER_ROW = 4
ROW, HEAD = 22, 74  # pixels of a checkpoint in a panel, and of a panel's title and axis


def view(samples: Samples, comparison: Comparison) -> None:
    """KL on own samples; length, entropy, diversity; accuracy."""
    names = comparison.checkpoints
    frame.caption(
        "Every checkpoint answers the same held-out questions and goes on from the same beginnings of held-out "
        "prose, at temperature 1 with one seed; all of them score what it said. What has no chat form "
        "only goes on from prose. Intervals are of 95 % over samples."
    )
    _kl(samples, comparison)
    st.subheader("How they speak", anchor=False)
    frame.caption(
        "Distinct-n is of equally many tokens of each checkpoint: it falls as a text grows. Its intervals are from "
        "the jackknife. Lengths count the token that ends an answer; no sample has more than 48."
    )
    said = samples.said.filter(pl.col("kind").is_in([QUESTIONS, PROSE]), pl.col("figure") != "accuracy")
    show.chart(
        kept.picture(panels, said),
        "said",
        "length, share ended, entropy and diversity of every checkpoint's samples, by kind of prompt",
        said,
    )
    right = samples.said.filter(pl.col("figure") == "accuracy").with_columns(
        pl.col("kind").replace(QUESTIONS, "all questions")
    )
    if len(right):
        frame.caption("Share of sampled answers that are right, by task; greedy answers are on the Lab page.")
        made = kept.picture(
            charts.dots_with_intervals, right.with_columns(pl.col("kind").map_elements(words.metric, pl.String)),
            "kind", "checkpoint", "value", theme.colours(names), theme.symbols(names), FIGURES["accuracy"],
        )  # fmt: skip
        show.chart(made, "own-accuracy", "share of sampled answers that are right, by task", right)


def _kl(samples: Samples, comparison: Comparison) -> None:
    frame.caption(
        "KL(p‖q) on what p sampled itself, beside the same on held-out text that all share (prose; chats, whose "
        "questions count there too). Where own samples lie higher, the two part most on what p would say."
    )
    table = samples.beside_shared(comparison)
    show.chart(
        kept.picture(kl_dots, table),
        "own-kl",
        "KL of each pair on own samples and on shared text, by kind of prompt",
        table,
    )


def kl_dots(table: pl.DataFrame) -> go.Figure:
    """A row a pair and kind, a dot each for own samples and shared text; logarithmic where no KL is zero."""
    palette = theme.palette()
    made = charts.dots_with_intervals(
        table.with_columns(pl.format("{}, {}", "pair", "kind").alias("row")).sort("kind", maintain_order=True),
        "row",
        "text",
        "kl",
        {OWN: palette.accent, SHARED: palette.muted},
        {OWN: "circle", SHARED: "square-open"},
        "nats per token",
    )
    if (table["kl"] > 0).all():
        made.update_xaxes(type="log")
    return made


def panels(said: pl.DataFrame) -> go.Figure:
    """A panel a figure on an axis of its own; in it a row a kind of prompt, a dot a checkpoint."""
    figures = [name for name in FIGURES if name in set(said["figure"])]
    kinds = said["kind"].unique(maintain_order=True).sort(descending=True).to_list()
    names = said["checkpoint"].unique(maintain_order=True).to_list()
    rows = -(-len(figures) // PER_ROW)
    height = rows * (HEAD + ROW * len(names) * len(kinds)) + HEAD
    made = make_subplots(
        rows, PER_ROW, subplot_titles=[FIGURES[name] for name in figures], shared_yaxes=True,
        vertical_spacing=HEAD / height, horizontal_spacing=0.03,
    )  # fmt: skip
    made.update_layout(charts.figure(height).layout)
    for at, figure in enumerate(figures):
        place = {"row": at // PER_ROW + 1, "col": at % PER_ROW + 1}
        for number, name in enumerate(names):
            shift = (number - (len(names) - 1) / 2) * 0.7 / len(names)
            part = said.filter(pl.col("figure") == figure, pl.col("checkpoint") == name)
            made.add_trace(
                _dots(part, [kinds.index(kind) + shift for kind in part["kind"]], name, at == 0), **place
            )
    made.update_yaxes(
        tickvals=list(range(len(kinds))), ticktext=kinds, range=[len(kinds) - 0.45, -0.55], zeroline=False,
        showgrid=False, fixedrange=True,
    )  # fmt: skip
    made.update_xaxes(rangemode="tozero", nticks=5)
    made.update_annotations(font={"size": 13})
    made.update_layout(
        showlegend=True,
        legend={"orientation": "h", "y": 1 + 40 / height, "yanchor": "bottom", "x": 0},
        margin={"t": 76},
    )
    return made


def _dots(part: pl.DataFrame, places: list[float], name: str, legend: bool) -> go.Scatter:
    """One checkpoint in one panel."""
    colour = theme.colours([name])[name]
    return go.Scatter(
        x=part["value"].to_list(),
        y=places,
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=legend,
        cliponaxis=False,
        marker={"color": colour, "symbol": theme.symbols([name])[name], "size": 9},
        error_x=charts.interval(part, "value", colour, thickness=2),
        customdata=list(zip(part["kind"], part["low"], part["high"], part["n"], strict=True)),
        hovertemplate="%{customdata[0]}: %{x:.3f} (%{customdata[1]:.3f} to %{customdata[2]:.3f}), "
        "n = %{customdata[3]:,}<extra>" + name + "</extra>",
    )
