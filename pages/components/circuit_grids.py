"""The Patching view: one part of each checkpoint replaced at a time, by layer and position, by layer and head;
and one checkpoint's values in the other."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import (
    charts,
    circuit_choice,
    circuit_export,
    circuit_store,
    circuit_together,
    circuit_words,
    frame,
    kept,
    show,
    theme,
    words,
)
from pages.components.circuit_store import Of, Patched
from workbench.circuits.activation_patching import CONVENTIONS, DENOISE, NOISE
from workbench.circuits.direct_patching import DIRECT, part_names
from workbench.circuits.grids import HEAD, LAYER, POSITION
from workbench.circuits.pattern_patching import PATTERN
from workbench.circuits.places import ATTN_OUT, BY_HEAD, MLP_OUT, RESID_POST, RESID_PRE
from workbench.intervals import bracketed
from workbench.lab import Lab

WITHIN, ACROSS = "Clean and corrupt", "One checkpoint into another"
STREAMS = {
    RESID_PRE: "the stream before each layer", RESID_POST: "the stream after each layer",
    ATTN_OUT: "what attention writes", MLP_OUT: "what the MLP writes",
}  # fmt: skip
HEADS = {"z": "a head's output (z)", "q": "q", "k": "k", "v": "v"}
FURTHER = {
    PATTERN: "where a head looks (its attention pattern), what it finds there left as it was",
    DIRECT: "the direct path to the logits alone, no later part answering",
}
WAYS = {DENOISE: "denoise", NOISE: "noise"}


def view(lab: Lab, of: Of) -> None:
    """Choice of what is put where; grids of all checkpoints beside each other, on one scale."""
    found = circuit_store.found(of)
    frame.doubted("put", "choice of what is put where", [WITHIN, ACROSS])
    frame.doubted("patch", "direction", list(WAYS))
    with st.container(horizontal=True, gap="large"):
        way = st.segmented_control(
            "What is put where", [WITHIN, ACROSS], default=WITHIN, required=True, key="put", bind="query-params"
        )
        if way == WITHIN:
            direction = str(
                st.segmented_control(
                    "Direction", list(WAYS), default=DENOISE, required=True, key="patch", bind="query-params"
                )
            )
    points = [*STREAMS, *([PATTERN] if way == WITHIN else [])]
    frame.doubted("point", "point to patch", [_named(each) for each in points])
    point = str(
        st.selectbox("By position", points, key="point", bind="query-params", format_func=_named, width=360)
    )
    if way == ACROSS:
        _across(of, point)
        return
    names = found.checkpoints
    _say(f"{CONVENTIONS[direction]}", of)
    streams = {name: circuit_store.grid(of, name, point, direction, (LAYER, POSITION)) for name in names}
    for name in names:
        if not streams[name].grid.apart:
            frame.note(
                f"In {name} clean and corrupt prompts differ by no more than chance: there is nothing to share out."
            )
    circuit_choice.tags(names)
    _row(of, streams, (LAYER, POSITION), f"{_what(point)}, {direction}", "position")
    parts = [*list(BY_HEAD)[::-1], PATTERN, DIRECT]
    frame.doubted("headpoint", "part to patch", [_named(each) for each in parts])
    head = str(
        st.selectbox("By head", parts, key="headpoint", bind="query-params", format_func=_named, width=360)
    )
    heads = {name: circuit_store.grid(of, name, head, direction, (LAYER, HEAD)) for name in names}
    _row(of, heads, (LAYER, HEAD), f"{_what(head)} at all positions, {direction}", "head")
    for each in dict.fromkeys((point, head)):
        if each in FURTHER:
            frame.caption(f"{_what(each).capitalize()}: {FURTHER[each]}.")


def _what(point: str) -> str:
    return ({PATTERN: "attention patterns", DIRECT: "direct paths to the logits"} | STREAMS | HEADS)[point]


def _named(point: str) -> str:
    return f"{point}: {STREAMS[point]}" if point in STREAMS else _what(point)


def _say(convention: str, of: Of) -> None:
    n, first = len(circuit_store.pairs(of, "judge", True)), circuit_words.differing(of)
    frame.caption(
        f"{convention[:1].upper()}{convention[1:]}. On {n} judge pairs of one length; positions carry the "
        f"tokens of the first pair (clean|corrupt where they differ: {first}). Hover a cell for its 95 % "
        "interval over pairs."
    )


def _across(of: Of, point: str) -> None:
    """One checkpoint's values in the other, on clean prompts."""
    couple = circuit_choice.couple(circuit_store.found(of).checkpoints)
    if couple is None:
        return
    before, after = couple
    both = circuit_store.cross(of, before, after, point, (LAYER, POSITION))
    by_head = circuit_store.cross(of, before, after, "z", (LAYER, HEAD))
    gap = both[0].grid.gap
    _say(both[0].grid.convention, of)
    frame.caption(
        f"On the clean prompts m({before}) − m({after}) is {float(gap.value):.2f} logits [{float(gap.low):.2f}, "
        f"{float(gap.high):.2f}]: the effect is a share of that."
    )
    if both[0].grid.apart and both[0].grid.vague:
        frame.note(
            "The whole difference is no larger than its interval is wide: shares of it tell next to nothing."
        )
    if not both[0].grid.apart:
        frame.note(
            f"On the clean prompts {before} and {after} answer alike within what the choice of pairs "
            "explains: there is no difference to share out."
        )
        circuit_together.view(of, before, after)
        return
    called = (f"{before} into {after}", f"{after} into {before}")
    for column, name in zip(st.columns(2, gap="large"), called, strict=True):
        column.markdown(f"**{name}**")
    _row(of, dict(zip(called, both, strict=True)), (LAYER, POSITION), STREAMS[point], "cross-position")
    _row(of, dict(zip(called, by_head, strict=True)), (LAYER, HEAD), "heads' outputs (z)", "cross-head")
    circuit_together.view(of, before, after)


def _row(of: Of, grids: dict[str, Patched], axes: tuple[str, ...], what: str, key: str) -> None:
    """The same grid of each checkpoint, all on one scale."""
    labels = circuit_words.positions(of) if POSITION in axes else None
    undone = [] if key.startswith("cross") else circuit_choice.undone(circuit_store.found(of))
    for column, (name, made) in zip(st.columns(len(grids), gap="large"), grids.items(), strict=True):
        with column:
            value, low, high = (part.tolist() for part in made.effects)
            columns = part_names(len(value[0]) - 2) if made.grid.point == DIRECT else None
            figure = kept.picture(heat, value, low, high, labels, columns, name not in undone)
            show.chart(
                figure, f"grid-{key}-{name.replace(' ', '-')}",
                f"effect of {what} by {' and '.join(axes)} in {name}",
                _table(made), config=circuit_export.camera(f"{of.name}-{name}-{key}"),
            )  # fmt: skip
            if name in undone:
                frame.caption(
                    f"Not coloured: {name} does not do the task, for the reason above, so no effect here is part "
                    "of doing it."
                )


def heat(
    value: list[list[float]],
    low: list[list[float]],
    high: list[list[float]],
    labels: list[str] | None,
    parts: list[str] | None,
    done: bool,
) -> go.Figure:
    """Effects from −1 (red) over 0 to 1 (blue); what goes beyond is as strong as the end. Where the task is not
    `done` all cells are grey."""
    palette = theme.palette()
    rows, columns = list(range(len(value))), list(range(len(value[0])))
    made = charts.figure(140 + 44 * len(rows))
    ends = [[0, palette.hinders], [0.5, palette.panel], [1, palette.helps]]
    made.add_trace(
        go.Heatmap(
            z=value, zmin=-1, zmax=1, xgap=1, ygap=1, showscale=done,
            colorscale=ends if done else [[0, palette.line], [1, palette.line]],
            colorbar=charts.colour_bar("effect, share of the difference in m"),
            customdata=[[[a, b] for a, b in zip(*pair, strict=True)] for pair in zip(low, high, strict=True)],
            hovertemplate="layer %{y}, %{x}: %{z:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})"
            "<extra></extra>",
        )
    )  # fmt: skip
    if not done:
        made.add_annotation(
            text="does not do the task", xref="paper", yref="paper", x=0.5, y=0.5, showarrow=False
        )
    elif labels is None:
        made.data[0].update(
            text=[[words.minus(bracketed(v, None, None, 2)) for v in row] for row in value],
            texttemplate="%{text}",
        )
    names = labels or parts or [f"h{at}" for at in columns]
    made.update_xaxes(tickvals=columns, ticktext=names, tickangle=0 if labels is None else 90, showgrid=False)
    made.update_yaxes(tickvals=rows, ticktext=[str(row) for row in rows], title="layer", showgrid=False)
    made.update_layout(margin={"l": 4, "r": 4, "t": 56, "b": 4})
    return made


def _table(made: Patched) -> pl.DataFrame:
    from workbench.circuits.grids import cells

    return cells(made.effects, made.grid.axes)
