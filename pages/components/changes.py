"""What changed between a checkpoint and its parent, ranked: where, and which tokens' probability moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, frame, kept, show, theme, words

if TYPE_CHECKING:
    from workbench.changed import Changed

ENTRIES, TOKENS = 8, 3  # drawn


def view(changed: Changed) -> None:
    """Choice of the pair; its foremost entries."""
    pairs = {f"{a} → {b}": (a, b) for a, b in changed.pairs}
    said = st.selectbox("From and to", list(pairs), key="changed", bind="query-params", width=240)
    figures = changed.figures["pairs"][said.replace(" → ", "|")]
    if figures["silent"]:
        frame.note(changed.sentence(*pairs[said]))
        return
    frame.caption(
        "Directions of the difference between the two last streams, ranked by the divergence that each accounts "
        "for at its foremost tokens, so that a rare change is not lost under drift. An entry is told by the tokens "
        "that stand where it is strongest (left) and by those whose probability moves most there (bars: to "
        "the right likelier in the later checkpoint, to the left less likely). All account for "
        f"{words.share(figures['explained'])} of KL {words.number(figures['kl'])} nats per token, "
        f"n = {figures['n']:,} held-out tokens."
    )
    table = changed.of_pair(*pairs[said])
    show.chart(kept.picture(bars, table), "changes", f"what changed from {said}", told(table))


def told(table: pl.DataFrame) -> pl.DataFrame:
    """The entries as a person reads them."""
    return table.select(
        "rank",
        "score",
        "total",
        "share",
        "n",
        pl.col("active").list.join(" ").alias("after"),
        pl.col("moved").list.join(" ").alias("tokens"),
        "by",
    )


def bars(table: pl.DataFrame) -> go.Figure:
    """A group an entry: how its tokens' probability moves."""
    shown, palette = table.head(ENTRIES), theme.palette()
    places, values, names, ticks, at = [], [], [], [], 0.0
    made = charts.figure(90 + 24 * ENTRIES * (TOKENS + 1))
    for row in shown.iter_rows(named=True):
        first = at
        for token, by in list(zip(row["moved"], row["by"], strict=True))[:TOKENS]:
            places.append(at)
            values.append(by)
            names.append(charts.plain(token))
            at += 1
        ticks.append(((first + at - 1) / 2, f"after {' '.join(row['active'][:3])} · {row['score']:.2f} nats"))
        at += 0.8
    made.add_trace(
        go.Bar(
            x=values,
            y=places,
            orientation="h",
            marker={
                "color": [palette.accent if v > 0 else palette.alarm for v in values],
                "line": {"width": 0},
            },
            text=names,
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{text}: %{x:+.3f}<extra></extra>",
        )
    )
    made.update_yaxes(
        tickvals=[place for place, _ in ticks], ticktext=[charts.plain(text) for _, text in ticks],
        autorange="reversed", showgrid=False, fixedrange=True,
    )  # fmt: skip
    widest = max((abs(v) for v in values), default=1.0)
    made.update_xaxes(
        title="probability later less earlier", range=[-1.35 * widest, 1.35 * widest], zeroline=True,
        zerolinecolor=palette.line, fixedrange=True,
    )  # fmt: skip
    made.update_layout(bargap=0.25)
    return made
