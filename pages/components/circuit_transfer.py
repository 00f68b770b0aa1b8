"""The Transfer view: F[i, j], the circuit found in checkpoint i at work in checkpoint j; what circuits
have in common."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, circuit_export, circuit_store, frame, kept, show, theme
from pages.components.circuit_store import Of
from workbench.lab import Lab

MEASURES = {
    "edges": "edges (Jaccard)",
    "nodes": "components (Jaccard)",
    "weights": "weights (weighted Jaccard)",
}


def view(lab: Lab, of: Of) -> None:
    """The matrix at the left; overlaps beside their floors at the right."""
    found = circuit_store.found(of)
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("F[i, j]", anchor=False)
        rows = found.table("transfer")
        made = kept.picture(matrix, rows, found.checkpoints, found.able)
        show.chart(
            made, "transfer", "faithfulness in each checkpoint of the circuit found in each", rows,
            config=circuit_export.camera(f"{of.name}-transfer"),
        )  # fmt: skip
        frame.caption(
            "How much of the task a circuit found in i (rows) does in j (columns), with its 95 % interval "
            "over pairs; on the diagonal at home. Random circuits and another task's stand beside it in "
            "the Verdict view."
        )
        for name in found.checkpoints:
            if name not in found.able:
                frame.caption(f"{name} does not do the task: its row and its column are empty.")
    with right:
        st.subheader("What they have in common", anchor=False)
        rows = found.table("overlap")
        if rows.is_empty():
            frame.caption(
                "This circuit was found in one checkpoint alone: there is nothing to hold it against."
            )
            return
        made = kept.picture(overlaps, rows)
        show.chart(
            made, "overlap", "overlap of circuits beside the floor of one checkpoint and a sibling", rows,
            config=circuit_export.camera(f"{of.name}-overlap"),
        )  # fmt: skip
        frame.caption(
            "Line: the floor, what 95 % of two drawings of pairs from one checkpoint have in common at "
            "least; a dot left of it is a difference. Open: what the stage has in common with its sibling, "
            "the same stage from another seed. Circuits of as many edges each; weights over all edges."
        )


def matrix(rows: pl.DataFrame, names: list[str], able: list[str]) -> go.Figure:
    """Rows: where a circuit was found; columns: where it is at work. Empty where one does not do the task."""
    palette = theme.palette()
    made = charts.figure(180 + 76 * len(names))

    def does(cell: dict[str, Any]) -> bool:
        return {cell["source"], cell["target"]} <= set(able)

    def said(cell: dict[str, Any]) -> str:
        return f"<b>{cell['f']:.2f}</b><br>[{cell['low']:.2f}, {cell['high']:.2f}]"

    cells = [[rows.filter(source=i, target=j).row(0, named=True) for j in names] for i in names]
    made.add_trace(
        go.Heatmap(
            z=[[cell["f"] if does(cell) else None for cell in row] for row in cells], zmin=0, zmax=1,
            x=names, y=names,
            colorscale=[[0, palette.page], [1, palette.tint]], xgap=3, ygap=3,
            colorbar=charts.colour_bar("f, share of the task", y=0, yanchor="top"), showscale=bool(able),
            text=[[said(cell) if does(cell) else "" for cell in row] for row in cells],
            texttemplate="%{text}", textfont={"color": palette.ink},
            customdata=[[[c["low"], c["high"], c["n_edges"]] for c in row] for row in cells], hoverongaps=False,
            hovertemplate="found in %{y}, at work in %{x}: %{z:.3f} (%{customdata[0]:.3f} to "
            "%{customdata[1]:.3f}), %{customdata[2]} edges<extra></extra>",
        )
    )  # fmt: skip
    made.update_xaxes(title="at work in j", side="top", showgrid=False, fixedrange=True)
    made.update_yaxes(title="found in i", autorange="reversed", showgrid=False, fixedrange=True)
    made.update_layout(margin={"t": 60, "b": 56})
    return made


def overlaps(rows: pl.DataFrame) -> go.Figure:
    """A row a pair and measure: what is shared, the floor, the sibling."""
    palette = theme.palette()
    labels = [
        f"{before} → {after}<br>{MEASURES[m]}"
        for before, after, m in rows.select("before", "after", "measure").iter_rows()
    ]
    made = charts.figure(90 + 46 * len(rows))
    at = list(range(len(rows)))
    for column, name, look in (
        ("floor", "floor", {"symbol": "line-ns", "size": 20, "line": {"width": 3, "color": palette.muted}}),
        ("sibling", "sibling", {"symbol": "circle-open", "size": 10, "color": palette.ink}),
        ("value", "the two", {"symbol": "circle", "size": 11, "color": palette.accent}),
    ):
        made.add_trace(
            go.Scatter(
                x=rows[column].to_list(), y=at, mode="markers", name=name, marker=look, cliponaxis=False,
                customdata=rows.select("n_edges", "sibling_name").rows(),
                hovertemplate="%{x:.3f}, %{customdata[0]} edges<extra>" + name + "</extra>",
            )
        )  # fmt: skip
    made.update_yaxes(
        tickvals=at, ticktext=labels, range=[len(rows) - 0.5, -0.5], showgrid=False, fixedrange=True
    )
    made.update_xaxes(title="in common", range=[0, 1.02])
    charts.legend_above(made)
    return made
