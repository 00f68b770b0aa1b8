"""Pictures of findings: plotly figures without colours of their own, each with its numbers as rows.

A trace's `name` is its series; where that is a checkpoint, the page gives it its colour. `null` is drawn
as a dashed line or as series of its own, named "null" or "null NAME": these are one grey series on the page, so
what a figure is held against is in sight.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from probes.kit.finding import Figure, Plot

NULL = "null"
Rows = Sequence[Mapping[str, Any]]


def lines(
    title: str, x_title: str, y_title: str, rows: Rows, alt: str, null: float | None = None,
    ticks: Mapping[float, str] | None = None,
) -> Plot:  # fmt: skip
    """A curve for each `series` of rows with `series`, `x`, `y` and, where known, `low` and `high`; `ticks` name
    places of an axis of numbers."""
    traces = list[dict[str, Any]]()
    for name, part in _series(rows):
        xs = [row["x"] for row in part]
        trace: dict[str, Any] = {
            "type": "scatter", "mode": "lines+markers", **_name(name, traces), "x": xs,
            "y": [row["y"] for row in part],
            "hovertemplate": "%{x}: %{y:.3g}<extra>" + html.escape(name) + "</extra>",
        }  # fmt: skip
        if all("low" in row for row in part):
            trace["error_y"] = _ends(part, "y")
        traces.append(trace)
    layout = _level(null, "y")
    if ticks:
        names = [html.escape(name) for name in ticks.values()]
        layout["xaxis"] = {"tickmode": "array", "tickvals": list(ticks), "ticktext": names}
    elif rows and isinstance(rows[0]["x"], str):
        layout["xaxis"] = {"type": "category"}
    return _plot(title, x_title, y_title, traces, alt, rows, layout)


def bars(title: str, x_title: str, rows: Rows, alt: str, null: float | None = None) -> Plot:
    """A dot with its interval for each of rows with `row`, `series`, `x` and, where known, `low` and `high`; rows
    of one name stand together."""
    names = list(dict.fromkeys(str(row["row"]) for row in rows))
    traces, groups = list[dict[str, Any]](), _series(rows)
    for i, (name, part) in enumerate(groups):
        shift = (i - (len(groups) - 1) / 2) * 0.6 / max(1, len(groups))
        trace: dict[str, Any] = {
            "type": "scatter", "mode": "markers", **_name(name, traces), "x": [row["x"] for row in part],
            "y": [names.index(str(row["row"])) + shift for row in part], "marker": {"size": 10},
            "customdata": [str(row["row"]) for row in part], "cliponaxis": False,
            "hovertemplate": "%{customdata}: %{x:.3g}<extra>" + html.escape(name) + "</extra>",
        }  # fmt: skip
        if all("low" in row for row in part):
            trace["error_x"] = _ends(part, "x")
        traces.append(trace)
    layout = _level(null, "x") | {
        "height": 90 + len(names) * (20 + 14 * len(groups)),
        "yaxis": {
            "tickvals": list(range(len(names))), "ticktext": [html.escape(name) for name in names],
            "range": [len(names) - 0.4, -0.6], "showgrid": False,
        },
    }  # fmt: skip
    return _plot(title, x_title, "", traces, alt, rows, layout)


def heat(title: str, rows: Rows, alt: str, unit: str, centre: float | None = None) -> Plot:
    """A cell for each of rows with `row`, `column` and `value`; colours diverge from `centre` where it is given."""
    names, columns = (list(dict.fromkeys(str(row[key]) for row in rows)) for key in ("row", "column"))
    known = {(str(row["row"]), str(row["column"])): row["value"] for row in rows}
    trace: dict[str, Any] = {
        "type": "heatmap", "x": columns, "y": names, "z": [[known.get((n, c)) for c in columns] for n in names],
        "colorbar": {"title": {"text": html.escape(unit), "side": "right"}, "thickness": 12},
        "hovertemplate": "%{y}, %{x}: %{z:.3g}<extra></extra>", "xgap": 1, "ygap": 1,
    }  # fmt: skip
    if centre is not None:
        trace["zmid"] = centre
    layout = {"height": 110 + 24 * len(names), "yaxis": {"autorange": "reversed", "type": "category"}}
    return _plot(title, "", "", [trace], alt, rows, layout | {"xaxis": {"type": "category"}})


def cells(rows: Sequence[str], columns: Sequence[str], values: Any) -> list[dict[str, Any]]:
    """What `heat` draws, of a matrix with a name for each of its rows and columns."""
    return [
        {"row": row, "column": column, "value": float(values[i][j])}
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]


def dots(title: str, x_title: str, y_title: str, rows: Rows, alt: str, diagonal: bool = False) -> Plot:
    """A dot for each of rows with `series`, `x`, `y` and, where known, `text`; WebGL above a thousand."""
    traces: list[dict[str, Any]] = [
        {
            "type": "scattergl" if len(part) > 1_000 else "scatter", "mode": "markers", "name": name,
            "x": [row["x"] for row in part], "y": [row["y"] for row in part], "marker": {"size": 7, "opacity": 0.7},
            "text": [html.escape(str(row.get("text", ""))) for row in part],
            "hovertemplate": "%{text} %{x:.3g}, %{y:.3g}<extra>" + html.escape(name) + "</extra>",
        }
        for name, part in _series(rows)
    ]  # fmt: skip
    layout: dict[str, Any] = {}
    if diagonal:
        values = [float(row[key]) for row in rows for key in ("x", "y")]
        ends = {"x0": min(values), "y0": min(values), "x1": max(values), "y1": max(values)}
        layout["shapes"] = [{"type": "line", "line": {"dash": "dot", "width": 1}, **ends}]
    return _plot(title, x_title, y_title, traces, alt, rows, layout)


def of_figures(title: str, x_title: str, figures: Sequence[Figure], alt: str) -> Plot:
    """The figures themselves, a row each and a series a checkpoint, their nulls as another series."""
    rows = [
        {"row": f"{f.name}{', ' if f.where else ''}{f.where}", "series": f.checkpoint or "all", "x": f.value,
         "low": f.low, "high": f.high, "n": f.n}
        for f in figures
    ]  # fmt: skip
    rows += [
        {
            "row": row["row"],
            "series": "null",
            "x": f.null.value,
            "low": f.null.low,
            "high": f.null.high,
            "n": f.null.n,
        }
        for row, f in zip(list(rows), figures, strict=True)
    ]
    return bars(title, x_title, rows, alt)


def _series(rows: Rows) -> list[tuple[str, list[Mapping[str, Any]]]]:
    names = dict.fromkeys(str(row["series"]) for row in rows)
    return [(name, [row for row in rows if str(row["series"]) == name]) for name in names]


def _name(series: str, before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A trace's name, and its place in the legend: nulls share one name and one place."""
    if series != NULL and not series.startswith(f"{NULL} "):
        return {"name": series}
    return {"name": NULL, "legendgroup": NULL, "showlegend": all(trace["name"] != NULL for trace in before)}


def _ends(part: Rows, value: str) -> dict[str, Any]:
    return {
        "type": "data", "symmetric": False, "thickness": 1.5, "width": 4,
        "array": [row["high"] - row[value] for row in part],
        "arrayminus": [row[value] - row["low"] for row in part],
    }  # fmt: skip


def _level(null: float | None, axis: str) -> dict[str, Any]:
    if null is None:
        return {}
    along = {"x": "y", "y": "x"}[axis]
    line = {f"{axis}0": null, f"{axis}1": null, f"{along}0": 0, f"{along}1": 1, f"{along}ref": "paper"}
    return {"shapes": [{"type": "line", "line": {"dash": "dash", "width": 1}, **line}]}


def _plot(
    title: str, x: str, y: str, traces: list[dict[str, Any]], alt: str, rows: Rows, layout: Mapping[str, Any]
) -> Plot:
    axes = {
        "xaxis": {"title": {"text": html.escape(x)}, "automargin": True, **layout.get("xaxis", {})},
        "yaxis": {"title": {"text": html.escape(y)}, "automargin": True, **layout.get("yaxis", {})},
    }
    made = {"height": 340, "showlegend": len(traces) > 1, **layout, **axes}
    return Plot(title, {"data": traces, "layout": made}, alt, [dict(row) for row in rows])
