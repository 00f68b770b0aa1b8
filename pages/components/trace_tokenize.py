"""Tokenize: the ids that were read; with two checkpoints, tinted by how far their predictions part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import asked, frame, theme, words
from pages.components.tokens import Strip, Token, strips
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.prompt import Prompt
    from workbench.trace import Trace


def view(lab: Lab, question: asked.Question, traces: Mapping[str, Trace], colour: Mapping[str, str]) -> None:
    """Every token of the prompt with its id."""
    from workbench.trace import divergence

    st.header("Tokens", anchor=False)
    (first, *rest) = traces
    prompt = traces[first].prompt
    same = all(traces[a].prompt.ids == prompt.ids for a in rest)
    if rest and same:
        parted = divergence(traces[rest[0]], traces[first]).tolist()
        frame.caption(
            f"Each token with its id, tinted by KL({rest[0]} ‖ {first}) of what comes after it, in nats: "
            "the stronger, the more the two part."
        )
        lines = [
            [f"id {t.id}", f"KL {words.number(kl)} nats"] for t, kl in zip(prompt.tokens, parted, strict=True)
        ]
        boxed(prompt, lines, parted, theme.palette().accent, "tokens")
        return
    frame.caption("Each token with its id.")
    for address, trace in traces.items():
        lines = [[f"id {t.id}"] for t in trace.prompt.tokens]
        boxed(trace.prompt, lines, [0.0] * len(lines), colour[address], f"tokens-{address}")


def boxed(prompt: Prompt, lines: list[list[str]], values: list[float], colour: str, key: str) -> None:
    """The prompt's tokens in boxes with their ids."""
    made = [
        Token(text=t.shown, value=v, lines=line, under=str(t.id), special=t.special)
        for t, v, line in zip(prompt.tokens, values, lines, strict=True)
    ]
    strip = Strip(tokens=made, max=max([1e-9, *values]), label="tokens of the prompt")
    strips([strip], colour, key, boxed=True)
