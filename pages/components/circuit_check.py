"""What each edge was estimated to do beside what it does, patched for itself: a dot an edge."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, circuit_edge, circuit_export, circuit_store, frame, kept, show, theme
from pages.components.circuit_store import Of
from workbench.errors import Misuse
from workbench.intervals import bracketed

ESTIMATES = {"EAP-IG": "eap_ig", "EAP": "eap"}


def panel(of: Of, name: str) -> None:
    """One checkpoint's edges and how nearly the two agree; or the command that patches them."""
    try:
        check = circuit_store.check(of)
    except Misuse as error:
        frame.note(f"{str(error)[:1].upper()}{str(error)[1:]}.")
        return
    if name not in check.checkpoints:
        frame.note(f"{name} does not do the task, so its edges were not patched one by one.")
        return
    said = st.segmented_control(
        "Estimate", list(ESTIMATES), default="EAP-IG", required=True, key="estimate", bind="query-params"
    )
    estimate = str(said)
    agreed = check.table("agreement").filter(checkpoint=name)
    rows = agreed.filter(pl.col("method").str.split(" ").list.first() == estimate)
    frame.facts(
        [
            (measure.capitalize(), bracketed(*figures, 2))  # type: ignore[arg-type]
            for measure, *figures in rows.select("measure", "value", "low", "high").iter_rows()
        ]
    )
    _dots(of, name, estimate, check.table("scores").filter(checkpoint=name))
    n_edges, n_pairs = rows.select("n_edges", "n_pairs").row(0)
    frame.caption(
        f"{n_edges} edges of {name}, means over the {n_pairs} pairs that found the circuit. Exact: m with this "
        "edge alone corrupt − m. On the line the estimate is right. Foremost tenth: the share of the tenth of the "
        "edges of largest |effect| that is among the tenth of largest |estimate|. Most edges do next to nothing, "
        "so Spearman is mostly of noise. 95 % intervals over pairs, drawn for both scores at once."
    )
    show.twin(agreed.drop("checkpoint"), "agreement", "Both estimates as a table")


def _dots(of: Of, name: str, estimate: str, scores: pl.DataFrame) -> None:
    """The picture, and beside it the edge that is chosen."""
    circuit = circuit_store.found(of).table("edges").filter(checkpoint=name)
    edges = scores.join(circuit.select("sender", "receiver", "in_circuit"), on=["sender", "receiver"])
    edges = edges.with_columns(edge=pl.format("{}->{}", "sender", "receiver"))
    with st.container(key="overview"):
        picture, beside = st.columns([3, 2], gap="large")
    options = edges.sort(pl.col("exact").abs(), descending=True)["edge"].to_list()
    with beside:
        frame.doubted("at", "edge", options)
        chosen = st.selectbox(
            "Edge (or click a dot)", options, None, key="at", bind="query-params", placeholder="none yet"
        )
        if chosen:
            circuit_edge.panel(of, name, *str(chosen).split("->"))
    with picture:
        drawn = kept.picture(dots, edges, ESTIMATES[estimate], estimate, name)
        table = edges.select("sender", "receiver", "exact", "low", "high", "eap_ig", "eap", "in_circuit")
        show.clickable(
            drawn, "circuit-check", f"{estimate} of every edge against its exact effect in {name}", table, "at",
            show.name_of, circuit_export.camera(f"{of.name}-{name}-check"),
        )  # fmt: skip


def dots(edges: pl.DataFrame, column: str, estimate: str, name: str) -> go.Figure:
    """Exact effect across, estimate up; the circuit's edges in the checkpoint's colour."""
    palette, colour, symbol = theme.palette(), theme.colours([name])[name], theme.symbols([name])[name]
    made = charts.figure(430)
    ends = [min(edges["exact"].min(), edges[column].min()), max(edges["exact"].max(), edges[column].max())]  # type: ignore[type-var]
    made.add_trace(
        go.Scatter(
            x=ends, y=ends, mode="lines", name="estimate = effect", hoverinfo="skip",
            line={"color": palette.muted, "dash": "dot", "width": 1.5},
        )
    )  # fmt: skip
    for inside, called, look in (
        (False, "other edges", {"color": palette.muted, "symbol": "circle-open", "size": 7}),
        (True, "edges of the circuit", {"color": colour, "symbol": symbol, "size": 9}),
    ):
        part = edges.filter(in_circuit=inside)
        made.add_trace(
            go.Scatter(
                x=part["exact"].to_list(), y=part[column].to_list(), mode="markers", name=called, marker=look,
                customdata=part.select("edge", "low", "high").rows(), cliponaxis=False,
                hovertemplate="%{customdata[0]}: exact %{x:.3f} (%{customdata[1]:.3f} to %{customdata[2]:.3f}), "
                f"{estimate} %{{y:.3f}}<extra></extra>",
            )
        )  # fmt: skip
    made.update_xaxes(title="exact effect, logits")
    made.update_yaxes(title=f"{estimate}, logits")
    charts.legend_above(made)
    return made
