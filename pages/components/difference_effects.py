"""What the mean difference does when it is added, and the directions in which activations differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, frame, kept, show, theme

if TYPE_CHECKING:
    from workbench.differences import Differences

LEAST = -1.0  # share closed that is drawn; the table has the rest
PANELS = {"closed": "share of KL closed", "strayed": "KL from unsteered, nats a token"}
DIRECTIONS = {"difference": ("the difference", "circle", "solid"), "random": ("a random direction", "x", "dot")}
OF = {"difference": "solid", "stream": "dash", "shuffled difference": "dot"}


def steering(found: Differences, before: str, after: str) -> None:
    """How far the difference carries the earlier checkpoint, against its dose."""
    st.subheader("As a steering vector", anchor=False)
    table = found.steering.filter(before=before, after=after)
    domains = table["domain"].unique(maintain_order=True).to_list()
    if not domains:
        frame.note(f"There is no difference to add to {before}.")
        return
    frame.doubted("steered_on", "domain", domains)
    domain = st.selectbox("On", domains, key="steered_on", bind="query-params", width=240)
    frame.caption(
        f"δ of one half of the documents, added to {before} at {found.figures['site']} while it reads the "
        f"beginnings of the other half: how much of KL({after} ‖ {before}) is gone (1: predicts as {after} does; "
        "below 0: further "
        "away), and how far it strays from itself. A dose of 1 is as long as a single token's difference is on "
        "average; the open mark is δ as it is. Crosses: a random direction of the same length, another for each "
        "text. 95 % intervals over documents. On prose the text has nothing to do with what was trained."
    )
    rows = table.filter(domain=domain)
    show.chart(
        kept.picture(doses, rows, theme.colours([before, after])[after]),
        "difference-steering",
        f"share of KL({after} ‖ {before}) closed by adding the mean difference, by dose, beside a random direction",
        rows,
    )


def doses(rows: pl.DataFrame, colour: str) -> go.Figure:
    """A panel a figure, a line a direction."""
    made = make_subplots(1, 2, subplot_titles=list(PANELS.values()), horizontal_spacing=0.1)
    made.update_layout(charts.figure(340).layout)
    inks = {"difference": colour, "random": theme.palette().muted}
    for column, figure in enumerate(PANELS, 1):
        for direction, (name, symbol, dash) in DIRECTIONS.items():
            part = rows.filter(figure=figure, direction=direction).sort("alpha")
            shapes = [f"{symbol}-open" if own else symbol for own in part["own"]]
            made.add_trace(
                go.Scatter(
                    x=part["alpha"].to_list(),
                    y=part["value"].to_list(),
                    name=name,
                    mode="lines+markers",
                    line={"color": inks[direction], "width": 2, "dash": dash},
                    marker={"symbol": shapes, "size": 10},
                    error_y=charts.interval(part, "value"),
                    customdata=list(zip(part["low"], part["high"], part["n"], strict=True)),
                    hovertemplate="dose %{x:.2f}: %{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f}), "
                    "n = %{customdata[2]:,} tokens<extra>" + name + "</extra>",
                    showlegend=column == 1,
                ),
                1,
                column,
            )
    made.add_hline(y=0, line={"color": theme.palette().ink, "width": 1}, col=1)
    made.update_yaxes(range=[LEAST, 1.05], col=1)
    made.update_yaxes(rangemode="tozero", col=2)
    made.update_xaxes(title="dose", rangemode="tozero")
    made.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1.12, "yanchor": "bottom", "x": 0}, margin={"t": 70}
    )
    return made


def components(found: Differences, before: str, after: str) -> None:
    """Shares of variance; what the first components promote and where they are strongest."""
    st.subheader("In how many directions", anchor=False)
    table = found.components.filter(before=before, after=after)
    if table.filter(of="difference")["share"].null_count():
        frame.note("The difference is the same at every token: it has no other direction than its mean.")
        return
    frame.caption(
        f"Principal components of x_b − x_a at {found.figures['site']}, its mean taken out, beside those of "
        f"{before}'s own stream and of the difference with every coordinate shuffled over tokens. 95 % intervals "
        "over documents, components held fixed."
    )
    show.chart(
        kept.picture(spectrum, table, theme.colours([before, after]), (before, after)),
        "difference-spectrum",
        f"share of variance of the first components of the difference {before} → {after}, beside two controls",
        table,
    )
    contexts = found.contexts.filter(before=before, after=after)
    chosen = st.segmented_control(
        "Component", [str(c) for c in contexts["component"].unique(maintain_order=True)], default="1",
        required=True, key="difference_component", bind="query-params",
    )  # fmt: skip
    lens = found.lens.filter(before=before, after=after, facet="component", group=chosen, head=after)
    if not lens.is_empty():
        up, down = (" ".join(lens.filter(end=end)["token"]) for end in ("promoted", "suppressed"))
        frame.caption(
            f"Through the head of {after}, one standard deviation of component {chosen} promotes {up} and "
            f"suppresses {down}. Tokens on which it is highest and lowest, one a document:"
        )
    rows = contexts.filter(component=int(chosen)).drop("before", "after", "component")
    st.dataframe(rows, key="difference-contexts", hide_index=True)


def spectrum(table: pl.DataFrame, colours: dict[str, str], pair: tuple[str, str]) -> go.Figure:
    """A line each of the difference, the stream and the shuffled control."""
    made = charts.figure(320)
    inks = dict(zip(OF, (colours[pair[1]], colours[pair[0]], theme.palette().muted), strict=True))
    for of, dash in OF.items():
        part = table.filter(of=of).sort("component")
        made.add_trace(
            go.Scatter(
                x=part["component"].to_list(),
                y=part["share"].to_list(),
                name=f"{pair[0]}'s stream" if of == "stream" else of,
                mode="lines+markers",
                line={"color": inks[of], "width": 2, "dash": dash},
                marker={"size": 8},
                error_y=charts.interval(part, "share"),
                customdata=part["n"].to_list(),
                hovertemplate="component %{x}: %{y:.2%}, n = %{customdata:,} tokens<extra>" + of + "</extra>",
                cliponaxis=False,
            )
        )
    made.update_xaxes(title="component", dtick=1)
    made.update_yaxes(title="share of variance", rangemode="tozero", tickformat=".0%")
    charts.legend_above(made)
    return made
