"""How far the predictions of checkpoints part: KL and loss by domain, with 95 % intervals over documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, frame, kept, show, theme

if TYPE_CHECKING:
    from workbench.comparison import Comparison

DOMAINS = "`rollout:NAME` is what NAME wrote itself, `all` is every token of every domain."


def kl(comparison: Comparison) -> None:
    """KL of one checkpoint from each of the others."""
    names = comparison.checkpoints
    p = st.selectbox(
        "How far from the others is", names, index=len(names) - 1, key="kl_of", bind="query-params", width=240
    )
    table = comparison.kl.filter(pl.col("p") == p)
    frame.caption(
        f"KL({p} ‖ other) of the next-token distributions, nats per held-out token; bars are 95 % intervals over "
        f"documents. {DOMAINS}"
    )
    made = kept.picture(
        charts.dots_with_intervals,
        table,
        "domain",
        "q",
        "kl",
        theme.colours(names),
        theme.symbols(names),
        "nats per token",
    )
    show.chart(made, "kl", f"KL of {p} from each other checkpoint, by domain", table)


def loss(comparison: Comparison) -> None:
    """Loss of every checkpoint by domain."""
    names = comparison.checkpoints
    frame.caption(
        f"Nats per held-out token, lower is better; bars are 95 % intervals over documents. {DOMAINS}"
    )
    made = kept.picture(
        charts.dots_with_intervals,
        comparison.loss,
        "domain",
        "checkpoint",
        "loss",
        theme.colours(names),
        theme.symbols(names),
        "nats per token",
        from_zero=False,
    )
    show.chart(made, "loss", "loss of every checkpoint, by domain", comparison.loss)


def forgetting(comparison: Comparison) -> None:
    """Loss of each later checkpoint less that of the first, by domain."""
    first, *later = comparison.checkpoints
    frame.caption(
        f"Nats per held-out token more than {first} has: above zero is forgotten, below is gained. Each checkpoint "
        f"is scored on the same tokens. {DOMAINS}"
    )
    table = comparison.excess_loss
    made = kept.picture(above, table, later)
    show.chart(made, "forgetting", f"loss above that of {first}, by domain", table)


def above(table: pl.DataFrame, names: Sequence[str]) -> go.Figure:
    """A dot a checkpoint in each domain, beside the line of no change."""
    made = charts.dots_with_intervals(
        table, "domain", "checkpoint", "excess", theme.colours(names), theme.symbols(names), "nats per token",
        from_zero=False,
    )  # fmt: skip
    made.add_vline(x=0, line={"color": theme.palette().ink, "width": 1})
    return made
