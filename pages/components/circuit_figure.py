"""A circuit as a picture: components in their fixed places, edges as lines, both to be clicked."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from pages.components import charts, theme
from workbench.circuits.circuit_picture import Line, Place, line, places
from workbench.circuits.graph import EMBED, LOGITS, Graph

ROW = 62  # pixels
DASHES = {"q": "dot", "k": "dash", "v": "solid", "": "solid"}
UNCHANGED = {"marker": {"opacity": 1}}
SYMBOLS = {"head": "circle", "mlp": "square", "embed": "square", "logits": "square"}


def graph(shape: tuple[int, int, int, bool], edges: pl.DataFrame, used: list[str], chosen: str) -> go.Figure:
    """`edges`: sender, receiver, colour, dash, width, said (on hover), name; `used`: components that stand out;
    `chosen`: the component or the edge that is looked at."""
    of = Graph(*shape)
    where = places(of)
    made = charts.figure(round(ROW * (where[LOGITS].y - where[EMBED].y + 1)))
    lines = [line(of, where, s, r) for s, r in edges.select("sender", "receiver").iter_rows()]
    _lines(made, edges, lines)
    _points(made, edges, lines, chosen)
    _components(made, list(where.values()), set(used), chosen)
    made.update_xaxes(
        visible=False, range=[-0.9, max(place.x for place in where.values()) + 0.9], fixedrange=True
    )
    rows = [(f"layer {at}", 2 * at + 1.5) for at in range(of.n_layers)]
    made.update_yaxes(
        range=[where[EMBED].y - 0.5, where[LOGITS].y + 0.5], showgrid=False, fixedrange=True,
        tickvals=[y for _, y in rows], ticktext=[name for name, _ in rows],
    )  # fmt: skip
    made.update_layout(margin={"l": 8, "r": 4, "t": 4, "b": 4}, dragmode=False)
    return made


def _lines(made: go.Figure, edges: pl.DataFrame, lines: list[Line]) -> None:
    """All edges of one look in one trace."""
    looks = edges.select("colour", "dash", "width").rows()
    for look in sorted(set(looks), key=lambda each: each[2]):
        colour, dash, width = look
        x: list[float | None] = []
        y: list[float | None] = []
        for each, own in zip(lines, looks, strict=True):
            if own == look:
                x += [*each.x.tolist(), None]
                y += [*each.y.tolist(), None]
        made.add_trace(
            go.Scatter(
                x=x, y=y, mode="lines", line={"color": colour, "dash": dash, "width": 0.9 * width},
                hoverinfo="skip", opacity=0.8,
            )
        )  # fmt: skip


def _points(made: go.Figure, edges: pl.DataFrame, lines: list[Line], chosen: str) -> None:
    """A point near the middle of each edge, which can be hit; the chosen one stands out."""
    palette = theme.palette()
    names = edges["name"].to_list()
    made.add_trace(
        go.Scatter(
            x=[each.middle[0] for each in lines],
            y=[each.middle[1] for each in lines],
            mode="markers",
            marker={
                "size": [15 if name == chosen else 8 for name in names],
                "color": edges["colour"].to_list(),
                "line": {
                    "color": [palette.ink if name == chosen else palette.page for name in names],
                    "width": 1.5,
                },
                "opacity": 1,
            },
            unselected=UNCHANGED,
            customdata=[[name] for name in names],
            hovertext=edges["said"].to_list(),
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )


def _components(made: go.Figure, where: list[Place], used: set[str], chosen: str) -> None:
    palette = theme.palette()
    made.add_trace(
        go.Scatter(
            x=[place.x for place in where],
            y=[place.y for place in where],
            mode="markers+text",
            text=[place.name.split(".")[-1] for place in where],
            textfont={"size": 12, "color": [palette.ink if p.name in used else palette.muted for p in where]},
            marker={
                "size": [46 if p.kind in ("embed", "logits") else 36 for p in where],
                "symbol": [SYMBOLS[place.kind] for place in where],
                "color": [palette.panel if place.name in used else palette.page for place in where],
                "line": {
                    "color": [_rim(place.name, used, chosen) for place in where],
                    "width": [3.5 if place.name == chosen else 1.5 for place in where],
                },
                "opacity": 1,
            },
            unselected=UNCHANGED,
            customdata=[[place.name] for place in where],
            hovertemplate="%{customdata[0]}<extra></extra>",
        )
    )


def _rim(name: str, used: set[str], chosen: str) -> str:
    palette = theme.palette()
    if name == chosen:
        return palette.accent
    return palette.ink if name in used else palette.line
