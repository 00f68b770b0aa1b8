"""Which question, about which checkpoints: the list of probes with what each last answered."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from pages.components import frame, store
from probes.kit.found import Probe, own_folder, probes
from probes.kit.stored import Stored, stored
from workbench.lab import Lab

USUAL = ("base", "sft", "grpo")
CLAIMS, CLAIMS_NOTHING, UNASKED = "●", "○", "·"


def checkpoints(lab: Lab) -> list[str]:
    """The checkpoints that are asked about; none, with a sentence, where none is chosen or grown."""
    there = store.addresses(lab)
    finished = set(store.finished(lab, "checkpoint"))
    grown = [address for address in there if address.partition("@")[0] in finished]
    if not grown:
        frame.note(
            f"No checkpoint of {lab.name} is finished yet, and a probe asks about finished ones. Look at the Lab "
            "page: the questions can be put as soon as base is done."
        )
        return []
    usual = [name for name in USUAL if name in grown]
    chosen = st.multiselect(
        "About which checkpoints", grown, default=usual or grown[:1], key="checkpoints", bind="query-params"
    )
    if not chosen:
        frame.note("Choose at least one checkpoint above: a question is put about the ones that are chosen.")
    return list(chosen)


def probe(lab: Lab, about: Sequence[str]) -> Probe:
    """The question that is chosen, of all there are."""
    everyone = {each.name: each for each in sorted(probes(), key=lambda each: bool(each.broken))}
    frame.doubted("probe", "probe", list(everyone))
    answers = latest(lab, about)
    said = [_state(each, answers.get(each.name)) for each in everyone.values()]
    n_claims = sum(mark == CLAIMS for mark, _ in said)
    asked = sum(mark != UNASKED for mark, _ in said)
    frame.caption(
        f"{asked} of {len(said)} are answered about these checkpoints; {n_claims} claim something. "
        f"{CLAIMS} claims something, {CLAIMS_NOTHING} claims nothing, {UNASKED} not asked yet."
    )
    name = st.radio(
        "Question",
        list(everyone),
        captions=[f"{mark} {question}" for mark, question in said],
        key="probe",
        bind="query-params",
    )
    frame.caption(
        f"A file with a function `ask` in {own_folder()} is listed here too: `python -m probes new NAME` writes "
        "one that runs."
    )
    return everyone[str(name)]


def latest(lab: Lab, about: Sequence[str]) -> dict[str, Stored]:
    """The newest answer of each probe about just these checkpoints."""
    found: dict[str, Stored] = {}
    for each in stored(lab):
        if each.checkpoints == tuple(about):
            found.setdefault(each.name, each)
    return found


def _state(probe: Probe, answer: Stored | None) -> tuple[str, str]:
    """A mark, and the question."""
    question = probe.broken or probe.question
    if answer is None:
        return UNASKED, question
    return (CLAIMS if answer.artefact.figures["claims"] else CLAIMS_NOTHING), question
