"""Pictures of findings in the lab's look: the plots of a probe in checkpoints' colours, figures beside nulls."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, show, theme

NULL = "null"
MOST_FORESTS = 8  # drawn; the table has all


def drawn(figure: Mapping[str, Any], about: Sequence[str]) -> go.Figure:
    """A probe's figure; a trace named after a checkpoint gets its colour and shape."""
    spec = copy.deepcopy(dict(figure))
    layout = spec.get("layout", {})
    made = charts.figure(int(layout.get("height", 340)))
    palette = theme.palette()
    names = [str(trace.get("name", "")) for trace in spec["data"]]
    known = [*about, *(name for name in names if theme.stage_of(name) in {theme.stage_of(a) for a in about})]
    colours, symbols = theme.colours(known), theme.symbols(known)
    others, drawn_so = itertools.cycle(palette.others), set[tuple[str, str]]()
    for trace, name in zip(spec["data"], names, strict=True):
        if trace["type"] in ("heatmap", "heatmapgl"):
            trace.setdefault("colorscale", _scale("zmid" in trace))
        elif name == NULL:
            _coloured(trace, palette.muted, "line-ns-open")
        else:
            colour, symbol = colours.get(name) or next(others), symbols.get(name, "circle")
            again = (colour, symbol) in drawn_so
            drawn_so.add((colour, symbol))
            _coloured(trace, colour, f"{symbol}-open" if again else symbol)
            if again and trace["type"].startswith("scatter"):
                trace["line"].setdefault("dash", "dot")
        made.add_trace(trace)
    for shape in layout.get("shapes", []):
        shape.setdefault("line", {})["color"] = palette.muted
        if shape["line"].get("dash") == "dash":
            shape.setdefault(
                "label", {"text": "null", "textposition": "start", "font": {"color": palette.muted}}
            )
    made.update_layout(layout)
    if layout.get("showlegend"):
        charts.legend_above(made)
    made.update_layout(margin={"l": 8, "r": 12, "t": 44 if layout.get("showlegend") else 16, "b": 8})
    return made


def _coloured(trace: dict[str, Any], colour: str, symbol: str | None) -> None:
    marker = trace.setdefault("marker", {})
    marker.setdefault("color", colour)
    if symbol and trace["type"].startswith("scatter"):
        marker.setdefault("symbol", symbol)
    if trace["type"].startswith("scatter"):
        trace.setdefault("line", {}).setdefault("color", colour)
    for ends in ("error_x", "error_y"):
        if ends in trace:
            trace[ends].setdefault("color", colour)


def _scale(diverging: bool) -> list[list[Any]]:
    palette = theme.palette()
    if diverging:
        return [[0.0, palette.hinders], [0.5, palette.page], [1.0, palette.helps]]
    return [[0.0, palette.panel], [1.0, palette.accent]]


def forests(figures: Sequence[Mapping[str, Any]], about: Sequence[str], key: str) -> None:
    """A small picture for each kind of figure (they have units of their own), each figure above its null."""
    kinds = list(dict.fromkeys(figure["name"] for figure in figures))
    columns = st.columns(2, gap="large")
    for number, kind in enumerate(kinds[:MOST_FORESTS]):
        part = [figure for figure in figures if figure["name"] == kind]
        with columns[number % 2]:
            made, table = _forest(part, about)
            show.chart(made, f"{key}-forest-{number}", f"{kind} with intervals beside its null", table)
    if len(kinds) > MOST_FORESTS:
        st.caption(f"{len(kinds) - MOST_FORESTS} more kinds of figures are in the table below.")


def _forest(part: Sequence[Mapping[str, Any]], about: Sequence[str]) -> tuple[go.Figure, pl.DataFrame]:
    single = len({figure["where"] for figure in part}) == 1
    rows = [
        {
            "row": f["checkpoint"] or "all" if single else f"{f['where']} {f['checkpoint']}".strip(),
            "series": f["checkpoint"] or "all", "value": f["value"], "low": f["low"], "high": f["high"],
            "n": f["n"], "null": f["null"]["value"], "null low": f["null"]["low"], "null high": f["null"]["high"],
        }
        for f in part
    ]  # fmt: skip
    table = pl.DataFrame(rows, infer_schema_length=None)
    palette = theme.palette()
    colours = theme.colours([*about, *table["series"].to_list()])
    made = charts.figure(96 + 34 * len(rows))
    places = list(range(len(rows)))
    made.add_trace(
        go.Bar(
            base=table["null low"].to_list(), x=(table["null high"] - table["null low"]).to_list(), y=places,
            orientation="h", width=0.5, marker={"color": palette.line, "line": {"width": 0}},
            hovertext=[f"null {r['null']:.3g} ({r['null low']:.3g} to {r['null high']:.3g})" for r in rows],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )  # fmt: skip
    made.add_trace(
        go.Scatter(
            x=table["null"].to_list(), y=places, mode="markers", hoverinfo="skip",
            marker={"symbol": "line-ns-open", "size": 14, "color": palette.muted, "line": {"width": 2}},
        )
    )  # fmt: skip
    made.add_trace(
        go.Scatter(
            x=table["value"].to_list(), y=places, mode="markers", cliponaxis=False,
            marker={"color": [colours[r["series"]] for r in rows], "size": 10},
            error_x=charts.interval(table, "value", palette.ink),
            customdata=[(r["low"], r["high"], r["n"]) for r in rows],
            hovertemplate="%{x:.3g} (%{customdata[0]:.3g} to %{customdata[1]:.3g}), n %{customdata[2]:,}"
            "<extra></extra>",
        )
    )  # fmt: skip
    labels = [charts.plain(r["row"]) for r in rows]
    made.update_yaxes(tickvals=places, ticktext=labels, range=[len(rows) - 0.4, -0.6], showgrid=False)
    made.update_xaxes(title=charts.plain(part[0]["name"]))
    return made, table
