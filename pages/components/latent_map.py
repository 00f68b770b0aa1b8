"""All latents on a plane: where their decoders point, by the two directions along which these vary most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, frame, show, store, theme, words
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.feature_geometry import Plane
    from workbench.features import FeatureTable

BY_FACTOR, BY_DENSITY = "factor it follows", "how often it fires"
CLEARLY = 0.8  # AUROC from which a latent counts as following its factor
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon")
UNCLEAR = "none clearly"


def view(lab: Lab, table: FeatureTable, chosen: int) -> None:
    """Choice of colours, and the map; a click chooses a latent."""
    plane = store.plane(lab, table.name)
    by = st.segmented_control(
        "Coloured by", [BY_FACTOR, BY_DENSITY], default=BY_FACTOR, required=True, key="hue", bind="query-params"
    )
    frame.caption(
        "Every latent where its decoder points, on the two axes along which the unit decoders vary most. "
        f"They hold {words.share(plane.shares[0] + plane.shares[1])} of that variance, so latents far apart "
        "here are apart, but neighbours here need not be. Click one to see it below; the ring marks it."
    )
    named = table.rows.with_columns(pl.coalesce("own_label", "label", "top_token").alias("called"))
    placed = named.select(
        "latent", "star", "called", "density", "top_token", "factor", "factor_auroc"
    ).with_columns(
        pl.Series("x", plane.places[:, 0]), pl.Series("y", plane.places[:, 1]), _family().alias("family")
    )
    made = charts.figure(560)
    for trace in _by_factor(placed) if by == BY_FACTOR else [_by_density(placed)]:
        made.add_trace(trace)
    made.add_trace(_ring(*plane.places[chosen].tolist()))
    _axes(made, plane, by == BY_FACTOR)
    show.clickable(made, "map", f"map of the decoders of {table.name}, coloured by {by}", placed, "latent")


def _family() -> pl.Expr:
    """The first part of a factor's name, where the latent follows the factor clearly."""
    clear = pl.col("factor_auroc").fill_null(0.0) >= CLEARLY
    return pl.when(clear).then(pl.col("factor").str.split("/").list.first()).otherwise(pl.lit(UNCLEAR))


def _by_factor(placed: pl.DataFrame) -> list[go.Scattergl]:
    """One trace for each of the commonest families, the rest and the unclear ones below them."""
    palette = theme.palette()
    hues = [*palette.stages.values(), *palette.others]
    counted = placed.filter(pl.col("family") != UNCLEAR)["family"].value_counts()
    common = counted.sort(["count", "family"], descending=[True, False])["family"].to_list()[: len(SYMBOLS)]
    rest = placed.filter(~pl.col("family").is_in(common))
    traces = [_points(rest, f"others ({len(rest):,})", palette.muted, "circle", 0.35)]
    for family, hue, symbol in zip(common, hues, SYMBOLS, strict=False):
        part = placed.filter(pl.col("family") == family)
        traces.append(_points(part, f"{family} ({len(part):,})", hue, symbol, 0.85))
    return traces


def _by_density(placed: pl.DataFrame) -> go.Scattergl:
    firing = placed.filter(pl.col("density") > 0)
    trace = _points(firing, "", None, "circle", 0.8)
    shares = firing["density"].to_numpy()
    ticks = [float(t) for t in 10.0 ** np.arange(-6, 1) if len(shares) and shares.min() <= t <= shares.max()]
    named = [f"{100 * t:g} %" for t in ticks]
    bar = {"title": "fires on", "tickvals": np.log10(ticks), "ticktext": named}
    trace.marker.update(color=np.log10(shares), colorscale="Cividis", showscale=True, colorbar=bar)
    return trace


def _points(part: pl.DataFrame, name: str, hue: str | None, symbol: str, opacity: float) -> go.Scattergl:
    return go.Scattergl(
        x=part["x"].to_numpy(),
        y=part["y"].to_numpy(),
        mode="markers",
        name=name,
        marker={"color": hue, "symbol": symbol, "size": 5, "opacity": opacity},
        customdata=part["latent"].to_numpy()[:, None],
        hovertext=np.array(
            [
                f"{'★ ' if star else ''}{charts.plain(called)}<br>{charts.plain(factor)}"
                for star, called, factor in part.select("star", "called", "factor").iter_rows()
            ],
            dtype=object,
        ),
        hovertemplate="latent %{customdata[0]}: %{hovertext}<extra></extra>",
    )


def _ring(x: float, y: float) -> go.Scatter:
    """A ring round the chosen latent."""
    marker = {"size": 16, "symbol": "circle-open", "color": theme.palette().ink, "line": {"width": 2.5}}
    return go.Scatter(x=[x], y=[y], mode="markers", marker=marker, hoverinfo="skip", showlegend=False)


def _axes(made: go.Figure, plane: Plane, legend: bool) -> None:
    made.update_xaxes(title=f"first axis, {words.share(plane.shares[0])} of the variance")
    made.update_yaxes(title=f"second axis, {words.share(plane.shares[1])} of the variance")
    made.update_layout(
        showlegend=legend,
        legend={"itemsizing": "constant", "orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )
