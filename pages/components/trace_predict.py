"""Predict: what each layer would say next, at every token and, at one of them, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import asked, frame, layer_curves, lens, trace_store
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.circuits.tuned_lens import TunedLens
    from workbench.trace import Trace

_LOGIT = (
    "The logit lens: the model's own head, read after every layer. Stronger colour, more certain; "
    "underlined where it is the token that truly follows. Hover a cell, or walk with the arrow keys; a click or "
    "Enter chooses the position that the curves below are about."
)
_TUNED = (
    "The tuned lens [Belrose 2023]: as the logit lens, but each layer's stream first goes through an affine map "
    "that was fitted for it, so that a layer that writes in its own basis is read too. The last row has no map: it "
    "is the model's prediction. A click or Enter chooses the position that the curves below are about."
)


def view(lab: Lab, question: asked.Question, traces: Mapping[str, Trace], colour: Mapping[str, str]) -> None:
    """The lens of each checkpoint over all tokens, then curves by layer at one position."""
    st.header("What each layer would say next", anchor=False)
    first = next(iter(traces.values()))
    left, right = st.columns([1, 3], vertical_alignment="bottom", gap="medium")
    with right:
        tuned = bool(st.toggle("Through the tuned lens", key="tuned", bind="query-params"))
    with left:
        position = layer_curves.position(first)
    frame.caption(_TUNED if tuned else _LOGIT)
    lenses = {a: trace_store.tuned(lab, a) if tuned else None for a in traces}
    for column, (address, trace) in zip(st.columns(len(traces), gap="large"), traces.items(), strict=True):
        with column:
            frame.name_tag(address, colour[address])
            if tuned and lenses[address] is None:
                frame.note(
                    f"No tuned lens of {address} has been fitted yet, so this is the logit lens: "
                    f"`python -m workbench lens {lab.name} {address}` fits one."
                )
            _lens(lab, address, trace, lenses[address], colour[address], position)
    layer_curves.view(lab, traces, lenses, position, colour)


def _lens(lab: Lab, address: str, trace: Trace, tuned: TunedLens | None, colour: str, position: int) -> None:
    read = trace.lens if tuned is None else trace_store.read_again(lab, address, trace, tuned)
    name = "logit lens" if tuned is None else "tuned lens"
    lens.grid(trace, read, colour, f"{name} of {address}", f"lens-{address}", layer_curves.CHOICE, position)
    with st.expander("The same as a table", key=f"lens-{address}-twin", on_change="rerun") as unfolded:
        if unfolded.open:
            st.dataframe(lens.table(trace, read), key=f"lens-table-{address}", hide_index=True)
