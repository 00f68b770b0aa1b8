"""The Curve view: how much of the task the first edges do, in three orders, beside controls of the
circuit's size."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import (
    charts,
    circuit_check,
    circuit_choice,
    circuit_export,
    circuit_store,
    frame,
    kept,
    show,
    theme,
)
from pages.components.circuit_store import Of
from workbench.circuits.circuit import GREEDY, HELPING, TOP
from workbench.circuits.found_circuits import OTHER_TASK, RANDOM, FoundCircuits
from workbench.lab import Lab

SAYS = {
    GREEDY: "from the logits down, always the edge of largest |score| whose reader is in already",
    TOP: "by |score|",
    HELPING: "by how much an edge helps",
}


def view(lab: Lab, of: Of) -> None:
    """Choice of checkpoint; the curve; CPR and CMD of all checkpoints."""
    found = circuit_store.found(of)
    name = circuit_choice.checkpoint(found.checkpoints)
    told = {each: found.figures["checkpoints"][each] for each in found.able}
    if name in found.able:
        _curve(of, found, name)
    else:
        frame.note(f"{name} does not do the task: f divides by what may be nothing, and says nothing.")
    frame.facts([(f"CPR, {each}", f"{figures['cpr']:.2f}") for each, figures in told.items()])
    frame.facts([(f"CMD, {each}", f"{figures['cmd']:.3f}") for each, figures in told.items()])
    frame.caption(
        "CPR = ∫ f dk, edges by how much they help (1 and more is best); CMD = ∫ |1 − f| dk, edges by "
        "|score| (0 is best); k the share of edges [MIB 2025]."
    )
    st.subheader("Do the scores hold, edge by edge?", anchor=False)
    circuit_check.panel(of, name)


def _curve(of: Of, found: FoundCircuits, name: str) -> None:
    rows, controls = (found.table(part).filter(checkpoint=name) for part in ("curve", "controls"))
    made = kept.picture(curve, rows, controls, found.graph.n_edges)
    show.chart(
        made, "circuit-curve", f"f by share of edges in three orders, {name}",
        rows.select("order", "share", "n_edges", "f", "low", "high"),
        config=circuit_export.camera(f"{of.name}-{name}-curve"),
    )  # fmt: skip
    orders = "; ".join(f"{order}: {says}" for order, says in SAYS.items())
    frame.caption(
        "f = (m of the edges alone − m of no edge) / (m of the model − m of no edge), on prompts that did "
        f"not find them, 95 % intervals over {found.figures['n_pairs']['judge']} pairs. Orders: {orders}. "
        "Dead ends are taken out, so a step may have fewer edges than its share. Grey dots: random "
        "circuits with the degrees of the circuit; cross: the circuit of another task, of as many edges."
    )


def curve(rows: pl.DataFrame, controls: pl.DataFrame, n_edges: int) -> go.Figure:
    """f against the share of edges, with controls where their size lies."""
    palette = theme.palette()
    made = charts.figure(430)
    made.add_hline(y=1, line={"color": palette.line, "width": 1})
    for order, colour, symbol, dash in (
        (TOP, palette.others[1], "square", "dot"),
        (HELPING, palette.others[0], "triangle-up", "dash"),
        (GREEDY, palette.accent, "circle", "solid"),
    ):
        part = rows.filter(order=order)
        made.add_trace(
            go.Scatter(
                x=part["share"].to_list(), y=part["f"].to_list(), mode="lines+markers", name=order,
                line={"color": colour, "width": 2, "dash": dash}, marker={"symbol": symbol, "size": 8},
                error_y=charts.interval(part, "f", colour, thickness=1, width=3),
                customdata=part.select("n_edges", "low", "high").rows(),
                hovertemplate="%{customdata[0]} edges (%{x:.1%}): f = %{y:.3f} "
                "(%{customdata[1]:.3f} to %{customdata[2]:.3f})<extra>" + order + "</extra>",
            )
        )  # fmt: skip
    for kind, symbol, colour, size in (
        (RANDOM, "circle", palette.muted, 7), (OTHER_TASK, "x-thin-open", palette.ink, 11)
    ):  # fmt: skip
        part = controls.filter(kind=kind).with_columns(share=pl.col("n_edges") / n_edges)
        if len(part):
            made.add_trace(
                go.Scatter(
                    x=part["share"].to_list(), y=part["f"].to_list(), mode="markers", name=kind,
                    opacity=0.6,
                    marker={"symbol": symbol, "color": colour, "size": size, "line": {"width": 2, "color": colour}},
                    error_y=charts.interval(part, "f", colour) if kind == OTHER_TASK else None,
                    hovertemplate="f = %{y:.3f}<extra>" + kind + "</extra>",
                )
            )  # fmt: skip
    shares = rows["share"].unique().sort().to_list()
    made.update_xaxes(
        title="share of the edges", type="log", tickvals=shares, ticktext=[f"{100 * s:g} %" for s in shares]
    )
    made.update_yaxes(title="f")
    charts.legend_above(made)
    return made
