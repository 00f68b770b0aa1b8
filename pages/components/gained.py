"""What carries a stage's gain on the page: accuracy by dose in both directions, how few latents it takes, what
the same does elsewhere; links to the latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, frame, kept, show, theme, words
from pages.components.kl_carriers import address
from workbench.gains import MATCHED, MATCHED_MEANS, OFF, ON, PARENT, SAID, SET, STAGE, WHOLE

if TYPE_CHECKING:
    from workbench.comparison import Comparison
    from workbench.gains import Gains, Gap
    from workbench.lab import Lab

HEIGHT = 330
NAMES = {"swap": "swap decoders", "amplify": "amplify", "difference": "SAE of the difference"}
WAYS = {ON: "switched on in", OFF: "switched off in"}


def view(lab: Lab, gains: Gains, comparison: Comparison) -> None:
    """Choice of the gain and of how latents are switched; the pictures."""
    if not gains.gaps:
        frame.note(f"There is no gain to explain here: {gains.sentences()[0]}.")
        return
    named = {f"{gap.stage}: {words.metric(gap.task)}": gap for gap in gains.gaps}
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        said = st.selectbox("Gain", list(named), key="gain", bind="query-params")
    gap = named[said]
    with right:
        mover = st.segmented_control(
            "Latents are switched by", gains.movers(gap), default=gains.movers(gap)[0], required=True,
            key="switched", bind="query-params", format_func=NAMES.__getitem__,
        )  # fmt: skip
    chosen = gains.set_of(gap, mover)
    frame.note(f"{gains.sentence(gap, mover)}.")
    frame.caption(
        f"How: {SAID[mover]}. The latents are ordered by what each adds to log p of {gap.stage}'s answers, on "
        "other questions than those shown; the set is the fewest that do four fifths of what the best number does. "
        f"{MATCHED_MEANS} Dose ×1 is the switch itself, ×3 three times as much. Bars are 95 % Wilson intervals."
    )
    if mover != "difference":
        frame.links("The set:", [(str(j), address(lab.name, comparison.dictionary, j)) for j in chosen[:24]])
    for column, way in zip(st.columns(2, gap="large"), (ON, OFF), strict=True):
        with column:
            st.subheader(f"{WAYS[way].capitalize()} {gap.parent if way == ON else gap.stage}", anchor=False)
            rows = gains.of_gap(gains.answers, gap, mover).filter(pl.col("way") == way)
            made = kept.picture(doses, rows, gains.unmoved(gap), gap, way)
            show.chart(made, f"dose-{way}", f"accuracy on {gap.task} by dose, {WAYS[way]}", rows)
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("How few it takes", anchor=False)
        rows = gains.of_gap(gains.curve, gap, mover)
        if rows.is_empty():
            frame.caption(
                "More of a latent leaves the way between the two checkpoints: no share of it is closed."
            )
        else:
            show.chart(
                kept.picture(few, rows), "few", "share of the gap in log p that the first latents close", rows
            )
    with right:
        st.subheader("What else moves", anchor=False)
        rows = gains.of_gap(gains.spill, gap, mover)
        if rows.is_empty():
            frame.caption("Not asked of the SAE of the difference: choose another way of switching.")
            return
        show.chart(kept.picture(elsewhere, rows, gap), "elsewhere", "other tasks before and after", rows)


def doses(rows: pl.DataFrame, plain: dict[tuple[str, str], dict[str, Any]], gap: Gap, way: str) -> go.Figure:
    """Accuracy of the moved model by dose, the set's and its controls'; what stands there unmoved as lines."""
    palette, stages = theme.palette(), theme.colours([gap.parent, gap.stage])
    made = charts.figure(HEIGHT)
    own = gap.parent if way == ON else gap.stage
    doses_ = rows["dose"].unique().sort().to_list()
    start = plain[way, PARENT if way == ON else STAGE]
    for name in (SET, MATCHED):
        part = rows.filter(pl.col("latents") == name).sort("dose")
        points = [(0.0, start["accuracy"], start["low"], start["high"]), *part.select(
            "dose", "accuracy", "low", "high").iter_rows()]  # fmt: skip
        dose, value, low, high = (list(column) for column in zip(*points, strict=True))
        colour = palette.accent if name == SET else palette.muted
        made.add_trace(
            go.Scatter(
                x=dose, y=value, mode="lines+markers", name="the set" if name == SET else "matched latents",
                line={"color": colour, "width": 2, "dash": "solid" if name == SET else "dot"},
                marker={"size": 8, "symbol": "circle" if name == SET else "x-thin-open"},
                error_y={
                    "type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": colour,
                    "array": [h - v for h, v in zip(high, value, strict=True)],
                    "arrayminus": [v - b for v, b in zip(value, low, strict=True)],
                },
                hovertemplate="×%{x:g}: %{y:.3f}<extra>" + name + "</extra>",
            )
        )  # fmt: skip
    other = gap.stage if way == ON else gap.parent
    marks = {own: (start["accuracy"], stages[own])}
    marks[other] = (plain[OFF if way == ON else ON, STAGE if way == ON else PARENT]["accuracy"], stages[other])
    marks[f"{other}'s whole stream"] = (plain[way, WHOLE]["accuracy"], palette.ink)
    for name, (height, colour) in marks.items():
        made.add_hline(
            y=height, line={"color": colour, "width": 1, "dash": "dash"}, annotation_text=charts.plain(name),
            annotation_position="top right" if name == own else "bottom right", annotation_font_color=colour,
        )  # fmt: skip
    made.update_xaxes(title="dose", tickvals=[0, *doses_], range=[-0.15, 1.35 * max(doses_)])  # room for names
    made.update_yaxes(title="accuracy", rangemode="tozero")
    charts.legend_above(made)
    return made


def few(rows: pl.DataFrame) -> go.Figure:
    """Share of the gap in log p that the first n latents close, both ways, beside as many matched."""
    palette = theme.palette()
    made = charts.figure(HEIGHT)
    for way in (ON, OFF):
        for latents in (SET, MATCHED):
            part = rows.filter(pl.col("way") == way, pl.col("latents") == latents).sort("size")
            colour = palette.muted if latents == MATCHED else palette.accent if way == ON else palette.alarm
            made.add_trace(
                go.Scatter(
                    x=part["size"].to_list(), y=part["recovered"].to_list(), mode="lines+markers",
                    name=f"{way}{', matched' if latents == MATCHED else ''}",
                    line={"color": colour, "width": 2, "dash": "solid" if latents == SET else "dot"},
                    marker={"symbol": "circle" if way == ON else "diamond", "size": 7},
                    error_y=charts.interval(part, "recovered", colour, thickness=1, width=3),
                    hovertemplate="%{x} latents: %{y:.3f}<extra></extra>",
                )
            )  # fmt: skip
    made.update_xaxes(title="latents, foremost first", type="log")
    made.update_yaxes(title="share of the gap in log p closed")
    charts.legend_above(made)
    return made


def elsewhere(rows: pl.DataFrame, gap: Gap) -> go.Figure:
    """Accuracy on the other tasks with the set switched, beside what it was."""
    tasks = rows.filter(pl.col("on") != "all")
    named = tasks.with_columns(
        pl.format("{} ×{}", pl.col("way"), pl.col("dose").cast(pl.Int64)).alias("switched"),
        pl.col("on").map_elements(words.metric, return_dtype=pl.String).alias("task"),
    )
    before = named.select(
        pl.format("before, {}", pl.when(pl.col("way") == ON).then(pl.lit(gap.parent)).otherwise(pl.lit(gap.stage)))
        .alias("switched"),
        "task", pl.col("before").alias("after"), pl.col("before").alias("low"), pl.col("before").alias("high"), "n",
    ).unique(maintain_order=True)  # fmt: skip
    drawn = pl.concat([before, named.select(before.columns)])
    names, palette = drawn["switched"].unique(maintain_order=True).to_list(), theme.palette()
    colours = {name: palette.muted if name.startswith("before") else palette.accent for name in names}
    colours |= {name: palette.alarm for name in names if name.startswith(OFF)}
    symbols = dict(
        zip(names, ("circle-open", "square-open", "circle", "diamond", "square", "cross"), strict=False)
    )
    return charts.dots_with_intervals(drawn, "task", "switched", "after", colours, symbols, "accuracy")
