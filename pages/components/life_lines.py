"""Life lines: how many latents are there along the snapshots of the stages, and one latent's life, on one step axis
with the training curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, frame, kept, life_words, show, step_axis, theme

if TYPE_CHECKING:
    from workbench.comparison import Comparison
    from workbench.lives import Life, Lives

FAINT = 0.18  # opacity of a band
HOVER = "%{customdata[0]}, step %{customdata[1]:,}: "


def view(found: Lives, comparison: Comparison, latent: int) -> None:
    """All latents over the axis above the training curves; then the chosen one."""
    if not found.known:
        frame.note(
            f"No snapshots of {', '.join(found.figures['axis'])} (imported, or snapshots gone): births and deaths "
            "cannot be dated. Stages that the lab grows itself keep theirs."
        )
        return
    frame.caption(life_words.METHOD)
    for told in found.sentences():
        frame.note(told)
    show.chart(
        kept.picture(overview, found.moments, found.curves),
        "lives",
        "latents that are there, births and deaths along the snapshots, above the training curves",
        found.moments,
    )
    show.twin(found.curves, "lives-curves", "The training curves as a table")
    _picks(found, comparison)
    st.subheader(f"The life of latent {latent}", anchor=False)
    life = found.life(latent)
    if life is None:
        frame.caption(f"Latent {latent} fires on no sampled token: nothing is known of its life.")
        return
    frame.facts(life_words.facts(life.birth))
    frame.caption(life_words.told(life.birth))
    alt = f"strength, direction and readability of latent {latent} along the snapshots"
    show.chart(kept.picture(one, life, found.moments), "life", alt, life.curve)


def _picks(found: Lives, comparison: Comparison) -> None:
    """Buttons that open the life of a latent worth seeing."""
    labels = dict(comparison.latents.select("latent", "label").iter_rows())

    def choose(latent: int) -> None:
        st.session_state["joint"] = latent

    for column, (what, latents) in zip(st.columns(3, gap="medium"), found.picks().items(), strict=True):
        with column:
            frame.caption(what.capitalize() if latents else f"{what.capitalize()}: none.")
            with st.container(horizontal=True, gap="small"):
                for latent in latents:
                    said = (labels.get(latent) or "").replace("`", "'")
                    st.button(
                        str(latent),
                        key=f"pick-{what}-{latent}",
                        help=f"`{said}`" if said else None,
                        on_click=choose,
                        args=(latent,),
                    )


def overview(moments: pl.DataFrame, curves: pl.DataFrame) -> go.Figure:
    """A panel for latents there, one for births and deaths, one a training curve; one axis under all."""
    names = curves["name"].unique(maintain_order=True).to_list()
    heights = [3.0, 2.0, *[1.3] * len(names)]
    titles = [
        "latents there",
        "born (▲) and died (▼) since the model before",
        *(life_words.CURVES[name] for name in names),
    ]
    made = make_subplots(
        len(heights), 1, shared_xaxes=True, row_heights=heights, subplot_titles=titles, vertical_spacing=0.06
    )
    made.update_layout(charts.figure(430 + 110 * len(names)).layout)
    _there(made, moments)
    _events(made, moments)
    for row, name in enumerate(names, 3):
        _curve(made, row, curves.filter(pl.col("name") == name))
    made.update_yaxes(rangemode="tozero", row=1)
    made.update_yaxes(type="log", dtick=1, range=[-0.5, None], row=2)
    step_axis.draw(made, moments)
    made.update_layout(margin={"t": 60})
    return made


def _there(made: go.Figure, moments: pl.DataFrame) -> None:
    """How many latents are there at each model."""
    colour = theme.palette().accent
    x = moments["place"].to_list()
    about = list(moments.select("stage", "step", "n").iter_rows())
    _band(made, 1, x, moments["low"], moments["high"], colour)
    made.add_trace(
        go.Scatter(
            x=x,
            y=moments["there"].to_list(),
            mode="lines+markers",
            name="there",
            line={"color": colour, "width": 2},
            customdata=about,
            hovertemplate=HOVER + "%{y:,} of %{customdata[2]:,}<extra></extra>",
            showlegend=False,
        ),
        1,
        1,
    )


def _events(made: go.Figure, moments: pl.DataFrame) -> None:
    """Births and deaths since the model before, those there are."""
    palette = theme.palette()
    events = (
        ("born", palette.accent, "triangle-up", "top"),
        ("died", palette.alarm, "triangle-down", "bottom"),
    )
    for what, colour, symbol, side in events:
        some = moments.filter(pl.col(what) > 0)
        made.add_trace(
            go.Scatter(
                x=some["place"].to_list(),
                y=some[what].to_list(),
                mode="markers+text",
                name=what,
                text=[f"{count:,}" for count in some[what]],
                textposition=["middle right" if end else f"{side} center" for end in some["end"]],
                marker={"color": colour, "symbol": symbol, "size": 11},
                customdata=list(some.select("stage", "step").iter_rows()),
                hovertemplate=HOVER + "%{y:,} " + what + "<extra></extra>",
                cliponaxis=False,
            ),
            2,
            1,
        )


def one(life: Life, moments: pl.DataFrame) -> go.Figure:
    """Strength with its interval and the floor; cosine, length and readability."""
    made = make_subplots(
        2, 1, shared_xaxes=True, row_heights=[3, 2], vertical_spacing=0.09,
        subplot_titles=["strength along its own direction", "direction, length, readability"],
    )  # fmt: skip
    made.update_layout(charts.figure(520).layout)
    palette, curve = theme.palette(), life.curve
    x = curve["place"].to_list()
    _band(made, 1, x, curve["low"], curve["high"], palette.accent)
    lines = (
        (1, "strength", "strength", palette.accent, "solid", "circle"),
        (1, "floor", "95 % of shuffled patterns", palette.muted, "dot", None),
        (2, "cosine", "cosine to its own decoder", palette.accent, "solid", "circle"),
        (2, "length", "length", palette.ink, "dash", "square"),
        (2, "readable", "R² read off the stream", palette.alarm, "dot", "diamond"),
    )
    _band(made, 2, x, curve["cosine_low"], curve["cosine_high"], palette.accent)
    for row, column, name, colour, dash, symbol in lines:
        made.add_trace(
            go.Scatter(
                x=x,
                y=curve[column].to_list(),
                mode="lines+markers" if symbol else "lines",
                name=name,
                line={"color": colour, "width": 2, "dash": dash},
                marker={"symbol": symbol, "size": 7} if symbol else None,
                customdata=list(curve.select("stage", "step").iter_rows()),
                hovertemplate="%{customdata[0]}, step %{customdata[1]:,}: %{y:.3f}<extra>" + name + "</extra>",
            ),
            row,
            1,
        )
    if life.half is not None:
        made.add_hline(y=life.half, line={"color": palette.muted, "dash": "dash", "width": 1}, row=1)
    made.update_yaxes(range=[-0.25, None], row=2)
    step_axis.draw(made, moments)
    made.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.16, "yanchor": "top", "x": 0})
    made.update_layout(margin={"t": 60})
    return made


def _band(made: go.Figure, row: int, x: Sequence[float], low: pl.Series, high: pl.Series, colour: str) -> None:
    """An interval as a tinted band; places without one are left out of it."""
    known = low.is_not_null() & high.is_not_null()
    places = pl.Series(x).filter(known).to_list()
    for end, fill in ((low, None), (high, "tonexty")):
        made.add_trace(
            go.Scatter(
                x=places,
                y=end.filter(known).to_list(),
                mode="lines",
                line={"width": 0, "color": colour},
                fill=fill,
                fillcolor=_tinted(colour),
                hoverinfo="skip",
                showlegend=False,
            ),
            row,
            1,
        )


def _tinted(colour: str) -> str:
    """A `#rrggbb` colour, see-through."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return f"rgba({red},{green},{blue},{FAINT})"


def _curve(made: go.Figure, row: int, curve: pl.DataFrame) -> None:
    """One training figure, each stage in its colour."""
    stages = curve["stage"].unique(maintain_order=True).to_list()
    colours = theme.colours(stages)
    for stage in stages:
        part = curve.filter(pl.col("stage") == stage)
        made.add_trace(
            go.Scatter(
                x=part["place"].to_list(),
                y=part["value"].to_list(),
                mode="lines",
                line={"color": colours[stage], "width": 2},
                customdata=part["step"].to_list(),
                hovertemplate=f"{charts.plain(stage)}, step %{{customdata:,}}: %{{y:.4g}}<extra></extra>",
                showlegend=False,
            ),
            row,
            1,
        )
    made.update_yaxes(nticks=3, row=row)
