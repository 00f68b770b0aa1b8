"""Attend: every head small, one enlarged, and what a token looks back at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import asked, frame, heads
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.trace import Trace


def view(lab: Lab, question: asked.Question, traces: Mapping[str, Trace], colour: Mapping[str, str]) -> None:
    """The choice of a head, and all heads of each checkpoint."""
    st.header("What attention looks back at", anchor=False)
    frame.caption(
        "Rows of small pictures are layers, columns are heads; within each, a row is a token and shows which "
        "earlier tokens it reads. Choose a head to enlarge it, then hover a token."
    )
    first = next(iter(traces.values()))
    chosen = st.selectbox("Head (layer.head)", heads.names(first), key="head", bind="query-params", width=220)
    for column, (address, trace) in zip(st.columns(len(traces), gap="large"), traces.items(), strict=True):
        with column:
            frame.name_tag(address, colour[address])
            heads.grid(trace, chosen, colour[address], f"heads-{address}", "head")
            with st.expander("The same as a table"):
                st.dataframe(heads.table(trace, chosen), key=f"heads-table-{address}", hide_index=True)
