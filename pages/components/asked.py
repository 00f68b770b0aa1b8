"""What the Trace page is asked: prompt, form and checkpoints, each bound to the address of the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import frame, store, theme, words
from pages.components.tokens import Strip, Token, strips
from pages.components.words import NONE
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.prompt import Prompt
    from workbench.trace import Trace

PROMPT = "Fellow citizens of the Senate and House of Representatives"


@dataclasses.dataclass(frozen=True)
class Question:
    """One text for one checkpoint or two."""

    text: str
    chat: bool
    checkpoints: tuple[str, ...]


def question(lab: Lab) -> Question | None:
    """The controls; None (with a sentence) while no checkpoint can be opened yet."""
    found = store.addresses(lab)
    if not found:
        frame.note(
            f"No checkpoint of {lab.name} has a snapshot yet. The first is written as soon as base begins "
            "to train: look at the Lab page, then come back."
        )
        return None
    left, right = st.columns([3, 2], gap="large")
    with left:
        text = st.text_area(
            "Text",
            PROMPT,
            key="prompt",
            bind="query-params",
            height=104,
            help="Ctrl+Enter reads it. Markers such as <|user|> are read as plain text.",
        )
        chat = st.toggle("Ask it as a question in chat form", key="chat", bind="query-params")
    with right:
        first = st.selectbox("Checkpoint", found, key="a", bind="query-params")
        others = [NONE, *(a for a in found if a != first)]
        finished = [a for a in others[1:] if "@" not in a]
        second = st.selectbox(
            "Beside it",
            others,
            index=others.index(finished[-1]) if finished else 0,
            key="b",
            bind="query-params",
        )
    return Question(text, chat, (first,) if second in (NONE, None) else (first, second))


def tokens(traces: Mapping[str, Trace], colour: Mapping[str, str]) -> None:
    """The ids that were read; with two checkpoints, tinted by how far their predictions part."""
    from workbench.trace import divergence

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
