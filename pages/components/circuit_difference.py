"""The Difference view: which edges two checkpoints' circuits share, and which one of them has alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import streamlit as st

from pages.components import (
    circuit_choice,
    circuit_edge,
    circuit_export,
    circuit_figure,
    circuit_store,
    frame,
    kept,
    show,
    theme,
)
from pages.components.circuit_store import Of
from workbench.circuits.attribution import SIGN
from workbench.circuits.circuit_picture import widths
from workbench.circuits.difference_graph import GAINED, KEPT, KINDS, LOST, REWEIGHTED, Change, DifferenceGraph
from workbench.circuits.found_circuits import FoundCircuits
from workbench.lab import Lab


def looks() -> dict[str, tuple[str, str]]:
    """Colour and dash of each kind of edge."""
    palette = theme.palette()
    return {
        KEPT: (palette.muted, "solid"),
        REWEIGHTED: (palette.others[1], "dash"),
        LOST: (palette.hinders, "dot"),
        GAINED: (palette.helps, "solid"),
    }


def view(lab: Lab, of: Of) -> None:
    """Choice of the two; picture, list and controls."""
    found = circuit_store.found(of)
    couple = circuit_choice.couple(found.checkpoints)
    if couple is None:
        return
    before, after = couple
    made = circuit_store.difference(of, before, after)
    for name in couple:
        if name not in found.able:
            frame.note(
                f"{name} does not do the task: its strongest edges are laid out here, and they are no circuit."
            )
    _said(of, found, made, before, after)
    edges = styled(made)
    with st.container(key="overview"):
        picture, panel = st.columns([3, 2], gap="large")
    with panel:
        options = edges["name"].to_list()
        at = st.session_state.get("at") or st.query_params.get("at")
        if at and at not in options:
            st.session_state.pop("at", None)
        chosen = st.selectbox(
            "Edge (or click it)", options, None, key="at", bind="query-params", placeholder="none yet"
        )
        if chosen:
            circuit_edge.panel(of, after, *str(chosen).split("->"))
        else:
            frame.note("Click the dot on an edge to see its scores, and what is left without it.")
    with picture:
        graph = found.graph
        shape = dataclasses.astuple(graph)
        figure = kept.picture(circuit_figure.graph, shape, edges, made.nodes(graph), str(chosen or ""))
        show.clickable(
            figure, "difference-graph", f"edges kept, reweighted, lost and gained from {before} to {after}",
            edges.select("kind", "sender", "receiver", "before", "after", "s_before", "s_after"), "at", _edge_of,
            circuit_export.camera(f"{of.name}-{before}-{after}"),
        )  # fmt: skip
        frame.caption(
            "Grey: kept. Purple, dashed: reweighted. Red, dotted: lost. Blue: gained. Wider: larger |score| in "
            f"the later one (lost: in the earlier). {_sizes(couple, found, made.sizes)} Reweighted: "
            f"in both, and the 95 % intervals of score ÷ Σ|score| do not meet. {SIGN}."
        )
    st.subheader("The edges", anchor=False)
    _listed(made)


def _sizes(couple: tuple[str, str], found: FoundCircuits, sizes: tuple[int, int]) -> str:
    """The smaller circuit is grown to the size of the larger; one edge more can bring several to life."""
    n = str(sizes[0]) if sizes[0] == sizes[1] else f"{sizes[0]} and {sizes[1]}"
    if set(couple) <= set(found.able):
        return f"The circuits have {n} edges, the smaller one grown to the larger one's size."
    return f"Of each checkpoint its {n} strongest edges."


def _edge_of(point: dict) -> str | None:  # type: ignore[type-arg]
    """Components cannot be chosen here: an edge is what two checkpoints differ in."""
    name = show.name_of(point)
    return name if "->" in name else None


def _said(of: Of, found: FoundCircuits, made: DifferenceGraph, before: str, after: str) -> None:
    """Counts, beside those of the later checkpoint and its sibling."""
    frame.facts([(kind, str(n)) for kind, n in made.counts().items()])
    row = found.table("overlap").filter(before=before, after=after, measure="edges")
    floor, sibling = row.select("floor", "sibling_name").row(0)
    said = (
        f"In common: {made.jaccard:.2f} of the edges of either (Jaccard; two drawings of pairs: {floor:.2f})."
    )
    if sibling:
        beside = circuit_store.difference(of, after, sibling).counts()
        told = ", ".join(f"{beside[kind]} {kind}" for kind in KINDS)
        said += f" From {after} to {sibling}, the same stage with another seed: {told}."
    frame.caption(said)


def styled(made: DifferenceGraph) -> pl.DataFrame:
    """The edges with their looks."""
    look = looks()
    rows = pl.DataFrame(made.changes, schema=list(Change._fields), orient="row")
    drawn = np.array([c.before if c.kind == LOST else c.after for c in made.changes])
    return rows.with_columns(
        colour=pl.Series([look[c.kind][0] for c in made.changes], dtype=pl.String),
        dash=pl.Series([look[c.kind][1] for c in made.changes], dtype=pl.String),
        width=pl.Series(widths(drawn).tolist(), dtype=pl.Int64),
        name=pl.Series([f"{c.sender}->{c.receiver}" for c in made.changes], dtype=pl.String),
        said=pl.Series(
            [f"{c.kind}: {c.sender}->{c.receiver}, {c.before:.3f} → {c.after:.3f}" for c in made.changes],
            dtype=pl.String,
        ),
    )


def _listed(made: DifferenceGraph) -> None:
    order = {kind: at for at, kind in enumerate((GAINED, LOST, REWEIGHTED, KEPT))}
    rows = [
        (c.kind, c.sender, c.receiver, c.before, c.after, c.s_before, c.s_after)
        for c in sorted(made.changes, key=lambda each: order[each.kind])
    ]
    names = ["edge", "from", "to", "score before", "score after", "of Σ|score| before", "after"]
    table = pl.DataFrame(rows, schema=names, orient="row")
    st.dataframe(table, key="difference-list", hide_index=True)
