"""Sample: the distribution of the next token, what temperature and cuts make of it, and texts drawn from that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import (
    asked,
    distribution,
    frame,
    panels,
    sampling_controls,
    store,
    through_training,
    words,
)
from pages.components.sampling_controls import Settings
from pages.components.tokens import Strip, running, strips
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.sampling import Continuation
    from workbench.trace import Trace

TOP = 15
MOST = 16  # samples


def view(lab: Lab, question: asked.Question, traces: Mapping[str, Trace], colour: Mapping[str, str]) -> None:
    """Controls, a chart for each checkpoint, on demand continuations, and the prompt through training."""
    st.header("The next token", anchor=False)
    frame.caption(
        "Bars are the model's own probabilities after the last token; rings are what is left to draw from after "
        "temperature, top-k, top-p and min-p, in that order; pale bars are cut."
    )
    settings = sampling_controls.controls()
    left, right = st.columns([2, 3], vertical_alignment="bottom", gap="medium")
    with left:
        say = st.toggle("Continue the text", key="say", bind="query-params")
    with right:
        n = int(st.slider("Samples", 1, MOST, 4, key="n", bind="query-params", disabled=not say, width=320))
    if say:
        frame.caption(
            "Ticks, and the counts behind the probabilities (“2 of 4”): in how many of the samples a token came "
            "first; hover for the 95 % Wilson interval. The first text is greedy, the likeliest token at every "
            "step; the others are drawn."
        )
    else:
        frame.caption("Switch on “Continue the text” to draw texts from these distributions.")
    for column, (address, trace) in zip(st.columns(len(traces), gap="large"), traces.items(), strict=True):
        with column:
            _checkpoint(lab, question, address, trace, colour[address], settings, n if say else 0)
    through_training.view(lab, question, colour)


def _checkpoint(
    lab: Lab, question: asked.Question, address: str, trace: Trace, colour: str, settings: Settings, n: int
) -> None:
    from workbench.first_tokens import first_tokens
    from workbench.sampling import Sampling
    from workbench.trace import candidates, n_kept

    sampling, seed = settings
    frame.name_tag(address, colour, f"{n_kept(trace, sampling):,} tokens left to draw from")
    found = candidates(trace, store.loaded(lab, address).tokenizer, sampling=sampling, top=TOP)
    drawn, greedy, came = [], [], None
    if n:
        ask = (lab, address, question.text, question.chat)
        with frame.sentences():
            greedy = store.continued(*ask, Sampling(temperature=0.0), 0, n=1)
            drawn = store.continued(*ask, sampling, seed, n=n)
            came = {first.token.id: first for first in first_tokens(drawn)}
    alt = f"The {TOP} likeliest next tokens of {address}, before and after sampling settings"
    panels.draw([distribution.panel(found, colour, alt, came=came)], f"next-{address}")
    if greedy:
        texts = [_strip("greedy", greedy[0])]
        if sampling.temperature > 0:
            texts += [_strip(str(i), c) for i, c in enumerate(drawn, 1)]
        strips(texts, colour, f"say-{address}")


def _strip(name: str, drawn: Continuation) -> Strip:
    lines = [
        [f"id {t.id}", f"probability {words.probability(p)}", f"as drawn {words.probability(q)}"]
        for t, p, q in zip(drawn.tokens, drawn.log_p.tolist(), drawn.log_q.tolist(), strict=True)
    ]
    end = "ended by itself" if drawn.ended else f"cut after {len(drawn.tokens)} tokens"
    return Strip(tokens=running(drawn.tokens, lines), head=[name, end], label=f"continuation {name}")
