"""Pictures of a feature circuit: scores of its nodes, f by number of latents, edges between sites, writers."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from pages.components import charts, theme
from workbench.circuits.feature_words import ERROR, MATCHED, WITH_ERRORS, WITHOUT_ERRORS

LABEL = 34  # characters
ROW = 150  # pixels of the graph
PALE = 0.55  # of bars, so that intervals are seen on them


def scores(nodes: pl.DataFrame, ids: list[str], chosen: str) -> go.Figure:
    """A bar a node, the largest |score| on top; left of 0 it helps. The error has a colour of its own."""
    palette = theme.palette()
    rows = nodes.to_dicts()
    colours = [
        palette.others[1] if row["node"] == ERROR else palette.helps if row["score"] < 0 else palette.hinders
        for row in rows
    ]
    names = [_named(row) for row in rows]
    made = charts.figure(80 + 23 * len(rows))
    places = list(range(len(rows)))
    made.add_trace(
        go.Bar(
            x=nodes["score"].to_list(), y=places, orientation="h",
            marker={
                "color": colours, "opacity": PALE,
                "line": {"color": palette.ink, "width": [2 if each == chosen else 0 for each in ids]},
            },
            error_x=charts.interval(nodes, "score", palette.ink, thickness=1.5, width=4),
            customdata=[
                [each, charts.plain(row["name"]), row["low"], row["high"], charts.plain(row["label"])]
                for each, row in zip(ids, rows, strict=True)
            ],
            hovertemplate="%{customdata[1]}: %{x:.3f} (%{customdata[2]:.3f} to %{customdata[3]:.3f}) logits<br>"
            "%{customdata[4]}<extra></extra>",
            selected={"marker": {"opacity": PALE}}, unselected={"marker": {"opacity": PALE}},
        )
    )  # fmt: skip
    made.add_vline(x=0, line={"color": palette.muted, "width": 1})
    made.update_yaxes(
        tickvals=places, ticktext=names, range=[len(rows) - 0.4, -0.6], showgrid=False, fixedrange=True,
        tickfont={"size": 11},
    )  # fmt: skip
    made.update_xaxes(title="score, logits (left of 0: helps)", nticks=6)
    made.update_layout(bargap=0.3, dragmode=False)
    return made


def _named(row: dict[str, object]) -> str:
    """The latent's number and the beginning of its label."""
    if row["node"] == ERROR:
        return "<b>error</b>"
    label = str(row["label"])
    return f"{charts.plain(label if len(label) <= LABEL else label[:LABEL] + '…')}  <b>{row['node']}</b>"


def curve(rows: pl.DataFrame) -> go.Figure:
    """f by number of latents kept, with errors, without, and of matched ones."""
    palette = theme.palette()
    made = charts.figure(340)
    made.add_hline(y=1, line={"color": palette.line, "width": 1})
    sizes = rows["size"].unique().sort().to_list()
    place = {size: at for at, size in enumerate(sizes)}
    for kind, colour, symbol, dash in (
        (WITH_ERRORS, palette.accent, "circle", "solid"), (WITHOUT_ERRORS, palette.others[1], "square", "dash")
    ):  # fmt: skip
        part = rows.filter(kind=kind).sort("size")
        made.add_trace(
            go.Scatter(
                x=[place[size] for size in part["size"]], y=part["f"].to_list(), mode="lines+markers", name=kind,
                line={"color": colour, "width": 2, "dash": dash}, marker={"symbol": symbol, "size": 8},
                error_y=charts.interval(part, "f", colour, thickness=1, width=3),
                customdata=part.select("size", "low", "high", "reach").rows(), cliponaxis=False,
                hovertemplate="%{customdata[0]} latents: f = %{y:.3f} (%{customdata[1]:.3f} to "
                "%{customdata[2]:.3f}), %{customdata[3]:.0%} of all change<extra>" + kind + "</extra>",
            )
        )  # fmt: skip
    part = rows.filter(kind=MATCHED)
    made.add_trace(
        go.Scatter(
            x=[place[size] for size in part["size"]], y=part["f"].to_list(), mode="markers", name=MATCHED,
            marker={"color": palette.muted, "symbol": "diamond-open", "size": 7}, cliponaxis=False,
            customdata=part.select("size", "low", "high", "reach").rows(),
            hovertemplate="%{customdata[0]} matched latents: f = %{y:.3f} (%{customdata[1]:.3f} to "
            "%{customdata[2]:.3f}), %{customdata[3]:.0%} of all change<extra></extra>",
        )
    )  # fmt: skip
    made.update_xaxes(title="latents kept", tickvals=list(place.values()), ticktext=[str(s) for s in sizes])
    made.update_yaxes(title="f")
    charts.legend_above(made)
    return made


def writers(rows: pl.DataFrame, colour: str) -> go.Figure:
    """Δ of every component, in the order in which they write."""
    palette = theme.palette()
    made = charts.figure(80 + 24 * len(rows))
    places = list(range(len(rows)))
    made.add_trace(
        go.Scatter(
            x=rows["delta"].to_list(), y=places, mode="markers", marker={"color": colour, "size": 9},
            error_x=charts.interval(rows, "delta", colour, thickness=2), cliponaxis=False,
            customdata=rows.select("component", "low", "high").rows(),
            hovertemplate="%{customdata[0]}: %{x:.3f} (%{customdata[1]:.3f} to "
            "%{customdata[2]:.3f})<extra></extra>",
        )
    )  # fmt: skip
    made.add_vline(x=0, line={"color": palette.muted, "width": 1})
    made.update_yaxes(
        tickvals=places, ticktext=rows["component"].to_list(), range=[len(rows) - 0.5, -0.5], fixedrange=True
    )
    made.update_xaxes(title="part in the change of its preactivation", nticks=6)
    return made


def graph(nodes: pl.DataFrame, edges: pl.DataFrame, chosen: str) -> go.Figure:
    """Latents of the earlier site below, those of the later one above, logits on top."""
    palette = theme.palette()
    rows = nodes["y"].unique().sort().to_list()
    made = charts.figure(ROW * len(rows))
    for weight, width, *way in (
        edges.sort("width").select("weight", "width", "x0", "y0", "x1", "y1").iter_rows()
    ):
        colour = palette.helps if weight < 0 else palette.hinders
        made.add_trace(
            go.Scatter(
                x=[way[0], way[2]], y=[way[1], way[3]], mode="lines", line={"color": colour, "width": width},
                opacity=0.6, hoverinfo="skip",
            )
        )  # fmt: skip
    of = nodes.to_dicts()
    rims = [
        palette.ink if each["id"] == chosen else palette.others[1] if each["name"] == "error" else palette.line
        for each in of
    ]
    made.add_trace(
        go.Scatter(
            x=nodes["x"].to_list(), y=nodes["y"].to_list(), mode="markers+text", text=nodes["name"].to_list(),
            textfont={"size": 11, "color": palette.ink}, cliponaxis=False,
            marker={
                "size": 38, "color": palette.panel, "opacity": 1, "line": {"color": rims, "width": 2.5},
                "symbol": ["square" if each["name"] in ("error", "logits") else "circle" for each in of],
            },
            unselected={"marker": {"opacity": 1}}, customdata=[[each["id"]] for each in of],
            hovertext=[charts.plain(each["said"]) for each in of], hovertemplate="%{hovertext}<extra></extra>",
        )
    )  # fmt: skip
    sites = nodes.unique("y").sort("y")["site"].to_list()
    made.update_xaxes(visible=False, range=[-0.03, 1.03], fixedrange=True)
    made.update_yaxes(
        tickvals=rows, ticktext=["" if site == "logits" else site for site in sites], showgrid=False,
        fixedrange=True, range=[-0.4, len(rows) - 0.6],
    )  # fmt: skip
    made.update_layout(margin={"l": 8, "r": 4, "t": 4, "b": 4}, dragmode=False)
    return made
