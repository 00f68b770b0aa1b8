"""A task's prompts as tokens on the Circuits page, and one head's attention on one of them."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from pages.components import charts, circuit_store, theme, tokens
from pages.components.circuit_store import Of
from workbench.circuits.graph import head_at

SEEN = 0.01  # weights below are left out of the table
CELL = 17  # pixels


def short(of: Of, row: int, length: int = 46) -> str:
    """The end of a pair's clean prompt."""
    clean = circuit_store.texts(of)[row][0]
    text = "".join(tokens.readable(token) for token in clean).replace("\n", "↵")
    return text if len(text) <= length else f"…{text[-length:]}"


def last_row(of: Of, checkpoint: str, node: str, row: int) -> list[float]:
    """Where the last token looks."""
    return [float(w) for w in circuit_store.patterns(of, checkpoint, row)[head_at(node)][-1]]


def pattern(weights: list[list[float]], shown: list[str], colour: str) -> go.Figure:
    """Rows look back at columns."""
    n = len(shown)
    made = charts.figure(120 + CELL * n)
    names = [charts.plain(token) for token in shown]
    made.add_trace(
        go.Heatmap(
            z=[[w if k <= q else None for k, w in enumerate(row)] for q, row in enumerate(weights)],
            zmin=0, zmax=1, colorscale=[[0, theme.palette().page], [1, colour]],
            colorbar=charts.colour_bar("attention, share of the row"),
            customdata=[[[names[q], names[k]] for k in range(n)] for q in range(n)],
            hovertemplate="%{customdata[0]} looks back at %{customdata[1]}: %{z:.2f}<extra></extra>",
        )
    )  # fmt: skip
    every = list(range(n))
    made.update_xaxes(tickvals=every, ticktext=names, tickangle=90, showgrid=False, tickfont={"size": 10})
    made.update_yaxes(
        tickvals=every, ticktext=names, autorange="reversed", showgrid=False, tickfont={"size": 10}
    )
    made.update_layout(margin={"l": 4, "r": 4, "t": 56, "b": 4})
    return made


def looked_at(weights: list[list[float]], shown: list[str]) -> pl.DataFrame:
    """The same as rows: query, key, weight."""
    rows = [
        (q, shown[q], k, shown[k], weight)
        for q, row in enumerate(weights)
        for k, weight in enumerate(row)
        if weight >= SEEN
    ]
    return pl.DataFrame(rows, schema=["at", "query", "place", "looks back at", "weight"], orient="row")


def positions(of: Of) -> list[str]:
    """The tokens of the first pair of one length; where its two prompts differ, both."""
    clean, corrupt, _, _ = circuit_store.texts(of, "judge", True)[0]
    return [
        charts.plain(a.shown if a.id == b.id else f"{a.shown}|{b.shown}")
        for a, b in zip(clean, corrupt, strict=True)
    ]


def differing(of: Of) -> str:
    """Where the first pair of one length differs."""
    clean, corrupt, _, _ = circuit_store.texts(of, "judge", True)[0]
    return ", ".join(f"{a.shown}|{b.shown}" for a, b in zip(clean, corrupt, strict=True) if a.id != b.id)
