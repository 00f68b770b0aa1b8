"""Which tokens and which latents carry the KL between two checkpoints on shared text; links to the latents."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, frame, kept, show, theme, words
from workbench.samples import CONTEXT, RAISED

if TYPE_CHECKING:
    from workbench.comparison import Comparison
    from workbench.lab import Lab
    from workbench.samples import Samples

SHOWN = 15
LONGEST = 28  # characters of a bar's name
READINGS = {RAISED: "the token that gained most", CONTEXT: "the last token read"}


def view(lab: Lab, samples: Samples, comparison: Comparison) -> None:
    """Choice of a pair; tokens at the left, latents at the right."""
    pairs = {f"KL({after}‖{before})": (before, after) for before, after in
             itertools.combinations(comparison.checkpoints, 2)}  # fmt: skip
    left, right = st.columns(2, gap="large")
    with left:
        said = st.selectbox("What carries", list(pairs), key="carried", bind="query-params", width=240)
    with right:
        by = st.segmented_control(
            "Predictions go by", list(READINGS), default=RAISED, required=True, key="by", bind="query-params",
            format_func=READINGS.__getitem__,
        )  # fmt: skip
    before, after = pairs[said]
    with left:
        _tokens(samples.tokens.filter(before=before, after=after, by=by), said, by)
    with right:
        _latents(lab, samples, comparison, (before, after), said)


def _tokens(table: pl.DataFrame, said: str, by: str) -> None:
    frame.caption(
        f"Each prediction's KL goes to {READINGS[by]}"
        + (", by probability." if by == RAISED else " before it.")
        + " Bars are shares of all the KL with 95 % intervals over documents; a tick is the share of predictions."
    )
    if table.is_empty():
        frame.caption("The two predict the same on every token: there is no KL to carry.")
        return
    shown = table.head(SHOWN)
    colours = [theme.palette().accent] * len(shown)
    made = kept.picture(bars, shown, shown["token"].to_list(), colours)
    show.chart(made, "carrying-tokens", f"tokens with the largest share of {said}", table)


def _latents(lab: Lab, samples: Samples, comparison: Comparison, pair: tuple[str, str], said: str) -> None:
    before, after = pair
    table = samples.latents.filter(before=before, after=after)
    if table.is_empty():
        frame.caption("No latent fires where there is any KL.")
        return
    null = samples.figures["null"][f"{before}|{after}"]
    bound, inside = null["null"], null["null_in_domain"]
    frame.caption(
        f"Latents of {comparison.dictionary} that fire on the last token read, ordered by share times lift (share "
        "÷ density; a tick is the density). Windows laid in another order at random give a largest share times "
        f"lift above {words.number(bound['score'])}, and a largest lift above {words.number(bound['lift'])}, once "
        f"in twenty times: {bound['beyond']:,} of {null['alive']:,} latents are beyond that chance (grey ones are "
        f"not), {inside['beyond']:,} where windows keep their domain. It is no proof of a cause."
    )
    shown, palette = table.head(SHOWN), theme.palette()
    colours = [palette.accent if beyond else palette.muted for beyond in shown["beyond"]]
    labels = [f"{latent}  {label or ''}" for latent, label in shown.select("latent", "label").iter_rows()]
    show.chart(
        kept.picture(bars, shown, labels, colours), "carrying-latents", f"latents that carry {said}", table
    )
    frame.links(
        "Open:", [(str(latent), address(lab.name, comparison.dictionary, latent)) for latent in shown["latent"]]
    )


def address(lab: str, dictionary: str, latent: int) -> str:
    """Where a latent's dashboard is."""
    return f"features?{urlencode({'lab': lab, 'dictionary': dictionary, 'latent': latent})}"


def bars(table: pl.DataFrame, labels: list[str], colours: list[str]) -> go.Figure:
    """Shares with their intervals, and a tick where the share of predictions lies."""
    ink = theme.palette().ink
    made = charts.bars(
        [_short(label) for label in labels], table["share"].to_list(), colours, "share of the KL", None
    )
    made.update_traces(
        error_x=charts.interval(table, "share", ink, width=3),
        customdata=list(table.select("low", "high", "kl", "lift", "n").iter_rows()),
        hovertemplate="%{hovertext}: %{x:.1%} (%{customdata[0]:.1%} to %{customdata[1]:.1%}) of the KL, "
        "%{customdata[2]:.3g} nats on average, lift %{customdata[3]:.3g}, n = %{customdata[4]:,}<extra></extra>",
    )
    made.add_trace(
        go.Scatter(
            x=table["density"].to_list(),
            y=list(range(len(table))),
            mode="markers",
            marker={"symbol": "line-ns", "size": 14, "line": {"width": 2, "color": ink}},
            hovertemplate="%{x:.2%} of predictions<extra></extra>",
        )
    )
    made.update_xaxes(tickformat=".0%", rangemode="tozero")
    return made


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
