"""Separately trained SAEs matched, on the page: how well, which latent with which, who has no counterpart."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, frame, kept, latent, show, store, theme, transferred
from pages.components.kl_carriers import address
from workbench.matching import BOUNDS, FLOOR, KINDS, MATCHED_BY, OTHER, SAME

if TYPE_CHECKING:
    from workbench.lab import Lab
    from workbench.matching import Matched

SERIES = ("matched", "chance", OTHER, FLOOR)
SHOWN = 24  # links
COLUMNS = {
    "latent": "latent",
    "label": "label",
    "fires": "tokens it fires on",
    "cosine": "nearest cosine",
    "correlation": "nearest correlation",
    "seed_correlation": "nearest correlation in another seed",
}


class Couple(NamedTuple):
    """Two SAEs that are looked at, and what their assignment maximises."""

    kind: str
    a: str
    b: str
    by: str


def view(lab: Lab, found: Matched) -> Couple:
    """Transfer matrix; choice of two SAEs and how well they match; latents without counterpart. The choice."""
    frame.caption(
        "Each checkpoint has an SAE of its own. Latents are matched one to one, by the cosine of their decoders, "
        "by the correlation of their activations on the same held-out tokens, or by the mean of both; chance is "
        "the same with one side's decoders rotated and its tokens shuffled within their domain, for the first two. "
        f"A pair counts as alike from cosine {BOUNDS['cosine']:g} or correlation {BOUNDS['correlation']:g} on "
        "(dotted lines)."
    )
    frame.note(f"{found.seed_sentence(lab.name)}.")
    st.subheader("What an SAE is worth on another checkpoint", anchor=False)
    transferred.view(found)
    st.subheader("Which latent is which", anchor=False)
    chosen = _chosen(found)
    frame.note(f"{found.pair_sentence(*chosen)}.")
    frame.caption(
        "Intervals (95 %): of the mean correlation over blocks of documents, of the mean cosine over pairs, of "
        "shares Wilson's over latents. Curves: the share of pairs at or above each value."
    )
    table = found.distributions(chosen.a, chosen.b, chosen.by)
    show.chart(
        kept.picture(distributions, table), "matched-shares",
        f"matched cosines and correlations of {chosen.a} and {chosen.b}, beside chance and two seeds", table,
    )  # fmt: skip
    st.subheader("Without counterpart", anchor=False)
    _without(lab, found)
    return chosen


def _chosen(found: Matched) -> Couple:
    named = {f"{a} · {b} ({kind})": (kind, a, b) for kind in KINDS for a, b in found.couples(kind)}
    left, right = st.columns([3, 2], vertical_alignment="bottom", gap="large")
    with left:
        frame.doubted("matched", "pair of SAEs", list(named))
        said = st.selectbox("Matched", list(named), key="matched", bind="query-params")
    with right:
        by = st.segmented_control(
            "By the",
            [*BOUNDS, MATCHED_BY],
            default=MATCHED_BY,
            required=True,
            key="matched_by",
            bind="query-params",
        )
    return Couple(*named[said], by)


def distributions(table: pl.DataFrame) -> go.Figure:
    """Cosines at the left, correlations at the right; a step line a series."""
    made = make_subplots(1, len(BOUNDS), horizontal_spacing=0.07)
    made.update_layout(charts.figure(300).layout)
    palette = theme.palette()
    colours = (palette.accent, palette.muted, palette.others[1], palette.alarm)
    looks = dict(zip(SERIES, zip(colours, ("solid", "dot", "dashdot", "dash"), strict=True), strict=True))
    for column, (figure, bound) in enumerate(BOUNDS.items(), 1):
        for name, (colour, dash) in looks.items():
            own = table.filter(figure=figure, series=name)
            if own["n"].sum() == 0:
                continue
            made.add_trace(
                go.Scatter(
                    x=own["edge"].to_list(), y=own["share"].to_list(), mode="lines", name=name, legendgroup=name,
                    showlegend=column == 1, line={"color": colour, "width": 2, "shape": "hv", "dash": dash},
                    hovertemplate="%{x:.2f} or more: %{y:.1%}<extra>" + name + "</extra>",
                ),
                1, column,
            )  # fmt: skip
        made.add_vline(x=bound, line={"color": palette.muted, "width": 1, "dash": "dot"}, col=column)
        made.update_xaxes(title=f"{figure} of matched latents", col=column)
    made.update_yaxes(tickformat=".0%", range=[0, 1.02], nticks=6)
    made.update_yaxes(title="share of pairs at that or more", col=1)
    charts.legend_above(made)
    return made


def pairs(lab: Lab, found: Matched, couple: Couple) -> None:
    """The scatter, and the two latents of the chosen pair side by side. A neighbour that is clicked in the second
    dashboard opens the pair that it belongs to."""
    _, a, b, by = couple
    st.subheader("Pair by pair", anchor=False)
    rows = found.pairs.filter(a=a, b=b, by=by)
    numbers = rows["latent_a"].to_list()
    clicked = rows.filter(latent_b=st.session_state.pop("matched_other", -1))
    if clicked.height:
        st.session_state["matched_latent"] = clicked["latent_a"][0]
    start = rows.sort("correlation", descending=True)["latent_a"][0]
    left, right = st.columns([5, 2], gap="large")
    with right:
        wanted = int(
            st.number_input(
                f"Latent of {a} (or click a point)",
                0,
                max(numbers),
                start,
                key="matched_latent",
                bind="query-params",
            )
        )
        frame.caption("Dotted lines: from there two latents count as counterparts.")
    with left:
        show.clickable(
            scatter(rows, wanted), "matched-pairs", f"cosine against correlation of the pairs of {a} and {b}", rows,
            "matched_latent",
        )  # fmt: skip
    chosen = rows.filter(latent_a=wanted)
    if chosen.is_empty():
        frame.note(f"Latent {wanted} of {a} fires too rarely, or is left over: it has no partner in {b}.")
        return
    partner = chosen["latent_b"][0]
    shown = ((a, wanted, "matched_latent"), (b, partner, "matched_other"))
    for column, (name, number, chooser) in zip(st.columns(2, gap="large"), shown, strict=True):
        with column:
            table = store.features(lab, name)
            colour = theme.colours(table.checkpoints)[table.checkpoints[0]]
            frame.name_tag(name, colour)
            latent.dashboard(
                store.dashboard(lab, name, number), colour, f"matched-{name}", chooser, narrow=True
            )


def scatter(rows: pl.DataFrame, chosen: int) -> go.Figure:
    """A point a pair; the chosen one ringed."""
    made, palette = charts.figure(420), theme.palette()
    trace = go.Scattergl if rows.height > charts.WEBGL_ABOVE else go.Scatter
    made.add_trace(
        trace(
            x=rows["cosine"].to_list(), y=rows["correlation"].to_list(), mode="markers",
            marker={"color": palette.accent, "size": 6, "opacity": 0.5},
            customdata=list(rows.select("latent_a", "latent_b").iter_rows()),
            hovertemplate="%{customdata[0]} and %{customdata[1]}: cosine %{x:.2f}, correlation %{y:.2f}"
            "<extra></extra>",
        )
    )  # fmt: skip
    own = rows.filter(latent_a=chosen)
    ring = {"size": 18, "symbol": "circle-open", "color": palette.ink, "line": {"width": 2.5}}
    spot = {"x": own["cosine"].to_list(), "y": own["correlation"].to_list()}
    made.add_trace(go.Scatter(**spot, mode="markers", marker=ring, hoverinfo="skip"))
    made.add_vline(x=BOUNDS["cosine"], line={"color": palette.muted, "width": 1, "dash": "dot"})
    made.add_hline(y=BOUNDS["correlation"], line={"color": palette.muted, "width": 1, "dash": "dot"})
    made.update_xaxes(title="cosine of the decoders")
    made.update_yaxes(title="correlation of the activations")
    return made


def _without(lab: Lab, found: Matched) -> None:
    """Latents that no latent of the other SAE comes near, of the later SAE first."""
    couples = found.couples(SAME)
    named = {f"of {b}, none in {a}": (a, b) for a, b in couples} | {
        f"of {a}, none in {b}": (b, a) for a, b in couples
    }
    said = st.selectbox("Latents", list(named), key="without", bind="query-params", width=420)
    other, own = named[said]
    frame.note(f"{found.alone_sentence(other, own)}.")
    again = found.floor_without(own) is not None
    order = (
        "Those that another seed of the same checkpoint has too come first, as candidates for something that "
        "training added; the rest may be accidents of the SAE."
        if again
        else "The most frequent come first. Which of them are accidents of the SAE, another seed would tell."
    )
    frame.caption(
        f"None of the other's latents has a decoder with cosine {BOUNDS['cosine']:g} or activations with "
        f"correlation {BOUNDS['correlation']:g}: the nearest is asked, whoever else wants it. Above, each latent "
        "has one partner of its own and correlation alone is counted: the two shares need not add up to one. "
        + order
    )
    rows = found.unmatched.filter(own=own, other=other)
    if rows.is_empty():
        return
    frame.links("Open:", [(str(j), address(lab.name, own, j)) for j in rows["latent"].head(SHOWN)])
    named = {at: name for at, name in COLUMNS.items() if again or at != "seed_correlation"}
    st.dataframe(rows.select(list(named)).rename(named), key="without-table", hide_index=True, height=320)
