"""Small pictures of one latent: factors it follows, what writes it, where its texts come from, neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, frame, show, theme, words

if TYPE_CHECKING:
    from workbench.dashboard import Dashboard

ROW = 24  # pixels
N_WRITERS, N_SOURCES, N_NEIGHBOURS = 8, 6, 6


def pictures(found: Dashboard, colour: str, key: str, chooser: str, a_row: int = 2) -> None:
    """All of them, `a_row` beside each other; what has nothing to show is left out. A neighbour that is clicked
    goes to widget `chooser`."""
    drawn = [
        (_factors, "Factors it follows"),
        (_writers, "What writes it"),
        (_coactive, "Fires together with"),
        (_similar, "Points the same way"),
        (_sources, "Where its texts come from"),
        (_neurons, "Neurons along it"),
    ]
    shown = [(draw, title) for draw, title in drawn if not _rows(found, draw).is_empty()]
    for at in range(0, len(shown), a_row):
        for column, (draw, title) in zip(st.columns(a_row, gap="large"), shown[at : at + a_row], strict=False):
            with column:
                st.markdown(f"##### {title}")
                draw(_rows(found, draw), colour, f"{key}-{draw.__name__}", chooser)


def _rows(found: Dashboard, draw: object) -> pl.DataFrame:
    """What a picture draws."""
    name = {_factors: "factors", _writers: "writers", _sources: "sources", _neurons: "neurons"}.get(draw)
    if name is not None:
        return found.parts[name]
    relation = "coactive" if draw is _coactive else "similar"
    return found.parts["neighbours"].filter(pl.col("relation") == relation).sort("rank").head(N_NEIGHBOURS)


def _factors(rows: pl.DataFrame, colour: str, key: str, chooser: str) -> None:
    frame.caption(
        "Chosen on one half of the documents, scored on the other. Bar: F1; ring: average precision; "
        "tick: AUROC, where one half is chance."
    )
    rows = rows.sort("rank")
    made = charts.bars(
        rows["factor"].to_list(),
        rows["f1"].to_list(),
        colour,
        "F1, average precision, AUROC",
        None,
        row_height=ROW,
    )
    places, ink = list(range(len(rows))), theme.palette().ink
    for column, symbol in (("ap", "circle-open"), ("auroc", "line-ns")):
        mark = {"symbol": symbol, "size": 10, "color": ink, "line": {"width": 2, "color": ink}}
        said = f"%{{x:.2f}} {column.upper()}<extra></extra>"
        made.add_trace(
            go.Scatter(x=rows[column].to_list(), y=places, mode="markers", marker=mark, hovertemplate=said)
        )
    made.update_xaxes(range=[0, 1.02])
    show.chart(made, key, "F1, average precision and AUROC of the factors it follows", rows.drop("latent"))


def _writers(rows: pl.DataFrame, colour: str, key: str, chooser: str) -> None:
    several = rows["checkpoint"].n_unique() > 1
    frame.caption(
        "Share of each part of the model in what lifts the latent's preactivation on its strongest tokens "
        f"above its mean; all parts add up to 100 % (on {rows['peaks'][0]} tokens). Negative: argues against."
    )
    last = rows["checkpoint"][-1]
    kept = (
        rows.filter(pl.col("checkpoint") == last).sort(pl.col("share").abs(), descending=True).head(N_WRITERS)
    )
    values = kept["share"].to_list()
    made = charts.bars(
        kept["component"].to_list(),
        values,
        [colour if v > 0 else theme.palette().muted for v in values],
        "share of what lifts it" + (f", in {last}" if several else ""),
        [f"{v:.0%}" for v in values],
        row_height=ROW,
    )
    made.update_xaxes(tickformat=".0%")
    show.chart(made, key, "share of embedding, heads and MLPs in what makes it fire", rows.drop("latent"))


def _sources(rows: pl.DataFrame, colour: str, key: str, chooser: str) -> None:
    frame.caption(
        "Texts on which it fires more than their share; the figure is how many times more, on how many tokens, "
        "in how many documents. Presidents, parties and years are of the addresses."
    )
    kept = rows.sort(pl.col("count") * pl.col("lift").log(), descending=True).head(N_SOURCES)
    kept = kept.sort("lift", descending=True)
    names = [_value(a, v) for a, v in zip(kept["attribute"], kept["value"], strict=True)]
    columns = (kept["lift"], kept["count"], kept["documents"])
    texts = [f"× {lift:.3g} · {count:,} in {n}" for lift, count, n in zip(*columns, strict=True)]
    made = charts.bars(
        names, kept["lift"].to_list(), colour, "times its share of all tokens", texts, row_height=ROW
    )
    made.add_vline(x=1, line={"color": theme.palette().muted, "width": 1.5, "dash": "dot"})
    made.update_xaxes(range=[0, 1.5 * float(kept["lift"].max() or 1)])  # type: ignore[operator,arg-type]
    show.chart(made, key, "over-represented sources of the texts it fires on", rows.drop("latent"))


def _value(attribute: str, value: str) -> str:
    return value if attribute in ("president", "year") else f"{attribute}: {value}"


def _coactive(rows: pl.DataFrame, colour: str, key: str, chooser: str) -> None:
    frame.caption(
        "Latents that fire on the same tokens, among all of them: shared tokens over tokens of either. "
        "Click one to see it."
    )
    texts = [f"{n:,} tokens" for n in rows["count"]]
    _neighbours(rows, "jaccard", "share of tokens in common (Jaccard)", texts, colour, key, chooser)


def _similar(rows: pl.DataFrame, colour: str, key: str, chooser: str) -> None:
    frame.caption("Latents whose decoders have the largest cosine with its own. Click one to see it.")
    texts = [words.number(v) for v in rows["cosine"]]
    _neighbours(rows, "cosine", "cosine of the two decoders", texts, colour, key, chooser)


def _neighbours(
    rows: pl.DataFrame, value: str, title: str, texts: Sequence[str], colour: str, key: str, chooser: str
) -> None:
    names = [f"{other}: {called or '–'}" for other, called in rows.select("other", "called").iter_rows()]
    short = [name if len(name) <= 34 else f"{name[:33]}…" for name in names]
    made = charts.bars(short, rows[value].to_list(), colour, title, texts, row_height=ROW)
    made.update_traces(customdata=[[other] for other in rows["other"]])
    made.update_xaxes(rangemode="tozero")
    made.update_layout(margin={"r": 80}, clickmode="event+select")
    told = rows.select("other", "called", value, "other_density", *(["count"] if value == "jaccard" else []))
    show.clickable(made, key, f"latents nearest by {value}", told, chooser)


def _neurons(rows: pl.DataFrame, colour: str, key: str, chooser: str) -> None:
    last = rows["checkpoint"][-1]
    kept = rows.filter(pl.col("checkpoint") == last).sort("side", "rank", descending=[True, False])
    frame.caption(
        "Cosine of its decoder with what single MLP neurons write in its layer, and with what those of the "
        "next layer read. Near 1, the latent is that neuron."
    )
    columns = kept.select("side", "layer", "neuron").iter_rows()
    names = [
        f"{'writes' if side == 'written' else 'reads'}: {layer}.{neuron}" for side, layer, neuron in columns
    ]
    values = kept["cosine"].to_list()
    shades = [colour if side == "written" else theme.palette().muted for side in kept["side"]]
    made = charts.bars(
        names, values, shades, "cosine with its decoder", [words.number(v) for v in values], row_height=ROW
    )
    made.update_xaxes(range=[-1.1, 1.1])
    show.chart(made, key, "cosines with MLP neurons that write or read along it", rows.drop("latent"))
