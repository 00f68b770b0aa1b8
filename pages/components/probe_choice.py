"""Which question, about which checkpoints: the list of probes with what each last answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from pages.components import frame, store
from probes.kit.found import Probe, own_folder, probes
from probes.kit.running import DONE, Said, said
from probes.kit.stored import Stored, stored
from workbench.lab import Lab

USUAL = ("base", "sft", "grpo")
CLAIMS, CLAIMS_NOTHING, FAILED, UNASKED = "●", "○", "×", "·"


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
    answers, last = latest(lab, about), said(lab, about, {})
    states = [_state(each, answers.get(name), last.get(name)) for name, each in everyone.items()]
    n_claims = sum(mark == CLAIMS for mark, _ in states)
    asked = sum(mark in (CLAIMS, CLAIMS_NOTHING) for mark, _ in states)
    frame.caption(
        f"{asked} of {len(states)} are answered about these checkpoints; {n_claims} claim something. "
        f"{CLAIMS} claims something, {CLAIMS_NOTHING} claims nothing, {FAILED} gave no answer, {UNASKED} not asked "
        "yet, or its file has changed since."
    )
    name = st.radio(
        "Question",
        list(everyone),
        captions=[f"{mark} {question}" for mark, question in states],
        key="probe",
        bind="query-params",
    )
    frame.caption(
        f"A file with a function `ask` in {own_folder()} is listed here too: `python -m probes new NAME` writes "
        "one that runs."
    )
    return everyone[str(name)]


def latest(lab: Lab, about: Sequence[str], options: Mapping[str, Any] | None = None) -> dict[str, Stored]:
    """The newest answer of each probe about just these checkpoints, with these settings (the defaults)."""
    found: dict[str, Stored] = {}
    for each in stored(lab):
        if each.checkpoints == tuple(about) and dict(each.options) == dict(options or {}):
            found.setdefault(each.name, each)
    return found


def other_settings(lab: Lab, probe: Probe, about: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Other settings with which it was answered about these checkpoints, as they are typed."""
    told = [
        ", ".join(f"{name}={value}" for name, value in each.options.items()) or "the defaults"
        for each in stored(lab)
        if each.name == probe.name and each.checkpoints == tuple(about) and dict(each.options) != dict(options)
    ]
    return list(dict.fromkeys(told))


def missed(lab: Lab, probe: Probe, about: Sequence[str], options: Mapping[str, Any]) -> str:
    """What went wrong when the probe was last put in this way, if it did since its last answer; else nothing."""
    last, answer = said(lab, about, options).get(probe.name), latest(lab, about, options).get(probe.name)
    return last.message if last and _failed_since(last, answer) else ""


def _failed_since(last: Said, answer: Stored | None) -> bool:
    return last.state != DONE and (answer is None or answer.artefact.manifest["created"] < last.when)


def _state(probe: Probe, answer: Stored | None, last: Said | None) -> tuple[str, str]:
    """A mark, and the question."""
    question = probe.broken or probe.question
    if probe.broken or (last and _failed_since(last, answer)):
        return FAILED, question
    if answer is None or answer.outdated(probe):
        return UNASKED, question
    return (CLAIMS if answer.artefact.figures["claims"] else CLAIMS_NOTHING), question
