"""What attention costs against the length of the text, measured when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import curves, frame, trace_store, words
from pages.components.curves import Axis, Curve, Plot
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.attention_cost import AttentionCost, Slope

_SHORT = {"eager": "eager", "sdpa": "fused"}
_SAYS = {"eager": "eager, the matrix written down", "sdpa": "SDPA, fused"}


def view(lab: Lab, addresses: Sequence[str], colour: Mapping[str, str]) -> None:
    """A button, and once it was pressed the times of each checkpoint."""
    st.subheader("What attention costs", anchor=False)
    frame.caption(
        "One forward pass of random tokens, with attention as a matrix that is written down (what the pictures "
        "above need) and fused. The work of attention grows with the square of the length, all other work with "
        "the length itself: over long texts a slope of 2 against a slope of 1 on logarithmic axes. What this "
        "machine takes at the lengths that the model reads is measured, and may be neither."
    )
    run = frame.measured("measure_attention")
    if run is None:
        return
    found = {address: trace_store.attention_cost(lab, address, run) for address in addresses}
    curves.draw([_plot(a, cost, colour[a]) for a, cost in found.items()], "attention-cost", len(found), 240)
    for address, cost in found.items():
        frame.caption(_slopes(address, cost))
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
        Axis("tokens (logarithmic)", log=True, marks=[(float(n), str(n)) for n in lengths]),
        Axis("seconds (logarithmic)", log=True),
        drawn,
        table,
    )


def _slopes(address: str, cost: AttentionCost) -> str:
    """What was found: how time grows with the length, and which kind is the quicker where."""
    found = {kind: slope for kind in cost.kinds if (slope := cost.slope(kind)) is not None}
    if not found:
        return f"{address} reads too short a text for a slope."
    tokens = next(iter(found.values())).tokens
    each = "; ".join(
        f"{_SAYS[kind]}: {s.value:.2f} (95 % interval {s.low:.2f} to {s.high:.2f}), {_meaning(s)}"
        for kind, s in found.items()
    )
    told = f"Slopes in {address} over its longest lengths, {tokens[0]} to {tokens[-1]} tokens: {each}."
    return f"{told} {_quicker(cost)}" if len(cost.kinds) > 1 else told


def _meaning(slope: Slope) -> str:
    if slope.high < 1:
        return "less than in proportion, so these lengths are too short to show what attention costs"
    if slope.low > 1:
        return "more than in proportion: the work of attention is seen"
    return "not to be told from in proportion"


def _quicker(cost: AttentionCost) -> str:
    by_kind: dict[str | None, list[str]] = {}
    for n, kind in cost.faster().items():
        by_kind.setdefault(kind, []).append(str(n))
    said = [
        f"at {', '.join(ns)} tokens "
        + ("their bands overlap, so no difference is seen" if kind is None else f"{_SHORT[kind]} is quicker")
        for kind, ns in by_kind.items()
    ]
    return f"Of the two, {'; '.join(said)}."


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
