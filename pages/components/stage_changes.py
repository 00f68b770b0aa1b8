"""What each stage changes in superposition: differences of neighbouring stages beside zero and a noise floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, frame, show, theme, words

if TYPE_CHECKING:
    from workbench.superposition import Study

TITLES = {
    "polysemantic_neurons": "polysemantic share of neurons",
    "polysemantic_latents": "polysemantic share of latents",
    "nearest_cosine": "median cosine to the nearest decoder",
    "fvu": "variance unexplained (FVU)",
    "alive_per_dimension": "alive latents per dimension",
}
ROW, HEAD = 30, 62  # pixels of a difference, and of a figure's title and axis
FLOOR_WIDTH = 14


def view(study: Study) -> None:
    """The differences as a picture with its table."""
    st.subheader("What each stage changes", anchor=False)
    if study.changes.is_empty():
        (name,) = study.figures
        frame.note(
            f"Only {name} has an SAE, so there is nothing to subtract: `sae --checkpoint` trains one on another "
            "stage, then `superposition` studies both."
        )
        return
    frame.caption(
        "The later stage minus the earlier, with 95 % intervals over neurons, latents or documents. Grey is "
        "the noise floor: as much changes, on one and the same checkpoint, when its SAE is trained again from "
        "another seed (the larger of both checkpoints' differences). A mark is filled where its interval is "
        "clear of zero and it lies beyond the floor. Neurons have no floor: no SAE's seed moves them, so "
        "their interval alone speaks. Polysemantic: follows several factors, of those that follow any."
    )
    rows = study.changes.with_columns(
        pl.format("{} − {}", "later", "earlier").alias("difference"), pl.col("figure").replace(TITLES)
    )
    table = rows.select(
        "figure", "difference", "before", "after", "change", "low", "high", pl.col("floor").alias("noise floor"),
        pl.col("clear").alias("clear of both"), "over", "n",
    )  # fmt: skip
    alt = "differences between neighbouring stages, with intervals, beside zero and a noise floor"
    show.chart(drawn(rows), "changes", alt, table)


def drawn(rows: pl.DataFrame) -> go.Figure:
    """A strip a figure, each with an axis of its own through zero; in it a row a difference."""
    figures = rows["figure"].unique(maintain_order=True).to_list()
    names = rows["difference"].unique(maintain_order=True).to_list()
    height = len(figures) * (HEAD + ROW * len(names)) + HEAD
    made = make_subplots(
        len(figures), 1, subplot_titles=figures, vertical_spacing=HEAD / height, shared_xaxes=False
    )
    made.update_layout(charts.figure(height).layout)
    for at, figure in enumerate(figures, 1):
        part = rows.filter(pl.col("figure") == figure)
        made.add_trace(_floor(part), at, 1)
        made.add_trace(_marks(part), at, 1)
        for row in part.filter(pl.col("change").is_null()).iter_rows(named=True):
            said = f"no figure: too few {row['over']}"
            made.add_annotation(x=0, y=row["difference"], text=said, showarrow=False, row=at, col=1)
    ink = theme.palette().ink
    made.update_xaxes(
        zeroline=True, zerolinecolor=ink, zerolinewidth=1, nticks=7, automargin=True, fixedrange=True
    )
    made.update_yaxes(
        categoryorder="array", categoryarray=names[::-1], automargin=True, showgrid=False, fixedrange=True,
        range=[-0.6, len(names) - 0.4],
    )  # fmt: skip
    made.update_annotations(xanchor="left", font_size=13)
    made.update_annotations(x=0)
    made.update_layout(margin={"t": 34, "r": 24})
    return made


def _floor(part: pl.DataFrame) -> go.Scatter:
    """As far as a seed goes, on either side of zero. Its points keep zero in sight where there is none."""
    floors = part["floor"].fill_null(0.0).to_list()
    return go.Scatter(
        x=[0.0] * len(floors),
        y=part["difference"].to_list(),
        mode="markers",
        marker={"opacity": 0},
        error_x={
            "type": "data",
            "array": floors,
            "color": _translucent(theme.palette().muted),
            "thickness": FLOOR_WIDTH,
            "width": 0,
        },
        hoverinfo="skip",
    )


def _translucent(colour: str) -> str:
    """A `#rrggbb` colour that lets the grid through."""
    return f"{colour}59"


def _marks(part: pl.DataFrame) -> go.Scatter:
    colours = theme.colours(part["later"].to_list())
    tints = [colours[later] for later in part["later"]]
    rows = list(part.iter_rows(named=True))
    return go.Scatter(
        x=part["change"].to_list(),
        y=part["difference"].to_list(),
        mode="markers",
        marker={
            "size": 10,
            "symbol": [theme.symbols([r["later"]])[r["later"]] + ("" if r["clear"] else "-open") for r in rows],
            "color": tints,
            "line": {"width": 2, "color": tints},
        },
        error_x=charts.interval(part, "change", theme.palette().ink, width=5),
        cliponaxis=False,
        customdata=[_said(row) for row in rows],
        hovertemplate="%{y}: %{customdata}<extra></extra>",
    )


def _said(row: dict[str, object]) -> str:
    change, low, high, floor = (words.number(row[key]) for key in ("change", "low", "high", "floor"))  # type: ignore[arg-type]
    return f"{change} ({low} to {high}), noise floor {floor}, {row['n']:,} {row['over']}"
