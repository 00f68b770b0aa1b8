"""Plotly figures in the lab's look. They draw the numbers they are given and work none out.

Text, grid and background follow Streamlit's theme; only the colours of checkpoints are set here.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import polars as pl

from pages.components import theme, words

WEBGL_ABOVE = 1_000  # points


def figure(height: int, **layout: Any) -> go.Figure:
    """An empty figure: no box, thin grid, room for the labels."""
    made = go.Figure()
    made.update_layout(
        height=height,
        margin={"l": 8, "r": 12, "t": 28, "b": 8},
        showlegend=False,
        hovermode="closest",
        uirevision="keep",
        dragmode="zoom",
        **layout,
    )
    made.update_xaxes(automargin=True, zeroline=False, title_standoff=8, fixedrange=False)
    made.update_yaxes(automargin=True, zeroline=False, title_standoff=8)
    return made


def line(
    metrics: pl.DataFrame, x: str, y: str, colour: str, x_title: str, y_title: str, height: int = 230
) -> go.Figure:
    """One curve over steps, its last value written at its end."""
    made = figure(height)
    trace = go.Scattergl if len(metrics) > WEBGL_ABOVE else go.Scatter
    steps, values = metrics[x].to_list(), metrics[y].to_list()
    made.add_trace(
        trace(
            x=steps,
            y=values,
            mode="lines",
            line={"color": colour, "width": 2},
            hovertemplate="%{x:,}: %{y:.4g}<extra></extra>",
        )
    )
    if values:
        made.add_trace(
            go.Scatter(
                x=steps[-1:],
                y=values[-1:],
                mode="markers+text",
                text=[words.number(values[-1])],
                textposition="top left",
                marker={"color": colour, "size": 7},
                hoverinfo="skip",
                cliponaxis=False,
            )
        )
    made.update_xaxes(title=x_title)
    made.update_yaxes(title=y_title, nticks=5)
    return made


def interval(
    rows: pl.DataFrame, value: str, colour: str | None = None, thickness: float = 1.5, width: int = 4
) -> dict[str, Any]:
    """Error bars from `value` to the columns `low` and `high`, in the trace's own colour if none is given."""
    bars = {
        "type": "data",
        "symmetric": False,
        "array": (rows["high"] - rows[value]).to_list(),
        "arrayminus": (rows[value] - rows["low"]).to_list(),
        "thickness": thickness,
        "width": width,
    }
    return bars if colour is None else bars | {"color": colour}


def legend_above(made: go.Figure) -> None:
    """The legend in one line over the picture."""
    made.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})


def colour_bar(title: str, **place: Any) -> dict[str, Any]:
    """What colours of a map mean, in a thin line above it, or where `place` says."""
    above = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"}
    return {
        "orientation": "h", "thickness": 8, "len": 0.62, "nticks": 5, "outlinewidth": 0, "ticklen": 3,
        "title": {"text": title, "side": "top", "font": {"size": 12}}, "tickfont": {"size": 11}, **above, **place,
    }  # fmt: skip


def plain(text: str | None) -> str:
    """`text` so that plotly, which reads some HTML in its labels, shows it as it stands."""
    return "–" if text is None else html.escape(text, quote=False)


def bars(
    labels: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str] | str,
    x_title: str,
    texts: Sequence[str] | None,
    row_height: int = 26,
) -> go.Figure:
    """Horizontal bars, the first on top, with `texts` at their ends."""
    made = figure(70 + row_height * len(labels))
    places = list(range(len(labels)))
    names = [plain(label) for label in labels]
    made.add_trace(
        go.Bar(
            x=list(values),
            y=places,
            orientation="h",
            marker={"color": colours, "line": {"width": 0}},
            text=None if texts is None else list(texts),
            textposition="outside",
            cliponaxis=False,
            hovertext=names,
            hovertemplate="%{hovertext}: %{x:.3g}<extra></extra>",
        )
    )
    made.update_yaxes(tickvals=places, ticktext=names, autorange="reversed", showgrid=False, fixedrange=True)
    made.update_xaxes(title=x_title, fixedrange=True, nticks=5)
    made.update_layout(bargap=0.35, margin={"l": 8, "r": 56 if texts else 16, "t": 8, "b": 8})
    return made


def dots_with_intervals(
    table: pl.DataFrame,
    row: str,
    series: str,
    value: str,
    colours: Mapping[str, str],
    symbols: Mapping[str, str],
    x_title: str,
    from_zero: bool = True,
) -> go.Figure:
    """A row for each `row`, in it a dot with its interval (`low`, `high`) for each `series`."""
    rows = table[row].unique(maintain_order=True).to_list()
    names = table[series].unique(maintain_order=True).to_list()
    made = figure(90 + len(rows) * (22 + 16 * len(names)))
    for i, name in enumerate(names):
        part = table.filter(pl.col(series) == name)
        shift = (i - (len(names) - 1) / 2) * 0.7 / max(1, len(names))  # rows of one group beside each other
        made.add_trace(
            go.Scatter(
                x=part[value].to_list(),
                y=[rows.index(r) + shift for r in part[row]],
                mode="markers",
                name=name,
                cliponaxis=False,  # a share of nothing lies on the axis: half a mark would be cut away
                marker={"color": colours[name], "symbol": symbols[name], "size": 10},
                error_x=interval(part, value, colours[name], thickness=2, width=5),
                customdata=list(zip(part[row], part["low"], part["high"], part["n"], strict=True)),
                hovertemplate="%{customdata[0]}: %{x:.4f} (%{customdata[1]:.4f} to %{customdata[2]:.4f}), "
                "n = %{customdata[3]:,}<extra>" + name + "</extra>",
            )
        )
    made.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=rows,
        range=[len(rows) - 0.45, -0.55],
        showgrid=False,
        fixedrange=True,
    )
    made.update_xaxes(title=x_title, rangemode="tozero" if from_zero else "normal")
    legend_above(made)
    return made


def stage_colours(names: Sequence[str]) -> list[str]:
    """Colours in the order of `names`."""
    chosen = theme.colours(names)
    return [chosen[name] for name in names]
