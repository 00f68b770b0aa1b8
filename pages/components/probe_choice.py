"""Which question, about which checkpoints: the list of probes with what each last answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import streamlit as st

from pages.components import frame, store
from probes.kit.found import Probe, own_folder, probes
from probes.kit.running import DONE, Said, said
from probes.kit.stored import Stored, grown, stored
from workbench.lab import Lab
from workbench.plan import Plan

USUAL = ("base", "sft", "grpo")
CLAIMS, CLAIMS_NOTHING, FAILED, UNASKED = "●", "○", "×", "·"


def checkpoints(lab: Lab) -> list[str]:
    """The checkpoints that are asked about; none, with a sentence, where none is chosen or grown."""
    there = store.addresses(lab)
    finished = set(store.finished(lab, "checkpoint"))
    able = [address for address in there if address.partition("@")[0] in finished]
    if not able:
        frame.note(
            f"No checkpoint of {lab.name} is finished yet, and a probe asks about finished ones. Look at the Lab "
            "page: the questions can be put as soon as base is done."
        )
        return []
    usual = [name for name in USUAL if name in able]
    chosen = st.multiselect(
        "About which checkpoints", able, default=usual or able[:1], key="checkpoints", bind="query-params"
    )
    if not chosen:
        frame.note("Choose at least one checkpoint above: a question is put about the ones that are chosen.")
    return list(chosen)


class Board(NamedTuple):
    """All that is stored and said of probes about some checkpoints, newest first; read once a run of the page."""

    about: tuple[str, ...]
    stored: list[Stored]
    said: list[Said]
    steps: Mapping[str, str | None]  # what is grown of what probes read

    @classmethod
    def of(cls, lab: Lab, about: Sequence[str]) -> Board:
        here = tuple(about)
        answers = [each for each in stored(lab) if each.checkpoints == here]
        about_these = [each for each in said(lab) if each.checkpoints == here]
        return cls(here, answers, about_these, grown(lab, Plan.of(lab)))

    def answer(self, probe: Probe, options: Mapping[str, Any]) -> Stored | None:
        """The newest answer with these settings (those other than the defaults)."""
        return next((e for e in self.stored if e.name == probe.name and dict(e.options) == dict(options)), None)

    def missed(self, probe: Probe, options: Mapping[str, Any]) -> str:
        """What went wrong when it was last put in this way, if it did since its last answer; else nothing."""
        last = next((e for e in self.said if e.name == probe.name and e.options == dict(options)), None)
        if last is None or last.state == DONE:
            return ""
        answer = self.answer(probe, options)
        return last.message if answer is None or answer.artefact.manifest["created"] < last.when else ""

    def other_settings(self, probe: Probe, options: Mapping[str, Any]) -> list[str]:
        """Other settings with which it was answered, as they are typed."""
        told = [
            ", ".join(f"{name}={value}" for name, value in each.options.items()) or "the defaults"
            for each in self.stored
            if each.name == probe.name and dict(each.options) != dict(options)
        ]
        return list(dict.fromkeys(told))


def probe(board: Board) -> Probe:
    """The question that is chosen, of all there are."""
    everyone = {each.name: each for each in sorted(probes(), key=lambda each: bool(each.broken))}
    frame.doubted("probe", "probe", list(everyone))
    marks = [_mark(each, board) for each in everyone.values()]
    n_claims, asked = marks.count(CLAIMS), marks.count(CLAIMS) + marks.count(CLAIMS_NOTHING)
    frame.caption(
        f"{asked} of {len(marks)} are answered about these checkpoints; {n_claims} claim something. "
        f"{CLAIMS} claims something, {CLAIMS_NOTHING} claims nothing, {FAILED} gave no answer, {UNASKED} not asked "
        "yet, or its file or what it reads has changed since."
    )
    questions = [each.broken or each.question for each in everyone.values()]
    name = st.radio(
        "Question",
        list(everyone),
        captions=[f"{mark} {question}" for mark, question in zip(marks, questions, strict=True)],
        key="probe",
        bind="query-params",
    )
    frame.caption(
        f"A file with a function `ask` in {own_folder()} is listed here too: `python -m probes new NAME` writes "
        "one that runs."
    )
    return everyone[str(name)]


def _mark(probe: Probe, board: Board) -> str:
    """How it stands with a probe asked with its defaults."""
    if probe.broken or board.missed(probe, {}):
        return FAILED
    answer = board.answer(probe, {})
    if answer is None or answer.outdated(probe, board.steps):
        return UNASKED
    return CLAIMS if answer.artefact.figures["claims"] else CLAIMS_NOTHING
