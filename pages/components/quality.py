"""A dictionary's figures beside its controls, how its decoders crowd, and what other seeds found again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, frame, show, theme, words
from workbench.quality import (
    BY_CHANCE,
    DICTIONARY,
    GAUSSIAN,
    LINEAR,
    LINEAR_K,
    NEURONS,
    PCA,
    RANDOM,
    SEED,
    SEEDS,
    UNTRAINED,
    dead_on_few,
)

if TYPE_CHECKING:
    from workbench.quality import Quality

ORDER = (DICTIONARY, "other seeds", PCA, NEURONS, RANDOM, UNTRAINED, GAUSSIAN, LINEAR, LINEAR_K)
SYMBOLS = (
    "circle",
    "circle-open",
    "x-thin-open",
    "square-open",
    "diamond-open",
    "triangle-up-open",
    "star-open",
    "hourglass-open",
    "bowtie-open",
)
PANELS = (
    ("fvu", "variance unexplained (FVU)"),
    ("ce_score", "loss recovered over zero (CE score)"),
    ("kl", "KL(clean ‖ spliced), nats"),
    ("l0", "latents on per token (L0)"),
    ("dead_share", "latents that never fire"),
    ("shrinkage", "length kept (shrinkage)"),
)
OVERVIEW = PANELS[:2]
ABOUT = {
    PCA: "as many principal components",
    NEURONS: "as many coordinates, the largest",
    RANDOM: "random directions, L0 and scale fitted",
    UNTRAINED: "the same training on the model before its first step, scored there",
    GAUSSIAN: "the same training on Gaussian activations of equal covariance, scored there",
}


ABOUT_TRANSCODERS = ABOUT | {
    PCA: "as many principal components of the output, which they read",
    NEURONS: "as many of the MLP's own neurons, those that write most",
    RANDOM: "random directions in and out, L0 and scale fitted",
    LINEAR: "the best linear map from input to output, which needs no latents",
    LINEAR_K: "the best linear map of as low a rank",
}


def kind(control: str) -> str:
    """A control as the charts group it: all seeds are one."""
    return ORDER[1] if control.startswith(SEED) else control


def look() -> dict[str, tuple[str, str]]:
    """Colour and symbol of each kind of control."""
    palette = theme.palette()
    green, violet, olive, slate = palette.others
    colours = (
        palette.accent,
        palette.accent,
        palette.muted,
        green,
        violet,
        olive,
        palette.ink,
        palette.ink,
        slate,
    )
    return {name: (colours[i], SYMBOLS[i]) for i, name in enumerate(ORDER)}


def overview(judged: Mapping[str, Quality]) -> None:
    """Every judged dictionary, a row a checkpoint it reads."""
    table = pl.concat(
        q.controls.with_columns(pl.lit(name).alias("dictionary"), _label(name)) for name, q in judged.items()
    )
    table = table.filter(pl.col("figure").is_in([figure for figure, _ in OVERVIEW]))
    frame.caption(
        "On held-out tokens, chat markers left out. Bars are 95 % intervals by bootstrap over documents (of the "
        "share of silent latents Wilson's, over latents). The "
        "untrained and Gaussian controls are scored on their own activations and cannot be put into the model."
    )
    rows = table["row"].unique(maintain_order=True).to_list()
    made = _panels(table, OVERVIEW, rows, columns=2, height=150 + 46 * len(rows), legend=True)
    show.chart(made, "overview", "FVU and CE score of every dictionary beside its controls", table.drop("row"))


def _label(name: str) -> pl.Expr:
    """`crosscoder · sft`; the checkpoint alone is in the name of an SAE already."""
    own = pl.lit(name)
    ends = pl.lit(name).str.ends_with(pl.concat_str(pl.lit("-"), pl.col("checkpoint")))
    return (
        pl.when(ends).then(own).otherwise(pl.concat_str(own, pl.lit(" · "), pl.col("checkpoint"))).alias("row")
    )


def figures(found: Quality) -> None:
    """All figures of one dictionary, a row a control."""
    checkpoints = found.controls["checkpoint"].unique(maintain_order=True).to_list()
    checkpoint = checkpoints[0]
    if len(checkpoints) > 1:
        checkpoint = st.selectbox("Checkpoint", checkpoints, key="checkpoint", bind="query-params", width=240)
    table = found.controls.filter(pl.col("checkpoint") == checkpoint)
    rows = [c for c in ORDER if c in {kind(name) for name in table["control"]}]
    shown = table.filter(pl.col("figure").is_in([figure for figure, _ in PANELS]))
    shown = shown.with_columns(pl.col("control").map_elements(kind, return_dtype=pl.String).alias("row"))
    made = _panels(shown, PANELS, rows, columns=3, height=2 * (64 + 27 * len(rows)), legend=False)
    show.chart(made, "figures", f"Figures of {found.dictionary} beside its controls", table)
    about = ABOUT_TRANSCODERS if found.of_transcoder else ABOUT
    said = "; ".join(f"{name}: {text}" for name, text in about.items() if name in rows)
    lacks = "".join(f" There is no {name} control: {reason}." for name, reason in found.missing.items())
    few = dead_on_few(found.figures["tokens"])
    frame.caption(f"{said}.{lacks}" + (f" {few[0].upper()}{few[1:]}." if few else ""))


def _panels(
    table: pl.DataFrame,
    panels: Sequence[tuple[str, str]],
    rows: Sequence[str],
    columns: int,
    height: int,
    legend: bool,
) -> go.Figure:
    """Small charts with rows (`row` of the table) in common: a mark with its interval for each control."""
    lines = -(-len(panels) // columns)
    made = make_subplots(
        lines, columns, shared_yaxes=True, horizontal_spacing=0.035, vertical_spacing=0.16 if lines > 1 else 0,
        subplot_titles=[title for _, title in panels],
    )  # fmt: skip
    made.update_layout(charts.figure(height).layout)
    known = set()
    for at, (figure, title) in enumerate(panels):
        part = table.filter(pl.col("figure") == figure)
        for name in ORDER:
            own = part.filter(pl.col("control").map_elements(kind, return_dtype=pl.String) == name)
            if own.height:
                trace = _marks(own, name, rows, title, 0.1 if legend else 0.0)
                trace.showlegend = name not in known
                known.add(name)
                made.add_trace(trace, at // columns + 1, at % columns + 1)
    made.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[charts.plain(row) for row in rows],
        range=[len(rows) - 0.4, -0.6],
        fixedrange=True,
        automargin=True,
    )
    made.update_xaxes(rangemode="tozero", nticks=5, fixedrange=True)
    for at, (figure, _) in enumerate(panels):
        if figure == "dead_share":  # a hair of silent latents is not drawn as a full axis
            most = max([0.1, *table.filter(pl.col("figure") == figure)["value"]])
            place = {"row": at // columns + 1, "col": at % columns + 1}
            made.update_xaxes(range=[0, 1.05 * most], tickformat=".0%", **place)
    made.update_annotations(font_size=13)
    if legend:
        made.update_layout(
            showlegend=True,
            margin={"t": 74},
            legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "top", "yref": "container"},
        )
    else:
        made.update_layout(showlegend=False, margin={"t": 34})
    return made


def _marks(own: pl.DataFrame, name: str, rows: Sequence[str], title: str, apart: float) -> go.Scatter:
    """The marks of one control; controls that share a row stand `apart`."""
    colour, symbol = look()[name]
    shift = (ORDER.index(name) - (len(ORDER) - 1) / 2) * apart
    bounded = own.with_columns(
        (pl.col("high") - pl.col("value")).fill_null(0.0).alias("more"),
        (pl.col("value") - pl.col("low")).fill_null(0.0).alias("less"),
    )
    return go.Scatter(
        x=bounded["value"].to_list(),
        y=[rows.index(row) + shift for row in bounded["row"]],
        mode="markers",
        name=name,
        legendgroup=name,
        marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 2, "color": colour}},
        cliponaxis=False,
        error_x={
            "type": "data",
            "symmetric": False,
            "array": bounded["more"].to_list(),
            "arrayminus": bounded["less"].to_list(),
            "color": colour,
            "thickness": 2,
            "width": 4,
        },
        customdata=[[charts.plain(r["control"]), _said(r)] for r in own.iter_rows(named=True)],
        hovertemplate="%{customdata[0]}: %{customdata[1]}<extra>" + title + "</extra>",
    )


def _said(row: Mapping[str, Any]) -> str:
    """A value with its interval and what it was counted over."""
    bounds = "" if row["low"] is None else f" ({words.number(row['low'])} to {words.number(row['high'])})"
    return f"{words.number(row['value'])}{bounds}, {row['n']:,} tokens"


def crowding(found: Quality) -> None:
    """Latents that fire for each dimension, and how near their decoders lie to each other."""
    names = found.nearest_shares()["control"].unique(maintain_order=True).to_list()
    alive = [
        (f"alive per dimension, {name}", words.number(found.value(name, "alive_per_dimension")))
        for name in names
    ]
    frame.facts(alive)
    frame.caption(
        "Cosine of each latent's decoder to the nearest other, among latents that fire. Where the Gaussian "
        "control crowds as much, the crowding is of the width chosen, not of the model's features."
    )
    made = _lines(
        found.nearest_shares(), {name: look()[name] for name in names}, "cosine to the nearest decoder"
    )
    table = found.controls.filter(pl.col("figure").is_in(["nearest_cosine", "alive", "alive_per_dimension"]))
    show.chart(made, "crowding", "Cosines to the nearest decoder, beside controls", table)


def stability(found: Quality) -> None:
    """How many latents another seed finds again."""
    n = len([c for c in found.controls["control"].unique() if c.startswith(SEED)])
    frame.caption(
        f"The same training from {n} other starting weights, over the same batches; latents matched one to "
        "one by the cosine of their decoders, beside as many random directions. Bars are 95 % intervals over "
        "latents."
    )
    left, right = st.columns([2, 3], gap="large")
    palette = theme.palette()
    colours = {SEEDS: palette.accent, BY_CHANCE: palette.others[0]}
    symbols = {SEEDS: "circle", BY_CHANCE: "diamond-open"}
    with left:
        table = found.stability.with_columns(pl.col("figure").replace(STABLE))
        made = charts.dots_with_intervals(
            table, "figure", "subject", "value", colours, symbols, "cosine, or share of latents"
        )
        show.chart(
            made, "stability", "Matched cosines between seeds, beside random directions", found.stability
        )
    with right:
        lines = {name: (colours[name], symbols[name]) for name in colours}
        shares = found.matched_shares()
        made = _lines(shares, lines, "cosine to its partner in another seed")
        show.chart(
            made, "matched", "Cosines of matched latents between seeds, beside random directions", shares
        )


DASHES = {RANDOM: "dot", UNTRAINED: "dash", GAUSSIAN: "dashdot"}
STABLE = {"cosine": "mean cosine", "share_0.7": "share at 0.7 or more", "share_0.9": "share at 0.9 or more"}


def _lines(shares: pl.DataFrame, looks: Mapping[str, tuple[str, str]], x_title: str) -> go.Figure:
    """Shares by bin as steps, one line a control."""
    made = charts.figure(260)
    for name, (colour, _) in looks.items():
        own = shares.filter(pl.col("control") == name)
        made.add_trace(
            go.Scatter(
                x=own["edge"].to_list(),
                y=own["share"].to_list(),
                mode="lines",
                name=name,
                line={"color": colour, "width": 2, "shape": "hv", "dash": DASHES.get(name, "solid")},
                hovertemplate="from %{x:.2f}: %{y:.1%}<extra>" + charts.plain(name) + "</extra>",
            )
        )
    made.update_xaxes(title=x_title, range=[0, 1])
    made.update_yaxes(title="share of latents", tickformat=".0%", rangemode="tozero", nticks=5)
    charts.legend_above(made)
    return made
