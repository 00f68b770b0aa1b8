"""How far activations moved: curves over layers, and CKA of every layer with every layer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, frame, kept, show, theme
from pages.components.drift_weights import scale

if TYPE_CHECKING:
    from workbench.drift import Drift

TITLES = {"moved": "activations moved, ‖Δa‖ / ‖a‖", "cka": "linear CKA"}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
PER_ROW = 3


def view(drift: Drift, checkpoints: Sequence[str]) -> None:
    """Both figures layer by layer; the matrices."""
    frame.caption(
        "resid_post of every layer on the same held-out tokens, with 95 % intervals over documents. CKA saturates "
        "near 1 within a lineage and does not see a rotation: a pair can have a CKA of 0.98 and have moved by half "
        "its length."
    )
    show.chart(
        kept.picture(curves, drift.layers),
        "layers",
        "activations moved and CKA by layer, for each pair of checkpoints",
        drift.layers,
    )
    st.subheader("CKA of every layer with every layer", anchor=False)
    pairs = list(itertools.combinations(checkpoints, 2))
    show.chart(
        kept.picture(matrices, drift.cka, pairs),
        "cka",
        "CKA between the layers of one checkpoint and of another",
        drift.cka,
    )


def curves(layers: pl.DataFrame) -> go.Figure:
    """One panel a figure; a line a pair, in the later checkpoint's colour."""
    pairs = list(layers.select("before", "after").unique(maintain_order=True).iter_rows())
    made = make_subplots(1, 2, subplot_titles=list(TITLES.values()), horizontal_spacing=0.08)
    made.update_layout(charts.figure(340).layout)
    colours = theme.colours([after for _, after in pairs])
    symbols = theme.symbols([after for _, after in pairs])
    for column, figure in enumerate(TITLES, 1):
        for (before, after), dash in zip(pairs, itertools.cycle(DASHES), strict=False):
            part = layers.filter(
                pl.col("before") == before, pl.col("after") == after, pl.col("figure") == figure
            ).sort("layer")
            made.add_trace(
                go.Scatter(
                    x=part["layer"].to_list(),
                    y=part["value"].to_list(),
                    name=f"{before} → {after}",
                    mode="lines+markers",
                    line={"color": colours[after], "width": 2, "dash": dash},
                    marker={"symbol": symbols[after], "size": 8},
                    error_y=charts.interval(part, "value"),
                    customdata=list(zip(part["low"], part["high"], part["n"], strict=True)),
                    hovertemplate="layer %{x}: %{y:.4f} (%{customdata[0]:.4f} to %{customdata[1]:.4f}), "
                    "n = %{customdata[2]:,} tokens<extra>" + f"{before} → {after}" + "</extra>",
                    showlegend=column == 1,
                    cliponaxis=False,
                ),
                1,
                column,
            )
    made.update_xaxes(title="layer", dtick=1 if layers["layer"].n_unique() <= 16 else None)
    made.update_yaxes(rangemode="tozero", col=1)
    made.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1.12, "yanchor": "bottom", "x": 0}, margin={"t": 70}
    )
    return made


def matrices(cka: pl.DataFrame, pairs: Sequence[tuple[str, str]]) -> go.Figure:
    """A square a pair; rows are layers of the earlier checkpoint, columns of the later."""
    layers = sorted(cka["layer_before"].unique().to_list())
    columns = min(PER_ROW, len(pairs))
    rows = -(-len(pairs) // columns)
    made = make_subplots(
        rows,
        columns,
        subplot_titles=[f"{a} → {b}" for a, b in pairs],
        horizontal_spacing=0.09,
        vertical_spacing=0.16,
    )
    made.update_layout(charts.figure(rows * 330).layout)
    names = [f"layer {layer}" for layer in layers]
    for at, (a, b) in enumerate(pairs):
        part = cka.filter(pl.col("before") == a, pl.col("after") == b)
        value = {(r["layer_before"], r["layer_after"]): r["cka"] for r in part.iter_rows(named=True)}
        made.add_trace(
            go.Heatmap(
                z=[[value.get((i, j)) for j in layers] for i in layers],
                x=names,
                y=names,
                zmin=0,
                zmax=1,
                colorscale=scale(),
                showscale=at == 0,
                colorbar={"title": "CKA", "thickness": 12},
                texttemplate="%{z:.2f}" if len(layers) <= 8 else None,
                textfont={"color": theme.palette().ink},
                hovertemplate=f"{a} %{{y}}, {b} %{{x}}: %{{z:.4f}}<extra></extra>",
                xgap=2,
                ygap=2,
            ),
            at // columns + 1,
            at % columns + 1,
        )
        made.update_xaxes(title=b, row=at // columns + 1, col=at % columns + 1)
        made.update_yaxes(title=a, row=at // columns + 1, col=at % columns + 1)
    made.update_yaxes(autorange="reversed", showgrid=False, fixedrange=True)
    made.update_xaxes(showgrid=False, fixedrange=True)
    made.update_layout(margin={"t": 40})
    return made
