"""The Heads view: where the last token looks, by head and place; what each part writes into the answer."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, circuit_choice, circuit_export, circuit_store, frame, kept, show, theme
from pages.components.circuit_store import Of
from workbench.errors import MarbleError
from workbench.lab import Lab


def view(lab: Lab, of: Of) -> None:
    """Attention of all checkpoints beside each other; below it direct logit attribution of all of them."""
    _looks(of)
    st.subheader("What each part writes into the answer", anchor=False)
    _writes(of)


def _looks(of: Of) -> None:
    names = circuit_store.found(of).checkpoints
    clean = circuit_store.texts(of, "judge", True)[0][0]
    labels = [charts.plain(token.shown) for token in clean]
    frame.caption(
        f"Attention from the last token of the clean prompts (columns: what it looks at), the mean over "
        f"{len(circuit_store.pairs(of, 'judge', True))} judge pairs of one length; places carry the tokens of the "
        "first pair. Rows: layer.head; a row sums to 1. Hover a cell for its 95 % interval over pairs."
    )
    circuit_choice.tags(names)
    undone = circuit_choice.undone(circuit_store.found(of))
    if undone:
        frame.caption(
            f"Grey: {', '.join(undone)} does not do the task. What is seen there is no account of how it is done."
        )
    for column, name in zip(st.columns(len(names), gap="large"), names, strict=True):
        looked, colour = circuit_store.last_attention(of, name), _colour(name, undone)
        with column:
            show.chart(
                kept.picture(attention, looked.mean.tolist(), looked.interval.tolist(), labels, colour),
                f"last-attention-{name}", f"attention from the last token by head and place in {name}",
                looked.table, config=circuit_export.camera(f"{of.name}-{name}-attention"),
            )  # fmt: skip


def _colour(name: str, undone: list[str]) -> str:
    """Grey for a checkpoint that does not do the task."""
    return theme.palette().muted if name in undone else theme.colours([name])[name]


def attention(
    mean: list[list[list[float]]], ends: list[list[list[list[float]]]], labels: list[str], colour: str
) -> go.Figure:
    """A row a head, layer 0 at the bottom, from 0 (page) to 1 (the checkpoint's colour)."""
    heads = [f"{layer}.{head}" for layer, rows in enumerate(mean) for head in range(len(rows))]
    made = charts.figure(150 + 20 * len(heads))
    made.add_trace(
        go.Heatmap(
            z=[row for rows in mean for row in rows], zmin=0, zmax=1, xgap=1, ygap=1,
            colorbar=charts.colour_bar("attention, share of the row"),
            colorscale=[[0, theme.palette().panel], [1, colour]],
            customdata=[
                [[head, place, *end] for place, end in zip(labels, row, strict=True)]
                for head, row in zip(heads, (row for rows in ends for row in rows), strict=True)
            ],
            hovertemplate="head %{customdata[0]} at %{customdata[1]}: %{z:.3f} (%{customdata[2]:.3f} to "
            "%{customdata[3]:.3f})<extra></extra>",
        )
    )  # fmt: skip
    places, rows = list(range(len(labels))), list(range(len(heads)))
    made.update_xaxes(tickvals=places, ticktext=labels, tickangle=90, showgrid=False, tickfont={"size": 10})
    made.update_yaxes(tickvals=rows, ticktext=heads, title="head", showgrid=False, tickfont={"size": 10})
    made.update_layout(margin={"l": 4, "r": 4, "t": 56, "b": 4})
    return made


def _writes(of: Of) -> None:
    rows: list[tuple[object, ...]] = []
    for name in circuit_store.found(of).checkpoints:
        try:
            made = circuit_store.written(of, name)
        except MarbleError as error:
            frame.note(f"{error}.")
            continue
        frame.caption(f"{name}, {made.check}.")
        rows += [(name, *each) for each in made.parts.values()]
    if not rows:
        return
    table = pl.DataFrame(rows, schema=["checkpoint", "component", "logits", "low", "high", "n"], orient="row")
    show.chart(
        kept.picture(writes, table, circuit_choice.undone(circuit_store.found(of))), "direct-logits",
        "direct logit attribution by embedding, head and MLP in each checkpoint", table,
        config=circuit_export.camera(f"{of.name}-direct-logits"),
    )  # fmt: skip
    frame.caption(
        "Direct logit attribution: what a part writes at the last token, through the final norm (its scale as it "
        "was on the prompt) and the unembedding of target minus foil, on the clean prompts that found the circuit. "
        "Right of 0 it speaks for the target. What a part does through later ones counts as theirs. 95 % intervals "
        "over pairs."
    )


def writes(table: pl.DataFrame, undone: list[str]) -> go.Figure:
    """A panel a checkpoint, all on one scale; a row a part, from the bottom in the order in which they write. Grey:
    it does not do the task."""
    names, parts = (table[of].unique(maintain_order=True).to_list() for of in ("checkpoint", "component"))
    colours, symbols = {name: _colour(name, undone) for name in names}, theme.symbols(names)
    made = make_subplots(
        1, len(names), shared_yaxes=True, subplot_titles=[charts.plain(name) for name in names],
        horizontal_spacing=0.03,
    )  # fmt: skip
    made.update_layout(charts.figure(110 + 24 * len(parts)).layout)
    for at, name in enumerate(names, 1):
        rows = table.filter(checkpoint=name)
        made.add_trace(
            go.Scatter(
                x=rows["logits"].to_list(), y=[parts.index(part) for part in rows["component"]], mode="markers",
                name=charts.plain(name), marker={"color": colours[name], "symbol": symbols[name], "size": 9},
                error_x=charts.interval(rows, "logits", colours[name], thickness=2),
                customdata=rows.select("component", "low", "high").rows(), cliponaxis=False,
                hovertemplate="%{customdata[0]}: %{x:.3f} (%{customdata[1]:.3f} to %{customdata[2]:.3f}) logits"
                "<extra>" + charts.plain(name) + "</extra>",
            ),
            1,
            at,
        )  # fmt: skip
    made.add_vline(x=0, line={"color": theme.palette().muted, "width": 1})
    made.update_xaxes(matches="x", title="logits", nticks=6)
    made.update_yaxes(
        tickvals=list(range(len(parts))), ticktext=parts, range=[-0.5, len(parts) - 0.5], fixedrange=True
    )
    return made
