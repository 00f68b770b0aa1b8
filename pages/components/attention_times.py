"""What attention costs against the length of the text, measured when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import curves, frame, trace_store, words
from pages.components.curves import Axis, Curve, Plot
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.attention_cost import AttentionCost

RUN = "attention_run"  # how often it was asked for, in the session
_SAYS = {"eager": "eager, the matrix written down", "sdpa": "SDPA, fused"}


def view(lab: Lab, addresses: Sequence[str], colour: Mapping[str, str]) -> None:
    """A button, and once it was pressed the times of each checkpoint."""
    st.subheader("What attention costs", anchor=False)
    frame.caption(
        "One forward pass of random tokens, with attention as a matrix that is written down (what the pictures "
        "above need) and fused. The work of attention grows with the square of the length, all other work with "
        "the length itself: on these axes a slope of 2 against a slope of 1."
    )
    if st.button("Measure again" if RUN in st.session_state else "Measure", key="measure_attention"):
        st.session_state[RUN] = st.session_state.get(RUN, 0) + 1
    if RUN not in st.session_state:
        return
    run = int(st.session_state[RUN])
    found = {address: trace_store.attention_cost(lab, address, run) for address in addresses}
    curves.draw([_plot(a, cost, colour[a]) for a, cost in found.items()], "attention-cost", len(found), 240)
    for address, cost in found.items():
        frame.caption(_sentence(address, cost))


def _plot(address: str, cost: AttentionCost, colour: str) -> Plot:
    table = cost.table()
    lengths = table["tokens"].unique().sort().to_list()
    drawn = []
    for kind in cost.kinds:
        rows = table.filter(table["attention"] == kind)
        said = [
            [
                f"{n} tokens",
                f"{words.seconds(s)} ({words.seconds(low)} to {words.seconds(high)})",
                f"{runs} runs",
            ]
            for n, s, low, high, runs in rows.drop("attention").rows()
        ]
        values = (rows[name].to_list() for name in ("tokens", "seconds"))
        ends = (rows[name].to_list() for name in ("low", "high"))
        drawn.append(Curve(_SAYS[kind], colour, *values, said, *ends, dashed=kind == "sdpa"))
    return Plot(
        address,
        f"Seconds of a forward pass of {address} by length of the text, both axes logarithmic",
        Axis("tokens", log=True, marks=[(float(n), str(n)) for n in lengths]),
        Axis("seconds", log=True),
        drawn,
        table,
    )


def _sentence(address: str, cost: AttentionCost) -> str:
    from workbench.attention_cost import TOLERANCE

    runs = cost.costs[0].seconds.n
    if len(cost.kinds) == 1:
        told = f"{address} has no fused attention in this family"
    elif cost.equal:
        told = f"The logits of both ways in {address} are equal: {cost.parted:.1g} apart, {TOLERANCE:g} allowed"
    else:
        told = f"The two ways part in {address}: logits are {cost.parted:.1g} apart, {TOLERANCE:g} is allowed"
    return (
        f"{told} (as a share of the largest logit). Medians of {runs} runs in turn after one that is not counted; "
        "half of the runs lie within the band."
    )
