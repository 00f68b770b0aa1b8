"""The mean difference of two checkpoints' activations: the choice of pair, and how long it is beside noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, difference_effects, difference_words, frame, kept, show, theme

if TYPE_CHECKING:
    from workbench.differences import Differences
    from workbench.lab import Lab

FACETS = {"position": "position {}", "domain": "{}", "kind": "{}"}
ROW = 24  # pixels


def view(lab: Lab, found: Differences) -> None:
    """The chosen pair's mean difference: its length, its words, what it steers, its components."""
    frame.caption(
        "The mean of x_b − x_a, later less earlier stream, over the same held-out tokens: what training wrote "
        "everywhere at once. Narrow finetuning leaves it readable even on text that has nothing to do with it "
        "[Minder 2025]."
    )
    pairs = {f"{a} → {b}": (a, b) for a, b in found.pairs}
    left, right = st.columns(2)
    with left:
        frame.doubted("difference", "pair", list(pairs))
        named = st.selectbox("Difference of", list(pairs), key="difference", bind="query-params", width=360)
    with right:
        frame.doubted("difference_site", "site", found.sites)
        site = st.selectbox("Site", found.sites, key="difference_site", bind="query-params", width=360)
    before, after = pairs[named]
    for sentence in found.sentences(before, after):
        frame.note(f"{named}: {sentence}.")
    if not found.moved(before, after):
        return
    means = found.means.filter(before=before, after=after, site=site)
    show.chart(
        kept.picture(sizes, means, theme.colours([before, after])[after]),
        "difference-size",
        f"length of the mean difference {named} by position, domain and kind of token, beside noise",
        means,
    )
    frame.caption(
        "Dots: ‖δ‖ as a share of the mean ‖x_a‖, with the 95 % interval over documents of the mean along δ. Bars: "
        "what 95 % of means with the signs of whole documents flipped stay below; that counts what documents agree "
        "on as noise, so it is high where there are few of them, as of prose."
    )
    difference_words.view(lab, found, before, after, site)
    difference_effects.steering(found, before, after)
    difference_effects.components(found, before, after)


def sizes(means: pl.DataFrame, colour: str) -> go.Figure:
    """A row a group: the dot with its interval, the null as a bar from 0."""
    rows = means.filter(pl.col("facet").is_in(["all", *FACETS]))
    names = [FACETS.get(f, "{} tokens").format(g) for f, g in rows.select("facet", "group").iter_rows()]
    palette = theme.palette()
    made = charts.figure(80 + ROW * len(names))
    made.add_trace(
        go.Bar(
            x=rows["null_high"].to_list(),
            y=names,
            orientation="h",
            name="noise: flipped signs, 95 %",
            marker={"color": palette.line, "line": {"width": 0}},
            customdata=rows["null"].to_list(),
            hovertemplate="%{y}: noise %{customdata:.4f}, 95 % below %{x:.4f}<extra></extra>",
        )
    )
    made.add_trace(
        go.Scatter(
            x=rows["size"].to_list(),
            y=names,
            mode="markers",
            name="mean difference",
            marker={"color": colour, "size": 9},
            error_x=charts.interval(rows, "size", colour),
            customdata=list(zip(rows["low"], rows["high"], rows["n"], rows["coherence"], strict=True)),
            hovertemplate="%{y}: %{x:.4f} (%{customdata[0]:.4f} to %{customdata[1]:.4f}), n = %{customdata[2]:,} "
            "tokens; %{customdata[3]:.2f} of the mean length of a difference<extra></extra>",
            cliponaxis=False,
        )
    )
    made.update_yaxes(autorange="reversed", showgrid=False, fixedrange=True)
    made.update_xaxes(title="‖δ‖ / mean ‖x_a‖", rangemode="tozero", fixedrange=True)
    made.update_layout(
        bargap=0.45, showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}
    )
    return made
