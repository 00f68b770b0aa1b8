"""How far the predictions of checkpoints part: KL and loss by domain, with 95 % intervals over documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import streamlit as st

from pages.components import charts, frame, show, theme

if TYPE_CHECKING:
    from workbench.comparison import Comparison


def kl(comparison: Comparison) -> None:
    """KL of one checkpoint from each of the others."""
    names = comparison.checkpoints
    p = st.selectbox(
        "How far from the others is", names, index=len(names) - 1, key="kl_of", bind="query-params", width=240
    )
    table = comparison.kl.filter(pl.col("p") == p)
    frame.caption(
        f"KL({p} ‖ other) of the next-token distributions, nats per held-out token; bars are 95 % intervals."
    )
    made = charts.dots_with_intervals(
        table, "domain", "q", "kl", theme.colours(names), theme.symbols(names), "nats per token"
    )
    show.chart(made, "kl", f"KL of {p} from each other checkpoint, by domain", table)


def loss(comparison: Comparison) -> None:
    """Loss of every checkpoint by domain."""
    names = comparison.checkpoints
    frame.caption("Nats per held-out token, lower is better; bars are 95 % intervals over documents.")
    made = charts.dots_with_intervals(
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
