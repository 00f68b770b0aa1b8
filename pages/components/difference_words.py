"""What the mean difference promotes: tokens through both heads, and ranks of the tokens that one expects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, frame, kept, show, theme

if TYPE_CHECKING:
    from workbench.differences import Differences
    from workbench.lab import Lab

ROW = 20  # pixels
READINGS = {
    "plain": "the unembedding of δ with the final norm's gain, its scale left out",
    "at the mean stream": "logits at the mean stream plus δ less logits at the mean stream, final norm and all",
}
SHAPES = ("circle", "x", "diamond", "square")
UNRELATED = "prose, first 5"


def view(lab: Lab, found: Differences, before: str, after: str, site: str) -> None:
    """The words of one group of tokens; ranks by unrelated text."""
    st.subheader("In words", anchor=False)
    lens = found.lens.filter(before=before, after=after, site=site)
    if lens.is_empty():
        frame.note("This site is no residual stream: no head reads it. Choose the last layer.")
        return
    groups = lens.filter(pl.col("facet") != "component")["group"].unique(maintain_order=True).to_list()
    groups.sort(key=lambda name: name != UNRELATED)
    left, right = st.columns(2)
    with left:
        frame.doubted("difference_of", "group of tokens", groups)
        group = st.selectbox("Mean over", groups, key="difference_of", bind="query-params", width=360)
    with right:
        reading = st.radio(
            "Reading", list(READINGS), key="difference_reading", bind="query-params", horizontal=True
        )
    depth = (
        "the model's own head reads it"
        if site == found.figures["last"]
        else "this is a logit lens: what lies above is skipped"
    )
    frame.caption(
        f"{READINGS[reading].capitalize()}, less its mean over the vocabulary, through the head of {before} and of "
        f"{after}. At {site} {depth}."
    )
    table = lens.filter(pl.col("facet") != "component", group=group, reading=reading)
    show.chart(
        kept.picture(tokens, table, (before, after)),
        "difference-words",
        f"tokens that the mean difference {before} → {after} promotes and suppresses, through both heads",
        table,
    )
    _ranks(lab, found, before, after)


def tokens(table: pl.DataFrame, heads: tuple[str, str]) -> go.Figure:
    """A panel a head: promoted tokens on top, suppressed below."""
    made = make_subplots(1, 2, subplot_titles=[f"head of {head}" for head in heads], horizontal_spacing=0.14)
    height = 0
    for column, head in enumerate(heads, 1):
        part = table.filter(head=head)
        part = pl.concat([part.filter(end="promoted"), part.filter(end="suppressed").reverse()])
        places = list(range(part.height))
        height = max(height, part.height)
        names = [charts.plain(token) for token in part["token"]]
        made.add_trace(
            go.Bar(
                x=part["by"].to_list(),
                y=places,
                orientation="h",
                marker={"color": theme.colours(heads)[head], "line": {"width": 0}},
                hovertext=names,
                hovertemplate="%{hovertext}: %{x:+.3f}<extra></extra>",
            ),
            1,
            column,
        )
        made.update_yaxes(
            tickvals=places, ticktext=names, autorange="reversed", showgrid=False, fixedrange=True, col=column
        )
    made.update_layout(charts.figure(90 + ROW * height).layout)
    made.update_yaxes(automargin=True)
    made.update_xaxes(title="added to the logit", fixedrange=True, nticks=6)
    made.update_layout(bargap=0.3, margin={"t": 34})
    return made


def _ranks(lab: Lab, found: Differences, before: str, after: str) -> None:
    from workbench.difference_controls import readouts

    table = readouts(lab, found, before, after)
    if table.is_empty():
        frame.note("No held-out prose, or no token to look for: nothing to rank.")
        return
    st.subheader("On unrelated text", anchor=False)
    frame.caption(
        "Rank of chat markers and of the words that answers begin with, among all tokens by how much δ of the "
        f"first five positions of prose promotes them, plainly at {found.sites[0]} through the head of {after} "
        "(1: most). Crosses: random directions of the same length, their median and 95 % of them. A sham or a "
        "sibling that ranks them as high says that any training would; `compare --controls` adds them."
    )
    show.chart(
        kept.picture(ranks, table, theme.colours([before, after])[after]),
        "difference-ranks",
        f"ranks of expected tokens by the mean difference {before} → {after} on prose, beside controls",
        table,
    )


def ranks(table: pl.DataFrame, colour: str) -> go.Figure:
    """A row a token, in it the difference and its controls; ranks on a logarithmic axis."""
    names = table["series"].unique(maintain_order=True).to_list()
    palette = theme.palette()
    inks = (colour, palette.muted, palette.ink, palette.accent)
    table = table.with_columns(pl.col("token").map_elements(charts.plain, return_dtype=pl.String))
    made = charts.dots_with_intervals(
        table, "token", "series", "rank", dict(zip(names, inks, strict=False)),
        dict(zip(names, SHAPES, strict=False)), "rank among all tokens", from_zero=False,
    )  # fmt: skip
    made.update_xaxes(type="log", fixedrange=True, dtick=1)
    return made
