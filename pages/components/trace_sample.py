"""Sample: the distribution of the next token, what temperature and cuts make of it, and texts drawn from that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import asked, charts, frame, show, store, theme, words
from pages.components.tokens import Strip, running, strips
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.sampling import Continuation, Sampling
    from workbench.trace import Candidate, Trace

TOP = 15
_CUT = ("", "cut by top-k", "cut by top-p", "cut by min-p")


def view(lab: Lab, question: asked.Question, traces: Mapping[str, Trace], colour: Mapping[str, str]) -> None:
    """Controls, a chart for each checkpoint, and on demand continuations."""
    from workbench.trace import candidates, n_kept

    st.header("The next token", anchor=False)
    frame.caption(
        "Bars are the model's own probabilities after the last token; diamonds are what is left to draw from "
        "after temperature, top-k and top-p, in that order."
    )
    sampling, seed, say = _controls()
    for column, (address, trace) in zip(st.columns(len(traces), gap="large"), traces.items(), strict=True):
        with column:
            frame.name_tag(address, colour[address], f"{n_kept(trace, sampling):,} tokens left to draw from")
            tokenizer = store.loaded(lab, address).tokenizer
            found = candidates(trace, tokenizer, sampling=sampling, top=TOP)
            show.chart(
                _picture(found, colour[address]),
                f"next-{address}",
                f"The {TOP} likeliest next tokens of {address}, before and after sampling settings",
                _table(found),
            )
            if say:
                drawn = store.continued(lab, address, question.text, question.chat, sampling, seed)
                strips([_strip(i, c) for i, c in enumerate(drawn, 1)], colour[address], f"say-{address}")
    if not say:
        frame.caption("Switch on “Continue the text” to draw texts from these distributions.")


def _controls() -> tuple[Sampling, int, bool]:
    from workbench.sampling import Sampling

    columns = st.columns([3, 3, 3, 2, 3], gap="medium", vertical_alignment="bottom")
    with columns[0]:
        temperature = st.slider(
            "Temperature (0: greedy)", 0.0, 2.0, 1.0, 0.05, key="temperature", bind="query-params"
        )
    with columns[1]:
        top_k = st.slider("Top-k (0: off)", 0, 100, 0, key="top_k", bind="query-params")
    with columns[2]:
        top_p = st.slider("Top-p (1: off)", 0.05, 1.0, 1.0, 0.05, key="top_p", bind="query-params")
    with columns[3]:
        seed = st.number_input("Seed", 0, 9999, 0, key="seed", bind="query-params")
    with columns[4]:
        say = st.toggle("Continue the text", key="say", bind="query-params")
    return Sampling(temperature=temperature, top_k=top_k, top_p=top_p), int(seed), say


def _picture(found: list[Candidate], colour: str) -> go.Figure:
    made = charts.bars(
        [f"{c.shown}   {words.number(c.probability)}" for c in found],
        [c.probability for c in found],
        colour,
        "probability",
        None,
        row_height=24,
    )
    made.data[0].marker.opacity = [0.35 if c.cut_by else 0.85 for c in found]
    made.add_trace(
        go.Scatter(
            x=[c.reshaped for c in found],
            y=list(range(len(found))),
            mode="markers",
            marker={"symbol": "diamond-open", "size": 9, "color": theme.palette().muted, "line": {"width": 2}},
            customdata=[f"{charts.plain(c.shown)}: {words.number(c.reshaped)} {_CUT[c.cut_by]}" for c in found],
            hovertemplate="%{customdata}<extra>as drawn</extra>",
        )
    )
    return made


def _table(found: list[Candidate]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "token": [c.shown for c in found],
            "id": [c.id for c in found],
            "probability": [c.probability for c in found],
            "as drawn": [c.reshaped for c in found],
            "cut": [_CUT[c.cut_by] for c in found],
        }
    )


def _strip(number: int, drawn: Continuation) -> Strip:
    lines = [
        [f"id {t.id}", f"probability {words.probability(p)}", f"as drawn {words.probability(q)}"]
        for t, p, q in zip(drawn.tokens, drawn.log_p.tolist(), drawn.log_q.tolist(), strict=True)
    ]
    end = "ended by itself" if drawn.ended else f"cut after {len(drawn.tokens)} tokens"
    return Strip(tokens=running(drawn.tokens, lines), head=[f"{number}", end], label=f"continuation {number}")
