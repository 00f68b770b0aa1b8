"""Plotly figures of toy models; they draw the numbers they are given."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl
from torch import Tensor

from pages.components import charts, theme, toy_tables
from saes.phase_diagram import PHASES, PhaseDiagram
from saes.toy_model import SHAPES

REACH = 1.35  # of the axes; learned lengths lie near 1


def accent() -> str:
    return theme.palette().accent


def geometry(W: Tensor) -> go.Figure:
    """Columns of W as arrows from the origin (m ≤ 3), else WᵀW as a heat map."""
    m = W.shape[0]
    if m > 3:
        return _overlaps(W.T @ W)
    return _space(W.T.tolist()) if m == 3 else _plane([[*v, 0.0][:2] for v in W.T.tolist()])


def _plane(ends: list[list[float]]) -> go.Figure:
    made = charts.figure(440)
    palette = theme.palette()
    for x, y in ends:
        made.add_annotation(
            x=x, y=y, ax=0, ay=0, xref="x", yref="y", axref="x", ayref="y", text="",
            showarrow=True, arrowhead=2, arrowsize=1.2, arrowwidth=2, arrowcolor=palette.accent,
        )  # fmt: skip
    made.add_trace(
        go.Scatter(
            x=[1.12 * x for x, _ in ends],
            y=[1.12 * y for _, y in ends],
            mode="text",
            text=[str(i) for i in range(len(ends))],
            customdata=ends,
            hovertemplate="feature %{text}: (%{customdata[0]:.2f}, %{customdata[1]:.2f})<extra></extra>",
        )
    )
    made.update_xaxes(range=[-REACH, REACH], title="h₁", constrain="domain", nticks=5)
    made.update_yaxes(range=[-REACH, REACH], title="h₂", scaleanchor="x", scaleratio=1, nticks=5)
    return made


def _space(ends: list[list[float]]) -> go.Figure:
    made = charts.figure(480)
    palette = theme.palette()
    gap = [None, None, None]
    x, y, z = zip(*(p for end in ends for p in ([0.0, 0.0, 0.0], end, gap)), strict=True)
    line = {"color": palette.accent, "width": 6}
    made.add_trace(go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, hoverinfo="skip"))
    x, y, z = zip(*ends, strict=True)
    made.add_trace(
        go.Scatter3d(
            x=x,
            y=y,
            z=z,
            mode="markers+text",
            text=[str(i) for i in range(len(ends))],
            marker={"size": 5, "color": palette.accent},
            textfont={"color": palette.ink, "size": 14},
            hovertemplate="feature %{text}: (%{x:.2f}, %{y:.2f}, %{z:.2f})<extra></extra>",
        )
    )
    plain = {
        "range": [-REACH, REACH], "showbackground": False, "gridcolor": palette.line, "color": palette.muted,
        "nticks": 4,
    }  # fmt: skip
    axes = {f"{name}axis": plain | {"title": f"h{sub}"} for name, sub in zip("xyz", "₁₂₃", strict=True)}
    made.update_layout(scene={**axes, "aspectmode": "cube"}, dragmode="orbit")
    return made


def _overlaps(gram: Tensor) -> go.Figure:
    made = charts.figure(460)
    palette = theme.palette()
    scale = [[0, palette.stages["grpo"]], [0.5, palette.page], [1, palette.stages["base"]]]
    made.add_trace(
        go.Heatmap(
            z=gram.tolist(),
            zmin=-1,
            zmax=1,
            colorscale=scale,
            colorbar={"title": "WᵢᵀWⱼ", "thickness": 12},
            hovertemplate="features %{y} and %{x}: %{z:.2f}<extra></extra>",
        )
    )
    made.update_xaxes(title="feature", constrain="domain", showgrid=False)
    made.update_yaxes(title="feature", autorange="reversed", scaleanchor="x", showgrid=False)
    return made


def per_dimension(table: pl.DataFrame) -> go.Figure:
    """‖W‖²/m against 1/(1 − S); the dotted line is one feature a dimension."""
    made = charts.figure(260)
    palette = theme.palette()
    made.add_hline(
        y=1,
        line={"color": palette.muted, "width": 1, "dash": "dot"},
        annotation={"text": "one feature a dimension", "font": {"color": palette.muted, "size": 12}},
        annotation_position="bottom right",
    )
    made.add_trace(
        go.Scatter(
            x=table[toy_tables.SPARSITY].to_list(),
            y=table["features per dimension"].to_list(),
            mode="lines+markers",
            line={"color": palette.accent, "width": 2},
            marker={"size": 8},
            customdata=table["density"].to_list(),
            hovertemplate="density %{customdata}: %{y:.3f} features a dimension<extra></extra>",
        )
    )
    made.update_yaxes(title="features per dimension", rangemode="tozero", nticks=5)
    return _by_sparsity(made)


def sweep(table: pl.DataFrame) -> go.Figure:
    """Dimensionality against 1/(1 − S), the shapes' values as lines."""
    made = charts.figure(420)
    palette = theme.palette()
    for name, value in SHAPES.items():
        made.add_hline(
            y=float(value),
            line={"color": palette.muted, "width": 1, "dash": "dot"},
            annotation={"text": f"{value} {name}", "font": {"color": palette.muted, "size": 12}},
            annotation_position="bottom right" if name == "square antiprism" else "top right",
        )
    made.add_trace(
        go.Scatter(
            x=table[toy_tables.SPARSITY].to_list(),
            y=table["dimensionality"].to_list(),
            mode="markers",
            marker={"color": palette.accent, "size": 9, "opacity": 0.55},
            customdata=table.select("feature", "density").rows(),
            hovertemplate="feature %{customdata[0]} at density %{customdata[1]}: %{y:.3f}<extra></extra>",
        )
    )
    made.update_yaxes(title="dimensionality", range=[0, 1.1])
    return _by_sparsity(made)


def _by_sparsity(made: go.Figure) -> go.Figure:
    """Elhage's axis: dense at the left, room for the lines' names at the right."""
    ticks = [1, 2, 5, 10, 20, 50, 100]
    made.update_xaxes(
        title=f"{toy_tables.SPARSITY}, one over the density",
        type="log",
        range=[-0.08, 2.5],
        tickvals=ticks,
        ticktext=[str(t) for t in ticks],
    )
    return made


def phases(found: PhaseDiagram) -> go.Figure:
    """A coloured cell for every density and relative importance."""
    made = charts.figure(430)
    palette = theme.palette()
    colours = dict(zip(PHASES, (palette.line, palette.stages["sft"], palette.stages["base"]), strict=True))
    steps = [
        c for i, phase in enumerate(PHASES) for c in ([i / 3, colours[phase]], [(i + 1) / 3, colours[phase]])
    ]
    names = [[PHASES[int(p)] for p in row] for row in found.phase]
    made.add_trace(
        go.Heatmap(
            x=found.ratios.tolist(),
            y=found.densities.tolist(),
            z=found.phase.tolist(),
            zmin=-0.5,
            zmax=2.5,
            colorscale=steps,
            colorbar={"tickvals": [0, 1, 2], "ticktext": list(PHASES), "thickness": 12},
            customdata=names,
            hovertemplate="importance %{x:.2f}, density %{y:.3f}: %{customdata}<extra></extra>",
        )
    )
    made.update_xaxes(
        title="importance of the second feature, that of the first being 1",
        type="log",
        tickvals=[0.1, 0.3, 1, 3, 10],
    )
    made.update_yaxes(
        title="density: how often a feature is on", type="log", tickvals=[0.01, 0.03, 0.1, 0.3, 1]
    )
    return made
