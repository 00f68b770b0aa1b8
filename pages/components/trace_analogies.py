"""Analogies on the page: one of one's own, and beside it how a whole set of them fares, with its nulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, frame, panels, show, theme, token_store
from pages.components.panels import Panel, Row
from workbench.intervals import bracketed
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.analogies import Score

ASKED = ("nations", "nation", "country", "countries")  # a − b + c, and what is expected
SYMBOLS = ("circle", "circle-open", "x-thin-open", "line-ns-open")


def view(lab: Lab, addresses: Sequence[str], colour: Mapping[str, str]) -> None:
    """a − b + c, then the set."""
    st.header("Analogies", anchor=False)
    frame.caption(
        "a − b + c of unit rows of W_E; the rank of the expected answer by cosine. By custom a, b and c "
        "are left out of the ranking; left in, c itself is mostly first. One nice example proves little: "
        "below it stands the whole set."
    )
    columns = st.columns(4)
    names = ("a", "− b", "+ c", "expected")
    asked = [
        column.text_input(name, default, key=f"analogy_{key}", bind="query-params")
        for column, name, key, default in zip(columns, names, ("a", "b", "c", "d"), ASKED, strict=True)
    ]
    for column, address in zip(st.columns(len(addresses), gap="large"), addresses, strict=True):
        with column, frame.sentences():
            _one(lab, address, asked, colour[address])
    st.subheader("The whole set", anchor=False)
    space = st.segmented_control(
        "Matrix", ["W_E", "W_U"], default="W_E", required=True, key="matrix", bind="query-params"
    )
    for column, address in zip(st.columns(len(addresses), gap="large"), addresses, strict=True):
        with column, frame.sentences():
            _set(lab, address, str(space), colour[address])
    frame.caption(
        "Share of questions whose answer is ranked first, with 95 % intervals over the pairs asked for. "
        "Each pair is asked from up to eight others of its relation. c alone: the answer's rank among "
        "the neighbours of c, without a and b. Shuffled: another answer of the relation stands for the "
        "right one. An analogy says something only where “inputs left out” lies above both."
    )


def _one(lab: Lab, address: str, asked: Sequence[str], colour: str) -> None:
    from workbench.analogies import analogy
    from workbench.embedding import W_E, find_token

    tokenizer, (tokens, _) = token_store.reader(lab, address).tokenizer, token_store.vocabulary(lab, address)
    a, b, c, d = (find_token(tokenizer, text) for text in asked)
    space = token_store.spaces(lab, address)[W_E]
    found = analogy(space, a, b, c, d)
    shown = {name: tokens[i].shown for name, i in zip("abcd", (a, b, c, d), strict=True)}
    frame.name_tag(address, colour, f"{shown['a']} − {shown['b']} + {shown['c']} → {shown['d']}?")
    frame.facts(
        [
            ("rank, inputs left out", _rank(found.rank_excluded, f" of {space.n - len({a, b, c}):,}")),
            ("inputs left in", f"{found.rank_included:,} of {space.n:,}"),
            ("c alone", _rank(found.rank_of_c_alone)),
            ("cosine", f"{found.cosine:.2f}"),
        ]
    )
    rows = []
    for i, cosine in zip(found.best.tolist(), found.cosines.tolist(), strict=True):
        is_input = i in (a, b, c)
        label = tokens[i].shown + (" (input)" if is_input else " ✓" if i == d else "")
        hue = theme.palette().muted if is_input else colour
        rows.append(Row(label=label, value=cosine, text=f"{cosine:.2f}", colour=hue, said=[f"id {i}"]))
    table = pl.DataFrame(
        {"token": [tokens[i].shown for i in found.best.tolist()], "id": found.best, "cosine": found.cosines}
    )
    made = panels.bars(rows, "cosine with a − b + c", 0.0, 1.0)
    panels.draw([Panel(made, f"tokens nearest to a − b + c in {address}", table)], f"analogy-{address}")


def _rank(rank: int | None, of: str = "") -> str:
    return "–, it is an input" if rank is None else f"{rank:,}{of}"


def _set(lab: Lab, address: str, name: str, colour: str) -> None:
    from workbench.analogies import EXCLUDED, MEASURES

    if name not in token_store.spaces(lab, address):
        frame.note(f"{address} has no W_U of its own: its unembedding is W_E.")
        return
    found = token_store.analogies(lab, address, name)
    if not found:
        frame.note(f"The tokenizer of {address} has no relation with three pairs of single tokens.")
        return
    frame.name_tag(address, colour)
    made = charts.figure(110 + 62 * len(found))
    palette = theme.palette()
    relations = list(found)
    for k, (measure, symbol) in enumerate(zip(MEASURES, SYMBOLS, strict=True)):
        scores = [found[relation][measure] for relation in relations]
        hue = colour if measure == EXCLUDED else palette.muted
        part = pl.DataFrame(
            {
                "share": [s.first for s in scores],
                "low": [s.first_interval.low for s in scores],
                "high": [s.first_interval.high for s in scores],
            }
        )
        made.add_trace(
            go.Scatter(
                x=part["share"].to_list(),
                y=[i + (k - 1.5) * 0.19 for i in range(len(relations))],
                mode="markers",
                name=measure,
                cliponaxis=False,
                marker={"color": hue, "symbol": symbol, "size": 9, "line": {"width": 2, "color": hue}},
                error_x=charts.interval(part, "share", hue),
                customdata=[_told(s) for s in scores],
                hovertemplate="%{customdata}<extra>" + measure + "</extra>",
            )
        )
    ticks = [f"{relation} ({found[relation][EXCLUDED].n_pairs} pairs)" for relation in relations]
    made.update_yaxes(
        tickvals=list(range(len(relations))), ticktext=ticks, range=[len(relations) - 0.5, -0.5], showgrid=False
    )
    made.update_xaxes(title="share of questions whose answer is first", range=[0, 1])
    charts.legend_above(made)
    show.chart(
        made, f"analogies-{address}", f"analogies in {name} of {address}, by relation, beside their nulls",
        _table(found),
    )  # fmt: skip


def _told(score: Score) -> str:
    first = bracketed(score.first, *score.first_interval)
    return f"{first} first; mean 1/rank {score.reciprocal:.2f}; n = {score.n:,} questions"


def _table(found: Mapping[str, Mapping[str, Score]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "relation": relation,
                "ranked by": measure,
                "first": score.first,
                "low": score.first_interval.low,
                "high": score.first_interval.high,
                "mean 1/rank": score.reciprocal,
                "1/rank low": score.reciprocal_interval.low,
                "1/rank high": score.reciprocal_interval.high,
                "questions": score.n,
                "pairs": score.n_pairs,
            }
            for relation, by in found.items()
            for measure, score in by.items()
        ]
    )
