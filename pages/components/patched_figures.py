"""The pictures of patching: recovered KL by number of latents, by what is put in, and by dose."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from pages.components import charts, theme
from workbench.patching import (
    ALL,
    ATTRIBUTION,
    BIAS,
    CONTENT_WHOLE,
    ERROR,
    EXACT,
    EXCLUSIVE,
    LATENTS_BIAS,
    MAIN,
    MARKERS_WHOLE,
    MATCHED,
    NORM,
    RANDOM,
    SHARED,
    SPECIFIC,
)

HEIGHT = 380
RECOVERED = "KL recovered"
LONGEST = 28  # characters of a latent's name
TOLD = (
    ALL, LATENTS_BIAS, EXACT, BIAS, ERROR, MARKERS_WHOLE, CONTENT_WHOLE, EXCLUSIVE, SPECIFIC,
)  # fmt: skip
OF_LATENTS = (ALL, LATENTS_BIAS, EXCLUSIVE, SPECIFIC)


def curve(rows: pl.DataFrame, baselines: pl.DataFrame) -> go.Figure:
    """Recovered against the number of latents: both orders, the random band, matched and shared ones; all latents
    as a line."""
    palette, made = theme.palette(), charts.figure(HEIGHT)
    band = rows.filter(order=RANDOM)
    if band.height:
        made.add_trace(
            go.Scatter(
                x=[*band["size"], *band["size"].reverse()], y=[*band["high"], *band["low"].reverse()],
                fill="toself", fillcolor=palette.line, line={"width": 0}, hoverinfo="skip", name=RANDOM,
                mode="lines",
            )
        )  # fmt: skip
    looks = {
        NORM: (palette.accent, "solid", "circle"), ATTRIBUTION: (palette.alarm, "solid", "diamond"),
        MATCHED: (palette.muted, "dot", "x-thin-open"), SHARED: (palette.others[0], "dot", "square-open"),
    }  # fmt: skip
    for order, (colour, dash, symbol) in looks.items():
        part = rows.filter(pl.col("order") == order)
        if part.height:
            made.add_trace(
                go.Scatter(
                    x=part["size"].to_list(), y=part["recovered"].to_list(), mode="lines+markers", name=order,
                    line={"color": colour, "width": 2, "dash": dash}, marker={"symbol": symbol, "size": 8},
                    error_y=charts.interval(part, "recovered", colour, thickness=1, width=3),
                    customdata=part["length"].to_list(),
                    hovertemplate="%{x} latents: %{y:.3f}; %{customdata:.1%} of all that is written differently"
                    "<extra>" + order + "</extra>",
                )
            )  # fmt: skip
    whole = baselines.filter(set=ALL)
    made.add_hline(
        y=whole["recovered"].item(), line={"color": palette.ink, "width": 1, "dash": "dash"},
        annotation_text=f"all {whole['size'].item():,}", annotation_position="top left",
    )  # fmt: skip
    sizes = rows["size"].unique().sort().to_list()
    made.update_xaxes(
        title="latents, foremost first", type="log", tickvals=sizes, ticktext=[str(n) for n in sizes]
    )
    made.update_yaxes(title=RECOVERED, rangemode="tozero")
    charts.legend_above(made)
    return made


def told(baselines: pl.DataFrame) -> pl.DataFrame:
    """The rows that are drawn, in order: all but what is 0 or 1 by definition, or of no latents."""
    wanted = pl.DataFrame({"set": TOLD})
    rows = wanted.join(baselines, on="set", how="inner", maintain_order="left")
    return rows.filter(~pl.col("set").is_in(empty(baselines)))


def empty(baselines: pl.DataFrame) -> list[str]:
    """Sets of latents that no latent is of."""
    return baselines.filter(pl.col("set").is_in(OF_LATENTS), pl.col("size") == 0)["set"].to_list()


def bars(rows: pl.DataFrame) -> go.Figure:
    """What each set recovers, with its interval; sets of latents say how many they are."""
    palette = theme.palette()
    labels = [
        f"{name} ({size:,})" if name in OF_LATENTS else name
        for name, size in rows.select("set", "size").iter_rows()
    ]
    colours = [palette.accent if name in OF_LATENTS else palette.muted for name in rows["set"]]
    made = charts.bars(labels, rows["recovered"].to_list(), colours, RECOVERED, None, row_height=32)
    made.update_traces(
        error_x=charts.interval(rows, "recovered", palette.ink, width=3),
        customdata=list(rows.select("low", "high", "kl", "n").iter_rows()),
        hovertemplate="%{hovertext}: %{x:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f}), "
        "KL %{customdata[2]:.3g} nats a token, n = %{customdata[3]:,}<extra></extra>",
    )
    made.update_xaxes(rangemode="tozero")
    return made


def doses(rows: pl.DataFrame) -> go.Figure:
    """Recovered by dose, the main set's and that of as many matched."""
    palette, made = theme.palette(), charts.figure(HEIGHT - 60)
    for name, colour, dash in ((MAIN, palette.accent, "solid"), (MATCHED, palette.muted, "dot")):
        part = rows.filter(pl.col("latents") == name).sort("dose")
        made.add_trace(
            go.Scatter(
                x=part["dose"].to_list(), y=part["recovered"].to_list(), mode="lines+markers", name=name,
                line={"color": colour, "width": 2, "dash": dash}, marker={"size": 8},
                error_y=charts.interval(part, "recovered", colour),
                hovertemplate="×%{x:g}: %{y:.3f}<extra>" + name + "</extra>",
            )
        )  # fmt: skip
    made.add_hline(y=0, line={"color": palette.ink, "width": 1})
    made.update_xaxes(title="dose", dtick=0.5)
    made.update_yaxes(title=RECOVERED)
    charts.legend_above(made)
    return made


def foremost(rows: pl.DataFrame) -> go.Figure:
    """Latents by attribution; those of the main set stand out. A bar can be chosen."""
    palette = theme.palette()
    names = [
        f"{latent}  {label or ''}"[:LONGEST] for latent, label in rows.select("latent", "label").iter_rows()
    ]
    colours = [palette.accent if chosen else palette.muted for chosen in rows["chosen"]]
    made = charts.bars(
        names, rows["score"].to_list(), colours, "nats taken off the KL of the searched chats", None
    )
    made.update_traces(customdata=[[latent] for latent in rows["latent"]])
    return made
