"""One position through the layers: probability and rank of the token that follows, and entropy, as curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl
import streamlit as st

from pages.components import curves, frame, trace_store, words
from pages.components.curves import Axis, Curve, Plot
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.circuits.tuned_lens import TunedLens
    from workbench.lens import LayerCurve
    from workbench.trace import Trace

CHOICE = "at"  # the widget of the position


def position(trace: Trace) -> int:
    """The position that the curves are about: the address's, else the last."""
    n = len(trace.prompt.ids)
    asked = st.number_input(
        "Position, from 0 (empty: the last)", 0, None, None, key=CHOICE, bind="query-params", width=260
    )
    if asked is not None and asked >= n:
        frame.note(f"The text has {n} tokens, so there is none at {int(asked)}: the last is shown.")
    return n - 1 if asked is None or asked >= n else int(asked)


def view(
    lab: Lab,
    traces: Mapping[str, Trace],
    lenses: Mapping[str, TunedLens | None],
    at: int,
    colour: Mapping[str, str],
) -> None:
    """Three curves by layer, a line a checkpoint."""
    from workbench.trace import target_at

    found, said = {}, []
    for address, trace in traces.items():
        here = min(at, len(trace.prompt.ids) - 1)
        target = target_at(trace, here)
        found[address] = trace_store.layers_at(lab, address, trace, here, target, lenses[address])
        said.append(_said(address, trace, here, found[address]))
    st.subheader(f"After {next(iter(traces.values())).prompt.tokens[at].shown}, by layer", anchor=False)
    titles = _own(traces, at)
    rows = max((trace.lens.rows for trace in traces.values()), key=len)
    curves.draw([_plot(kind, found, rows, colour, titles.get(kind)) for kind in _KINDS], "by-layer", 3)
    frame.caption(" ".join(said))


_KINDS = {
    "probability": (
        "Probability of what follows",
        Axis("layer", low=0),
        Axis("probability", low=0.0, high=1.0),
    ),
    "rank": (
        "Its rank (1 is the likeliest)",
        Axis("layer"),
        Axis("rank (logarithmic)", log=True, low=1.0, downwards=True),
    ),
    "entropy": ("Entropy of what the layer says", Axis("layer"), Axis("nats", low=0.0)),
}


def _own(traces: Mapping[str, Trace], at: int) -> dict[str, str]:
    """Other titles where nothing follows: each checkpoint's own likeliest token is meant then."""
    ends = {a: trace for a, trace in traces.items() if at + 1 >= len(trace.prompt.ids)}
    if len(ends) < len(traces):
        return {}
    named = dict.fromkeys(str(trace.lens.top_shown[-1, -1, 0]) for trace in ends.values())
    if len(named) == 1:
        return {"probability": f"Probability of the model's own likeliest, “{next(iter(named))}”"}
    return {"probability": "Probability of each checkpoint's own likeliest token"}


def _said(address: str, trace: Trace, at: int, curve: LayerCurve) -> str:
    p = words.number(float(curve.probability[-1]))
    if at + 1 < len(trace.prompt.ids):
        return f"In {address} what follows, “{trace.prompt.tokens[at + 1].shown}”, ends with probability {p}."
    last = trace.lens.top_shown[-1, at, 0]
    return (
        f"Nothing follows the last token: in {address} the curves are about its own likeliest, “{last}”, which "
        f"ends with probability {p}."
    )


def _plot(
    kind: str,
    found: Mapping[str, LayerCurve],
    rows: tuple[str, ...],
    colour: Mapping[str, str],
    other: str | None = None,
) -> Plot:
    usual, x, y = _KINDS[kind]
    title = other or usual
    values = {a: [float(v) for v in _shown(kind, curve)] for a, curve in found.items()}
    marks = [(float(i), name.removeprefix("block ").replace("embedding", "emb")) for i, name in enumerate(rows)]
    drawn = [
        Curve(
            address, colour[address], list(map(float, range(len(each)))), each,
            [[name, words.number(v)] for name, v in zip(rows, each, strict=False)],
            dashed=i > 0,
        )
        for i, (address, each) in enumerate(values.items())
    ]  # fmt: skip
    columns = {a: each + [None] * (len(rows) - len(each)) for a, each in values.items()}
    table = pl.DataFrame({"layer": list(rows), **columns})
    return Plot(title, f"{title} by layer", x._replace(marks=marks if len(marks) < 14 else ()), y, drawn, table)


def _shown(kind: str, curve: LayerCurve) -> list[float]:
    """Ranks are counted from 1 for people."""
    return [rank + 1 for rank in curve.rank] if kind == "rank" else list(getattr(curve, kind))
