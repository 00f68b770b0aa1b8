"""A stage beside its sham and its sibling: a strip a figure, a row a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from pages.components import charts, frame, kept, show, theme, words

if TYPE_CHECKING:
    from workbench.controls import Controls

CALLED = {"stage": "the stage", "sham": "sham: its parent trained on", "sibling": "sibling: another seed"}
SYMBOLS = {"stage": "circle", "sham": "x", "sibling": "diamond-open"}
UNITS = {
    "own by norm": "share of latents",
    "specific by scaling": "share of latents",
    "weights moved": "‖ΔW‖ / ‖W‖",
    "activations moved": "‖Δa‖ / ‖a‖, last layer",
    "KL from the parent": "nats a token",
    "excess loss": "nats a token more than the parent; below zero is gained",
    "gain": "accuracy less the parent's",
}  # by how a figure's name begins
ROW, HEAD = 34, 58  # pixels of a stage, and of a figure's title and axis


def view(controls: Controls) -> None:
    """The picture, and which changes are beyond both controls, in words."""
    frame.caption(
        "What would have happened anyway. The sham is the parent trained on, on its own data, as many steps; the "
        "sibling is the same stage with another seed of data and sampling, held against the stage. Only what lies "
        "beyond both, interval and all, is the stage's doing; for shares of latents the larger of the two is the "
        'false-positive rate of "this stage added it". Each pair has a crosscoder of its own.'
    )
    verdicts = controls.verdicts()
    for stage in dict.fromkeys(v["stage"] for v in verdicts):
        mine = [v for v in verdicts if v["stage"] == stage]
        beyond = [v["figure"] for v in mine if v["credible"]]
        rest = [v["figure"] for v in mine if not v["credible"]]
        frame.note(f"{stage}: beyond both controls: {_listed(beyond)}. Not beyond them: {_listed(rest)}.")
    alt = "each stage beside its sham and its sibling, figure by figure, with intervals"
    show.chart(kept.picture(drawn, controls.table), "controls", alt, controls.table)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "nothing"


def _unit(figure: str) -> str:
    return next((unit for name, unit in UNITS.items() if figure.startswith(name)), "")


def drawn(table: pl.DataFrame) -> go.Figure:
    """Each figure on an axis of its own from zero."""
    figures = table["figure"].unique(maintain_order=True).to_list()
    stages = table["stage"].unique(maintain_order=True).to_list()
    height = len(figures) * (HEAD + ROW * len(stages)) + HEAD
    titles = [f"{figure}: {unit}" if (unit := _unit(figure)) else figure for figure in figures]
    made = make_subplots(len(figures), 1, subplot_titles=titles, vertical_spacing=HEAD / height)
    made.update_layout(charts.figure(height).layout)
    palette = theme.palette()
    colours = {"stage": palette.accent, "sham": palette.alarm, "sibling": palette.muted}
    for at, figure in enumerate(figures, 1):
        for shift, kind in zip((-0.22, 0.0, 0.22), CALLED, strict=True):
            part = table.filter(pl.col("figure") == figure, pl.col("kind") == kind)
            low, high = part["low"].fill_null(part["value"]), part["high"].fill_null(part["value"])
            said = [
                f"{row['before']} → {row['after']}: {words.number(row['value'])}, n = {row['n']:,}"
                for row in part.iter_rows(named=True)
            ]
            made.add_trace(
                go.Scatter(
                    x=part["value"].to_list(),
                    y=[stages.index(stage) + shift for stage in part["stage"]],
                    name=CALLED[kind],
                    mode="markers",
                    marker={"symbol": SYMBOLS[kind], "size": 10, "color": colours[kind]},
                    error_x={
                        "type": "data",
                        "symmetric": False,
                        "array": (high - part["value"]).to_list(),
                        "arrayminus": (part["value"] - low).to_list(),
                        "thickness": 1.5,
                        "width": 4,
                        "color": colours[kind],
                    },
                    customdata=said,
                    hovertemplate="%{customdata}<extra></extra>",
                    showlegend=at == 1,
                    cliponaxis=False,
                ),
                at,
                1,
            )
    made.update_yaxes(
        tickvals=list(range(len(stages))), ticktext=stages, range=[len(stages) - 0.5, -0.5], showgrid=False,
        fixedrange=True,
    )  # fmt: skip
    made.update_xaxes(rangemode="tozero", nticks=7, fixedrange=True)
    made.update_annotations(x=0, xanchor="left", font_size=13)
    top = 1 + 34 / height
    made.update_layout(
        showlegend=True,
        legend={"orientation": "h", "y": top, "yanchor": "bottom", "x": 0},
        margin={"t": 80, "r": 24},
    )
    return made
