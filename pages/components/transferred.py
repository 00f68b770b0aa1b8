"""The transfer matrix on the page: an SAE of each checkpoint on the activations of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, frame, kept, show, theme, words
from pages.components.drift_weights import scale

if TYPE_CHECKING:
    from workbench.matching import Matched

FIGURES = {
    "fvu": "FVU",
    "kl": "KL to the clean model",
    "ce_score": "CE score",
    "ce_score_mean": "CE score, mean ablated",
    "l0": "L0",
    "dead_share": "silent latents",
    "scale": "scale of the stream",
}
SAYS = {
    "fvu": "Fraction of variance unexplained.",
    "kl": "KL(clean ‖ with the reconstruction in place), nats a token: how far it is from what the checkpoint "
    "itself predicts.",
    "ce_score": "1 is the clean model, 0 the stream set to zero. It is held against the text: an SAE of an earlier "
    "checkpoint can give back what the later one forgot and come out above the later one's own.",
    "ce_score_mean": "1 is the clean model, 0 the stream set to its mean.",
    "l0": "Active latents a token.",
    "dead_share": "Share of latents that fire on none of these tokens: few, so that it is larger than in the SAE's "
    "own figures, in every cell alike.",
    "scale": "How much larger the checkpoint's stream is than that of the SAE's own.",
}


def view(found: Matched) -> None:
    """Choice of the figure, the map and its table."""
    figure = st.segmented_control(
        "Figure", list(FIGURES), default="fvu", required=True, key="transfer", bind="query-params",
        format_func=FIGURES.__getitem__,
    )  # fmt: skip
    rows = found.transfer.filter(pl.col("figure") == figure)
    left, right = st.columns([3, 2], gap="large")
    with left:
        show.chart(
            kept.picture(drawn, rows), "transfer-map", f"{FIGURES[figure]} of each SAE on each checkpoint", rows
        )
    with right:
        frame.caption(
            f"{SAYS[figure]} A row is an SAE, a column the checkpoint whose held-out activations it is given, "
            "the same tokens everywhere. The SAE is taken as trained: its own bias, scale and inference thresholds "
            "are kept. Brackets are 95 % intervals over documents (of silent latents Wilson's)."
        )


def drawn(rows: pl.DataFrame) -> go.Figure:
    """A cell for each SAE and checkpoint, its value and interval written in it."""
    saes = rows["sae"].unique(maintain_order=True).to_list()
    on = rows["checkpoint"].unique(maintain_order=True).to_list()
    cell = {(r["sae"], r["checkpoint"]): r for r in rows.iter_rows(named=True)}
    made = charts.figure(110 + 70 * len(saes))
    made.add_trace(
        go.Heatmap(
            z=[[cell[i, j]["value"] for j in on] for i in saes],
            x=[f"on {j}" for j in on],
            y=[f"SAE of {i}" for i in saes],
            text=[[said(cell[i, j]) for j in on] for i in saes],
            texttemplate="%{text}",
            textfont={"color": theme.palette().ink},
            customdata=[[cell[i, j]["n"] for j in on] for i in saes],
            hovertemplate="%{y} %{x}: %{text}, n = %{customdata:,} tokens<extra></extra>",
            colorscale=scale(),
            showscale=False,
            xgap=3,
            ygap=3,
        )
    )
    made.update_yaxes(autorange="reversed", showgrid=False, fixedrange=True)
    made.update_xaxes(side="top", showgrid=False, fixedrange=True)
    return made


def said(row: dict[str, float | None]) -> str:
    """A value with its interval."""
    value, low, high = (row[key] for key in ("value", "low", "high"))
    bounds = "" if low is None else f"<br>[{words.number(low)}, {words.number(high)}]"
    return f"{words.number(value)}{bounds}"
