"""Attend: every head small, one enlarged, what a token looks back at, and what attention costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import asked, attention_times, frame, heads, trace_store, words
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.circuits.head_labels import Labelled
    from workbench.trace import Trace


def view(lab: Lab, question: asked.Question, traces: Mapping[str, Trace], colour: Mapping[str, str]) -> None:
    """The choice of a head, all heads of each checkpoint, and on demand what they cost."""
    st.header("What attention looks back at", anchor=False)
    frame.caption(
        "Rows of small pictures are layers, columns are heads, both counted from 0; within each, a row is a "
        "token and shows which earlier tokens it reads. The grey half is the causal mask. Click a head to "
        "enlarge it, then hover a token."
    )
    named = {address: trace_store.labelled(lab, address) for address in traces}
    every = list(dict.fromkeys(name for trace in traces.values() for name in heads.names(trace)))
    frame.doubted("head", "head", every)
    chosen = str(st.selectbox("Head (layer.head)", every, key="head", bind="query-params", width=220))
    for column, (address, trace) in zip(st.columns(len(traces), gap="large"), traces.items(), strict=True):
        with column:
            frame.name_tag(address, colour[address])
            _heads(trace, chosen, address, colour[address], named[address])
    _told(named)
    attention_times.view(lab, list(traces), colour)


def _heads(trace: Trace, chosen: str, address: str, colour: str, named: Labelled) -> None:
    there = heads.names(trace)
    if chosen not in there:
        frame.note(f"{address} has no head {chosen}: its last is {there[-1]}, which is shown.")
        chosen = there[-1]
    says = {
        f"{label.layer}.{label.head}": f"{label.name}, {words.number(label.score)} "
        f"({words.number(label.low)} to {words.number(label.high)})"
        for label in named.labels
    }
    heads.grid(trace, chosen, colour, f"heads-{address}", "head", says)
    if (block := heads.block(len(trace.prompt.tokens))) > 1:
        frame.caption(
            f"The text is long: a cell of a small picture is {block} × {block} tokens, as strong as the strongest."
        )
    with st.expander("The same as a table", key=f"heads-{address}-twin", on_change="rerun") as unfolded:
        if unfolded.open:
            st.dataframe(heads.table(trace, chosen), key=f"heads-table-{address}", hide_index=True)


def _told(named: Mapping[str, Labelled]) -> None:
    """What the names of heads rest on."""
    from workbench.circuits.head_labels import BOUND

    on = "; ".join(dict.fromkeys(each.measured_on for each in named.values() if each.measured_on))
    none = [address for address, each in named.items() if not each.labels and not each.unmeasured]
    frame.caption(
        f"A head is named where more than {BOUND} of what it gives to tokens after the first goes to the previous "
        "token, to an earlier copy of its own (duplicate) or to what followed that copy (induction), or more than "
        f"{BOUND} of all goes to the first token: the lower end of the 95 % interval over sequences is above the "
        "bound."
        + (f" Measured on {on}, not on this text." if on else "")
        + (f" No head of {' or '.join(none)} passes." if none else "")
        + "".join(
            f" No head of {a} is named: {each.unmeasured}." for a, each in named.items() if each.unmeasured
        )
    )
