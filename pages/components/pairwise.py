"""Latents by one checkpoint's share of the decoder norm: two checkpoints, or one against many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from pages.components import charts, theme, words
from pages.components.ternary import kinds_in_order, marker


def picture(
    latents: pl.DataFrame, names: Sequence[str], of: str, bounds: Mapping[str, float], chosen: int | None
) -> go.Figure:
    """Histogram of w_of over a cloud of latents (share against density), the bounds as lines."""
    made = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.3, 0.7], vertical_spacing=0.03)
    made.update_layout(charts.figure(520).layout)
    palette = theme.palette()
    bins = {"start": 0, "end": 1.0001, "size": 0.02}
    made.add_trace(
        go.Histogram(
            x=latents[f"w_{of}"].to_list(), xbins=bins, marker={"color": palette.accent}, name="latents"
        ),
        1,
        1,
    )
    firing = latents.filter(pl.col("density") > 0)
    for kind in kinds_in_order(firing):
        _points(made, firing.filter(pl.col("kind") == kind), kind, of)
    even = 1 / len(names)
    for bound in (
        even - bounds["shared"],
        even + bounds["shared"],
        bounds["exclusive"],
        1 - bounds["exclusive"],
    ):
        made.add_vline(x=bound, line={"color": palette.muted, "width": 1, "dash": "dot"})
    if chosen is not None and len(row := firing.filter(pl.col("latent") == chosen)):
        ring = {"size": 20, "symbol": "circle-open", "color": palette.ink, "line": {"width": 2.5}}
        spot = {"x": row[f"w_{of}"].to_list(), "y": row["density"].to_list()}
        made.add_trace(
            go.Scatter(**spot, mode="markers", marker=ring, hoverinfo="skip", showlegend=False), 2, 1
        )
    made.update_xaxes(range=[-0.02, 1.02])
    made.update_xaxes(title=f"share of the decoder's norm that is {of}'s", row=2)
    made.update_yaxes(title="latents", row=1, nticks=3)
    made.update_yaxes(title="share of tokens it fires on", type="log", row=2, tickformat=".2~%")
    made.update_layout(
        showlegend=True, bargap=0.08, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    )
    return made


def _points(made: go.Figure, latents: pl.DataFrame, kind: str, of: str) -> None:
    trace = go.Scattergl if len(latents) > charts.WEBGL_ABOVE else go.Scatter
    made.add_trace(
        trace(
            x=latents[f"w_{of}"].to_list(),
            y=latents["density"].to_list(),
            mode="markers",
            name=f"{words.kind(kind)} ({len(latents):,})",
            marker=marker(kind) | {"size": 7, "opacity": 0.6},
            customdata=list(zip(latents["latent"], map(charts.plain, latents["label"]), strict=True)),
            hovertemplate="latent %{customdata[0]}: %{customdata[1]}<br>share %{x:.2f}, fires on %{y:.2~%}"
            "<extra>" + words.kind(kind) + "</extra>",
        ),
        2,
        1,
    )
