"""Which latents are one checkpoint's alone: what the norms say, and what latent scaling leaves of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from pages.components import charts, frame, kept, show, theme
from saes.latent_scaling import ERROR_BOUND, RECONSTRUCTION_BOUND
from workbench.specificity import sentence

if TYPE_CHECKING:
    from workbench.specificity import Specificity

QUESTIONS = {
    "by_norm": "its own by norm, of all that fire",
    "confirmed": "of those, confirmed by scaling",
    "shared": "of as many shared ones, passed",
}
LARGEST = 1.5  # ν drawn; what lies beyond stands at the edge


def view(found: Specificity, latent: int) -> None:
    """The shares of all latents; the chosen one's ν for every pair."""
    names = found.comparison.checkpoints
    frame.caption(
        "A decoder that training shrank away looks exclusive though the other checkpoint has its feature as well. "
        "Latent scaling asks the activations: how much of the latent lies in what the other checkpoint's "
        f"reconstruction leaves over (ν error, bound {ERROR_BOUND:g}: shrinkage) and in that reconstruction itself "
        f"(ν reconstruction, bound {RECONSTRUCTION_BOUND:g}: other latents carry it) [Minder 2025]. Random shared "
        "latents asked the same give its false-positive rate. 95 % Wilson intervals."
    )
    exclusive = [found.exclusive(name) for name in names]
    for each in exclusive:
        frame.note(sentence(each))
    rows = [
        {
            "question": said,
            "checkpoint": each.checkpoint,
            "share": share.value,
            "low": share.low,
            "high": share.high,
            "n": share.n,
        }
        for each in exclusive
        for question, said in QUESTIONS.items()
        if (share := getattr(each, question)).n
    ]
    table = pl.DataFrame(rows)
    made = kept.picture(
        charts.dots_with_intervals,
        table,
        "question",
        "checkpoint",
        "share",
        theme.colours(names),
        theme.symbols(names),
        "share of latents",
    )
    show.chart(made, "specific", "latents that are one checkpoint's alone: by norm, and confirmed", table)
    own = found.table.filter(pl.col("latent") == latent)
    if own.is_empty():
        frame.caption(f"Latent {latent} fires on no held-out token: there is nothing to scale.")
        return
    show.chart(kept.picture(ratios, own), "scaling", f"ν of latent {latent} for every pair of checkpoints", own)


def ratios(rows: pl.DataFrame) -> go.Figure:
    """ν of one latent: a panel a kind, a row an (own, other), the bound as a line."""
    made = make_subplots(1, 2, subplot_titles=["ν error", "ν reconstruction"], shared_yaxes=True)
    names = [f"{own} against {other}" for own, other in rows.select("own", "other").iter_rows()]
    made.update_layout(charts.figure(100 + 30 * len(names)).layout)
    for column, (kind, bound) in enumerate(
        (("error", ERROR_BOUND), ("reconstruction", RECONSTRUCTION_BOUND)), 1
    ):
        colours = theme.colours(rows["own"].to_list())
        values = rows.select(
            *(pl.col(f"{kind}{end}").clip(upper_bound=LARGEST) for end in ("", "_low", "_high"))
        )
        value, low, high = (values[f"{kind}{end}"] for end in ("", "_low", "_high"))
        made.add_trace(
            go.Scatter(
                x=value.to_list(),
                y=names,
                mode="markers",
                marker={
                    "size": 10,
                    "color": [colours[own] for own in rows["own"]],
                    "symbol": [theme.symbols([own])[own] for own in rows["own"]],
                },
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": (high - value).to_list(),
                    "arrayminus": (value - low).to_list(),
                    "thickness": 1.5,
                    "width": 5,
                    "color": theme.palette().ink,
                },
                customdata=list(zip(rows[kind], rows["n"], strict=True)),
                hovertemplate="%{y}: %{customdata[0]:.3f}, on %{customdata[1]:,} tokens<extra></extra>",
                cliponaxis=False,
            ),
            1,
            column,
        )
        for name, known in zip(names, rows[kind].is_not_null(), strict=True):
            if not known:  # β of the latent's own checkpoint is not above zero
                made.add_annotation(
                    x=0, y=name, text="not to be taken", showarrow=False, xanchor="left", row=1, col=column
                )
        made.add_vline(x=bound, line={"color": theme.palette().alarm, "dash": "dot", "width": 1.5}, col=column)
    made.update_xaxes(range=[0, LARGEST * 1.03], fixedrange=True)
    made.update_yaxes(autorange="reversed", showgrid=False, fixedrange=True)
    made.update_layout(margin={"t": 34})
    return made
