"""The Snapshots view: the task, its circuit and its overlap along the lineage; below, what heads come to attend to
and when copying in context sets in."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, circuit_export, circuit_store, frame, kept, show, step_axis, theme
from pages.components.circuit_store import Of
from workbench.circuits.circuit_history import LAST_HERE, OWN, TOLD_APART, CircuitHistory
from workbench.circuits.competence import CHANCE, KNOWN
from workbench.circuits.heads import KINDS
from workbench.errors import Misuse
from workbench.lab import Lab

HOVER = "%{customdata[0]}: %{y:.3f}"
INTERVAL = HOVER + " (%{customdata[1]:.3f} to %{customdata[2]:.3f})"
SHARED = ("edges", "weights")


def view(lab: Lab, of: Of) -> None:
    """Sentences, the circuit's way, the heads' way; or the command that makes them."""
    try:
        history = circuit_store.history(of)
    except Misuse as error:
        frame.note(f"{error}.")
        return
    for sentence in history.sentences():
        frame.note(f"{sentence}.")
    _circuit(of, history)
    st.subheader("Heads and copying on repeated random tokens", anchor=False)
    _heads(of, history)


def _circuit(of: Of, history: CircuitHistory) -> None:
    shown = [TOLD_APART, *([LAST_HERE, OWN, *SHARED] if history.claimed else [OWN])]
    curves = {figure: history.curve(figure) for figure in shown}
    show.chart(
        kept.picture(way, curves, history.moments, history.last), "snapshots",
        "how well the task is done, f and overlap of circuits along the snapshots",
        history.table("history"), config=circuit_export.camera(f"{of.name}-snapshots"),
    )  # fmt: skip
    n = history.table("history")["n"].max()
    frame.caption(
        f"At every moment on {n} pairs that found no circuit, with 95 % intervals over pairs. f and what is in "
        "common are left out where the task is not done. Own: the circuit of as many edges that the moment's own "
        f"scores choose, on {n} pairs, where {history.last}'s was found on {history.found.n_search}: at "
        "that checkpoint itself the two are alike, not the same. What is in common has no interval."
    )


def _heads(of: Of, history: CircuitHistory) -> None:
    for sentence in history.figures["sentences"]:
        frame.caption(f"{sentence}.")
    curves = {kind: history.head_curves(kind) for kind in KINDS}
    show.chart(
        kept.picture(heads, curves, history.table("copying"), history.moments), "snapshot-heads",
        "scores of the strongest heads of each kind and copying in context along the snapshots",
        history.table("heads"), config=circuit_export.camera(f"{of.name}-snapshot-heads"),
    )  # fmt: skip
    show.twin(history.table("copying"), "snapshot-copying", "Copying as a table")
    frame.caption(
        "Share of a head's attention, the first key left out, that goes to the previous token, to an earlier copy "
        "of its own, or behind such a copy, on random ids said twice; uniform: attention spread evenly. Of each "
        "kind the heads with the largest score at any moment, which leans upwards. Copying: nats a token that the "
        f"ids cost less the second time. 95 % intervals over {history.table('copying')['n'].max()} sequences. Only "
        "an induction head and copying together are the phase change [Olsson 2022]."
    )


def way(curves: dict[str, pl.DataFrame], moments: pl.DataFrame, last: str) -> go.Figure:
    """A panel for right choices; for f of circuits; for what they have in common."""
    palette = theme.palette()
    own = (OWN, "the moment's own", palette.others[0], "square")
    panels = [("right choices between target and foil", [(TOLD_APART, "the task", palette.ink, "circle")])]
    if LAST_HERE in curves:
        followed = (LAST_HERE, f"{last}'s circuit", palette.accent, "circle")
        looks = ((palette.accent, "diamond"), (palette.others[1], "triangle-up"))
        shared = [(figure, figure, *look) for figure, look in zip(SHARED, looks, strict=True)]
        panels += [
            ("f, share of the task done", [followed, own]),
            (f"in common with {last}'s circuit (Jaccard; of weights, the weighted one)", shared),
        ]
    else:
        panels.append(("f, share of the task done", [own]))
    made = _panels([title for title, _ in panels], [170] * len(panels))
    for row, (_, lines) in enumerate(panels, 1):
        for figure, name, colour, symbol in lines:
            _line(made, row, curves[figure], "value", name, colour, symbol)
    for at in (CHANCE, KNOWN):
        made.add_hline(y=at, line={"color": palette.muted, "dash": "dot", "width": 1}, row=1)
    made.update_yaxes(
        range=[0, 1.06], tickvals=[0, CHANCE, KNOWN, 1], ticktext=["0", "½ chance", "¾ asked for", "1"], row=1
    )
    made.add_hline(y=1, line={"color": palette.line, "width": 1}, row=2)
    made.update_yaxes(rangemode="tozero", row=2)
    if len(panels) > 2:
        made.update_yaxes(range=[0, 1.06], row=3)
    _axis(made, moments)
    return made


def heads(curves: dict[str, pl.DataFrame], copying: pl.DataFrame, moments: pl.DataFrame) -> go.Figure:
    """A panel a kind of head, all on one scale, with uniform attention; one for copying."""
    palette = theme.palette()
    looks = list(zip((palette.accent, *palette.others), ("circle", "square", "diamond"), strict=False))
    made = _panels([*curves, "copying in context, nats a token"], [*[150] * len(curves), 150])
    for row, rows in enumerate(curves.values(), 1):
        for name, (colour, symbol) in zip(rows["name"].unique(maintain_order=True), looks, strict=False):
            part = moments.join(rows.filter(name=name), on="axis", how="left", maintain_order="left")
            _line(made, row, part, "score", name, colour, symbol)
        _flat(made, row, float(rows["null"][0]), moments, "uniform")
    part = moments.join(copying, on="axis", how="left", maintain_order="left")
    _line(made, len(curves) + 1, part, "copying", "copying", palette.ink, "circle")
    _flat(made, len(curves) + 1, 0.0, moments, "none")
    made.update_yaxes(range=[0, 1.04], row=1)
    for row in range(2, len(curves) + 1):  # one scale: what stays at uniform is seen to
        made.update_yaxes(matches="y", row=row)
    _axis(made, moments)
    return made


def _axis(made: go.Figure, moments: pl.DataFrame) -> None:
    """The axis; legends at the right leave it little room."""
    step_axis.draw(made, moments)
    made.update_xaxes(tickfont={"size": 10})


def _panels(titles: Sequence[str], heights: Sequence[int]) -> go.Figure:
    """One axis under panels that each have their own legend at the right."""
    made = make_subplots(
        len(titles), 1, shared_xaxes=True, row_heights=list(heights), subplot_titles=list(titles),
        vertical_spacing=0.07,
    )  # fmt: skip
    made.update_layout(charts.figure(sum(heights) + 110).layout)
    made.update_layout(margin={"t": 60}, showlegend=True)
    for row in range(1, len(titles) + 1):
        top = made.layout["yaxis" if row == 1 else f"yaxis{row}"].domain[1]
        place = {"x": 1.01, "xanchor": "left", "y": top, "yanchor": "top"}
        made.update_layout({_legend(row): place | {"font": {"color": theme.palette().ink}}})
    return made


def _legend(row: int) -> str:
    return "legend" if row == 1 else f"legend{row}"


def _line(
    made: go.Figure, row: int, rows: pl.DataFrame, value: str, name: str, colour: str, symbol: str
) -> None:
    """A curve with its intervals, broken where a moment has no value."""
    known = bool(rows["low"].count())
    made.add_trace(
        go.Scatter(
            x=rows["place"].to_list(), y=rows[value].to_list(), mode="lines+markers", name=charts.plain(name),
            line={"color": colour, "width": 2}, marker={"symbol": symbol, "size": 7}, legend=_legend(row),
            error_y=charts.interval(rows, value, colour, width=2) if known else None, cliponaxis=False,
            customdata=rows.select("address", "low", "high").rows(),
            hovertemplate=(INTERVAL if known else HOVER) + f"<extra>{charts.plain(name)}</extra>",
        ),
        row,
        1,
    )  # fmt: skip


def _flat(made: go.Figure, row: int, at: float, moments: pl.DataFrame, name: str) -> None:
    """What a curve would be where nothing was learnt."""
    made.add_trace(
        go.Scatter(
            x=moments["place"].to_list(), y=[at] * len(moments), mode="lines", name=name, legend=_legend(row),
            line={"color": theme.palette().muted, "dash": "dot", "width": 1.5},
            hovertemplate=f"%{{y:.4f}}<extra>{name}</extra>",
        ),
        row,
        1,
    )  # fmt: skip
