"""The axis of steps under a picture of snapshots: every stage has a width of 1, its steps on a log scale."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from pages.components import charts, theme


def draw(made: go.Figure, moments: pl.DataFrame) -> None:
    """Steps under the axis; where each stage ends, with its name. `made` has a titled row a panel and no other
    annotation yet; `moments` has `stage`, `step`, `place` and `end`."""
    made.update_xaxes(
        tickvals=moments["place"].to_list(),
        ticktext=[f"{step:,}" for step in moments["step"]],
        range=[-0.03, moments["place"].max() + 0.06],
        tickangle=0,
        showgrid=False,
    )
    made.update_annotations(x=0, xanchor="left")
    made.update_xaxes(title="step of the stage (log scale within each)", row=len(made.layout.annotations))
    ends = moments.filter(pl.col("end"))
    colours = theme.colours(ends["stage"].to_list())
    for stage, place in ends.select("stage", "place").iter_rows():
        made.add_vline(x=place, line={"color": colours[stage], "width": 1.5, "dash": "dot"})
        made.add_annotation(
            x=place, y=1, yref="paper", yshift=34, xanchor="right", showarrow=False,
            text=f"{charts.plain(stage)} ends", font={"color": colours[stage]},
        )  # fmt: skip
