"""What the Trace page is asked: prompt, form, checkpoints and stage, each bound to the address of the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import frame, store
from pages.components.words import NONE
from workbench.lab import Lab
from workbench.main_line import end_of_line, main_first
from workbench.plan import Plan
from workbench.recipe import stage_of

if TYPE_CHECKING:
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
    plan = Plan.of(lab)
    found = main_first(plan, found)
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
        _doubted("a", found)
        first = st.selectbox("Checkpoint", found, key="a", bind="query-params")
        others = [NONE, *(a for a in found if a != first)]
        beside = end_of_line(plan, first, found)
        if st.query_params.get("b") == first:
            frame.note(f"{first} cannot stand beside itself; this is another choice.", error=True)
        else:
            _doubted("b", others)
        second = st.selectbox(
            "Beside it",
            others,
            index=others.index(beside) if beside else 0,
            key="b",
            bind="query-params",
        )
    return Question(text, chat, (first,) if second in (NONE, None) else (first, second))


def _doubted(parameter: str, addresses: Sequence[str]) -> None:
    """Say it where the address asks for a checkpoint, or a snapshot of one, that is not here."""
    asked = st.query_params.get(parameter, "")
    near = [a for a in addresses if "@" in asked and stage_of(a) == stage_of(asked)]
    whole = [a for a in addresses if "@" not in a]
    if asked not in addresses:  # all snapshots of all checkpoints would be a sentence that no one reads
        frame.doubted(parameter, "checkpoint", near or whole or addresses)


def stage(stages: Sequence[str]) -> str:
    """The stage that is looked at: the address's, else the first."""
    frame.doubted("stage", "stage", stages)
    chosen = st.segmented_control(
        "Stage", stages, default=stages[0], required=True, key="stage", bind="query-params"
    )
    return str(chosen)


def notes(lab: Lab, asked: Question, traces: Mapping[str, Trace]) -> None:
    """What of the text was not read as typed, each sentence once."""
    from workbench.prompt_notes import notes

    found = [
        sentence
        for address, trace in traces.items()
        for sentence in notes(store.loaded(lab, address).tokenizer, asked.text, trace.prompt, asked.chat)
    ]
    for sentence in dict.fromkeys([*found, *_twice(lab, traces)]):
        frame.note(sentence)


def _twice(lab: Lab, traces: Mapping[str, Trace]) -> list[str]:
    """A sentence where two checkpoints that are looked at are one."""
    from workbench.same_weights import same_logits, same_weights

    if len(traces) < 2:
        return []
    (first, ours), (second, theirs) = traces.items()
    if not same_logits(ours, theirs):
        return []
    if same_weights(store.loaded(lab, first).model, store.loaded(lab, second).model):
        return [f"{first} and {second} have the same weights: every stage shows the same twice."]
    return [f"{first} and {second} give identical logits on this text, though their weights differ."]
