"""Predict: what each layer would say next, at every token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import asked, frame, lens
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.trace import Trace


def view(lab: Lab, question: asked.Question, traces: Mapping[str, Trace], colour: Mapping[str, str]) -> None:
    """The logit lens of each checkpoint."""
    st.header("What each layer would say next", anchor=False)
    frame.caption(
        "The logit lens: the model's own head, read after every layer. Stronger colour, more certain; "
        "underlined where it is the token that truly follows. Hover a cell, or walk with the arrow keys."
    )
    for column, (address, trace) in zip(st.columns(len(traces), gap="large"), traces.items(), strict=True):
        with column:
            frame.name_tag(address, colour[address])
            lens.grid(trace, colour[address], f"logit lens of {address}", f"lens-{address}")
            with st.expander("The same as a table"):
                st.dataframe(lens.table(trace), key=f"lens-table-{address}", hide_index=True)
