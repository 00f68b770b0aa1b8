"""One edge: its score in each checkpoint, and what is left without it."""

from __future__ import annotations

import polars as pl
import streamlit as st

from pages.components import charts, circuit_export, circuit_store, frame, kept, show, theme
from pages.components.circuit_store import Of
from workbench.intervals import bracketed


def panel(of: Of, name: str, sender: str, receiver: str) -> None:
    """Beside the graph. `name`: the checkpoint in which it is taken out."""
    found = circuit_store.found(of)
    st.subheader(f"{sender} → {receiver}", anchor=False)
    n = int(found.figures["n_pairs"]["search"])
    rows = found.table("edges").filter(sender=sender, receiver=receiver).with_columns(edge=pl.lit("score"), n=n)
    names = rows["checkpoint"].to_list()
    made = kept.picture(
        charts.dots_with_intervals, rows, "edge", "checkpoint", "score", theme.colours(names),
        theme.symbols(names), "score, in logits", False,
    )  # fmt: skip
    inside = rows.filter("in_circuit")["checkpoint"].to_list()
    show.chart(
        made, "edge-scores", f"score of {sender} to {receiver} in each checkpoint",
        rows.select("checkpoint", "score", "low", "high", "in_circuit"),
        config=circuit_export.camera(f"{of.name}-edge"),
    )  # fmt: skip
    frame.caption(
        f"95 % intervals over {n} pairs. In the circuit of {', '.join(inside)}."
        if inside
        else f"95 % intervals over {n} pairs. In no checkpoint's circuit."
    )
    st.markdown("**Taken out, exactly**")
    taken(of, name, sender, receiver)
    others = [each for each in found.checkpoints if each != name]
    if others and st.button("In the other checkpoints too", key="edge-others", type="tertiary"):
        for each in others:
            taken(of, each, sender, receiver)


def taken(of: Of, name: str, sender: str, receiver: str) -> None:
    """What one checkpoint does without the edge, in a sentence."""
    left = circuit_store.edge(of, name, sender, receiver)
    said = (
        f"{name}: with this edge alone corrupt m changes by {bracketed(*left.alone, 3)} logits "
        f"(an edge that helps: below 0; n {left.n})"
    )
    if name not in circuit_store.found(of).able:
        frame.caption(f"{said}. {name} does not do the task, so it has no circuit that could lose it.")
        return
    if left.circuit is None or left.without is None:
        frame.caption(f"{said}. It is not in the circuit of {name}.")
        return
    frame.caption(
        f"{said}. The circuit does f = {bracketed(*left.circuit, 2)} with it and {bracketed(*left.without, 2)} "
        "without, on the pairs that found it."
    )
