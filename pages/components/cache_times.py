"""What the KV cache saves, measured when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import curves, frame, store, trace_store, words
from pages.components.curves import Axis, Curve, Plot
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.cache_cost import CacheCost
    from workbench.trace import Trace

TOKENS = 48


def view(lab: Lab, traces: Mapping[str, Trace], colour: Mapping[str, str]) -> None:
    """A button, and once it was pressed the time of every token with the cache and without it."""
    from workbench.sampling import room

    st.subheader("What the KV cache saves", anchor=False)
    frame.caption(
        "Without a cache the whole text is read again for every token; with one only the newest, beside the keys "
        "and values that are held: 2 · layers · key-value heads · d_head numbers for every token."
    )
    run = frame.measured("measure_cache")
    if run is None:
        return
    found = {}
    for address, trace in traces.items():
        with frame.sentences():
            n = room(store.loaded(lab, address).model, trace.prompt, TOKENS)
            found[address] = trace_store.cache_cost(lab, address, trace.prompt.ids, n, run)
    if not found:
        return
    curves.draw([_plot(a, cost, colour[a]) for a, cost in found.items()], "cache-cost", len(found), 240)
    for address, cost in found.items():
        frame.caption(_sentence(address, cost))


def _plot(address: str, cost: CacheCost, colour: str) -> Plot:
    from workbench.cache_cost import OFF, ON

    table = cost.table()
    drawn = []
    for kind in (ON, OFF):
        rows = table.filter(table["kind"] == kind)
        said = [
            [f"after {n} tokens", f"{words.seconds(s)} ({words.seconds(low)} to {words.seconds(high)})"]
            for n, s, low, high, _ in rows.drop("kind").rows()
        ]
        x, *values = (rows[name].to_list() for name in ("tokens read", "seconds", "low", "high"))
        drawn.append(Curve(kind, colour, x, values[0], said, *values[1:], dashed=kind == OFF))
    alt = f"Seconds for one more token of {address}, with the KV cache and without it, by tokens read"
    return Plot(address, alt, Axis("tokens read before"), Axis("seconds (logarithmic)", log=True), drawn, table)


def _sentence(address: str, cost: CacheCost) -> str:
    from workbench.cache_cost import OFF, ON

    same = "wrote the same tokens" if cost.equal else "wrote other tokens (a tie, to rounding)"
    with_it, without, n = words.seconds(cost.total(ON)), words.seconds(cost.total(OFF)), len(cost.ids[ON])
    told = f"The {n - 1} after the first take {with_it} with the cache and {without} without it. "
    return (
        f"{address} {same} both ways, {n} of them. {told if n > 1 else ''}Medians of {cost.last(ON).seconds.n} "
        "runs in turn after one that is not counted; half of the runs lie within the band, which is wide where the "
        "machine has other work."
    )
