"""Loop: generation one token at a time, every step to be opened again, and what the KV cache saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl
import streamlit as st

from pages.components import (
    asked,
    cache_times,
    distribution,
    frame,
    panels,
    sampling_controls,
    trace_store,
    words,
)
from pages.components.tokens import Strip, Token, readable, strips
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.loop import Loop, LoopStep
    from workbench.trace import Trace

MOST = 64
STEP = "step"  # the widget of the step


def view(lab: Lab, question: asked.Question, traces: Mapping[str, Trace], colour: Mapping[str, str]) -> None:
    """Controls; a strip of steps and one of them opened for each checkpoint; the cache, timed on demand."""
    st.header("One token after another", anchor=False)
    frame.caption(
        "The model reads the text, a token is drawn and put behind it, and the model reads again. Click a token to "
        "open the step at which it was drawn; the stronger its tint, the surer the model was."
    )
    settings = sampling_controls.controls()
    left, right = st.columns([2, 3], vertical_alignment="bottom", gap="medium")
    with left:
        step = int(st.number_input("Step, from 0", 0, None, 0, key=STEP, bind="query-params", width=200))
    with right:
        n = int(st.slider("Tokens at most", 1, MOST, 24, key="steps", bind="query-params", width=320))
    for column, address in zip(st.columns(len(traces), gap="large"), traces, strict=True):
        with column:
            frame.name_tag(address, colour[address])
            with frame.sentences():
                loop = trace_store.looped(lab, address, question.text, question.chat, *settings, n)
                _loop(address, loop, step, colour[address])
    cache_times.view(lab, traces, colour)


def _loop(address: str, loop: Loop, step: int, colour: str) -> None:
    if step >= len(loop.steps):
        frame.note(f"{address} took {len(loop.steps)} steps, so there is no step {step}: its last is shown.")
    at = min(step, len(loop.steps) - 1)

    def choose(_: int, token: int) -> None:
        st.session_state[STEP] = token

    end = "ended by itself" if loop.ended else f"stopped after {len(loop.steps)} tokens"
    tokens = [_token(step_) for step_ in loop.steps]
    strip = Strip(
        tokens=tokens, head=["written", end], chosen=at, peak=at, label=f"steps of {address}", max=1.0
    )
    strips([strip], colour, f"loop-{address}", choose=choose)
    opened = loop.steps[at]
    st.subheader(f"Step {at}: {opened.token.shown}", anchor=False)
    frame.facts(
        [
            ("rank", f"{opened.rank + 1:,}"),
            ("probability", words.decimals(opened.probability)),
            ("left to draw from", f"{opened.n_kept:,}"),
            ("as drawn", words.decimals(opened.reshaped)),
            ("entropy", f"{words.number(opened.entropy)} nats"),
            ("KV cache", f"{opened.read:,} tokens, {words.size(opened.cache_bytes)}"),
        ]
    )
    alt = f"The likeliest tokens of {address} at step {at}, before and after sampling settings"
    made = distribution.panel(opened.candidates, colour, alt, chosen=opened.token.id)
    panels.draw([made], f"step-{address}")
    with st.expander("All steps as a table", key=f"loop-{address}-twin", on_change="rerun") as unfolded:
        if unfolded.open:
            st.dataframe(_table(loop), key=f"loop-table-{address}", hide_index=True)


def _token(step: LoopStep) -> Token:
    said = [
        f"rank {step.rank + 1}",
        f"probability {words.decimals(step.probability)}",
        f"entropy {words.number(step.entropy)} nats",
    ]
    return Token(text=readable(step.token), value=step.probability, lines=said, special=step.token.special)


def _table(loop: Loop) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "step": list(range(len(loop.steps))),
            "token": [s.token.shown for s in loop.steps],
            "rank": [s.rank + 1 for s in loop.steps],
            "probability": [s.probability for s in loop.steps],
            "as drawn": [s.reshaped for s in loop.steps],
            "entropy (nats)": [s.entropy for s in loop.steps],
            "left to draw from": [s.n_kept for s in loop.steps],
            "tokens in the cache": [s.read for s in loop.steps],
            "bytes of the cache": [s.cache_bytes for s in loop.steps],
        }
    )
