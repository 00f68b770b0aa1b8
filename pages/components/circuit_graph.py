"""The Graph view: one checkpoint's circuit, as large as one likes, and what is clicked in it."""

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
    circuit_node,
    circuit_store,
    frame,
    kept,
    show,
    theme,
)
from pages.components.circuit_store import Of
from workbench.circuits.attribution import SIGN
from workbench.circuits.circuit import GREEDY, Circuit
from workbench.circuits.circuit_picture import places, read_of, widths
from workbench.circuits.study import LADDER
from workbench.intervals import bracketed
from workbench.lab import Lab

MOST = 400  # edges drawn
OWN = "the circuit"
STEPS = {f"{100 * share:g} %": share for share in LADDER}


def view(lab: Lab, of: Of) -> None:
    """Choice of checkpoint and size above; picture and lists below; then what is chosen, in each checkpoint."""
    found = circuit_store.found(of)
    left, right = st.columns([1, 2], gap="large", vertical_alignment="bottom")
    with left:
        name = circuit_choice.checkpoint(found.checkpoints)
    own = found.own_share(name)
    with right:
        steps = [OWN, *STEPS]
        frame.doubted("share", "share of edges", steps)
        step = st.select_slider(
            "Edges: the circuit's, or a share of all", steps, OWN, key="share", bind="query-params"
        )
    share = STEPS.get(str(step), own)
    circuit = found.circuit(name) if share is None or share == own else found.at_share(name, share)
    _told(of, circuit, name, share, own)
    edges = styled(circuit, found.table("edges").filter(checkpoint=name))
    chosen = _chooser(circuit, edges)
    with st.container(key="overview"):
        picture, panel = st.columns([3, 2], gap="large")
    with picture:
        graph = found.graph
        shape = dataclasses.astuple(graph)
        made = kept.picture(circuit_figure.graph, shape, edges, circuit.nodes, chosen)
        table = edges.select("sender", "receiver", "score", "low", "high")
        show.clickable(
            made, "circuit-graph", f"circuit of {circuit.task} in {name}: components by layer, edges by score",
            table, "at", show.name_of, circuit_export.camera(f"{of.name}-{name}"),
        )  # fmt: skip
        frame.caption(
            f"{SIGN} (blue; red: hinders). Wider: larger |score|. Dotted edges enter a head's q, dashed ones its "
            "k, solid ones its v, or an MLP or the logits. m = logit(target) − logit(foil), in logits."
        )
        circuit_export.buttons(of, name)
    with panel:
        if not chosen:
            frame.note(
                "Click a component to see what enters and leaves it, where it looks, what it writes, and on which "
                "prompts it matters; click the dot on an edge to see its scores and what is left without it."
            )
        elif "->" in chosen:
            circuit_edge.panel(of, name, *chosen.split("->"))
        else:
            circuit_node.panel(of, circuit, chosen)
    if chosen and "->" not in chosen:
        circuit_node.beside(lab, of, name, chosen)


def _told(of: Of, circuit: Circuit, name: str, share: float | None, own: float | None) -> None:
    """How large what is drawn is, and how much of the task it does."""
    found = circuit_store.found(of)
    if share == own:
        row = found.table("transfer").filter(source=name, target=name)
    else:
        row = found.table("curve").filter(checkpoint=name, order=GREEDY, share=share)
    f = bracketed(*row.select("f", "low", "high").row(0), 2)
    size = f"{circuit.n_edges} of {circuit.graph.n_edges} edges do f = {f} of the task in {name}"
    if name not in found.able:
        frame.note(f"{name} does not do the task: these are its strongest edges, and no circuit.")
    elif share == own:
        frame.note(f"{size}: the circuit.")
    else:
        frame.note(f"{size}; the circuit is {f'at {100 * own:g} %' if own else 'what ACDC leaves'}.")


def styled(circuit: Circuit, rows: pl.DataFrame) -> pl.DataFrame:
    """The edges of a circuit with their looks, the strongest `MOST` of them."""
    palette = theme.palette()
    listed = circuit.named_edges()[:MOST]
    if circuit.n_edges > MOST:
        frame.caption(f"Only the {MOST} edges of largest |score| are drawn.")
    wide = widths(np.array([score for *_, score in listed])).tolist()
    found = pl.DataFrame(
        [
            (
                s, r, palette.helps if score < 0 else palette.hinders, circuit_figure.DASHES[read_of(r)], width,
                f"{s}->{r}",
            )
            for (s, r, score), width in zip(listed, wide, strict=True)
        ],
        schema=["sender", "receiver", "colour", "dash", "width", "name"],
        orient="row",
    )  # fmt: skip
    known = rows.select("sender", "receiver", "score", "low", "high")
    found = found.join(known, on=["sender", "receiver"], how="left", maintain_order="left")
    said = [
        f"{name}: {bracketed(*figures, 3)}"
        for name, *figures in found.select("name", "score", "low", "high").iter_rows()
    ]
    return found.with_columns(said=pl.Series(said, dtype=pl.String))


def _chooser(circuit: Circuit, edges: pl.DataFrame) -> str:
    """What is looked at: by click, by choice, or by the address."""
    options = [*circuit.nodes, *edges["name"]]
    asked = st.session_state.get("at") or st.query_params.get("at")
    if asked and asked not in options and _there(circuit, str(asked)):
        options.append(str(asked))
    frame.doubted("at", "component or edge", options)
    chosen = st.selectbox(
        "Component or edge (or click it)", options, None, key="at", bind="query-params", width=360,
        placeholder="none yet",
    )  # fmt: skip
    return str(chosen or "")


def _there(circuit: Circuit, name: str) -> bool:
    """The graph has such a component or edge, though it is not drawn as one of the circuit."""
    sender, _, receiver = name.partition("->")
    if not receiver:
        return sender in places(circuit.graph)
    try:
        circuit.graph.named(sender, receiver)
    except KeyError:
        return False
    return True
