"""Asking from the page: a job of its own, polled until it is done."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import streamlit as st

from pages.components import frame, growth, words
from pages.components.probe_choice import latest
from probes.kit.found import Probe
from probes.kit.running import DONE, last_message
from workbench import jobs
from workbench.lab import Lab

POLL = 1.0  # seconds


def asking(lab: Lab, probe: Probe, about: Sequence[str]) -> None:
    """The question, buttons that put it or all of them, and how far a job is."""
    st.header(probe.question or probe.name, anchor=False)
    if probe.broken:
        frame.note(f"This probe cannot be asked: {probe.broken}.", error=True)
        return
    command = f"python -m probes run {lab.name} {probe.name} --checkpoints {','.join(about)}"
    running = growth.running(lab)
    known = latest(lab, about)
    columns = st.columns([2, 2, 5])
    label = "Ask again" if probe.name in known else "Ask"
    if columns[0].button(label, key="ask", type="primary", disabled=running is not None, width="stretch"):
        settings = [f"--set={name}={value}" for name, value in _settings(probe).items()]
        jobs.start(
            lab, ["run", lab.name, probe.name, "--checkpoints", ",".join(about), "--again", *settings], "probes"
        )
        _begun(lab)
    if columns[1].button("Ask all", key="ask_all", disabled=running is not None, width="stretch"):
        jobs.start(lab, ["run", lab.name, "--all", "--checkpoints", ",".join(about)], "probes")
        _begun(lab)
    st.code(command, language="bash")
    if probe.options:
        with st.expander("Settings", key="settings"):
            _forms(probe)
    if running is not None:
        st.fragment(_poll, run_every=POLL)(lab, running)
    if message := missed(lab, probe, about):
        frame.note(f"Asked last, it gave no answer: {message}.", error=True)


def _forms(probe: Probe) -> None:
    """An input for each setting, of its default's type."""
    frame.caption("They count when the question is asked from here; an answer is stored for each setting.")
    for column, (name, default) in zip(
        st.columns(min(4, len(probe.options))) * 9, probe.options.items(), strict=False
    ):
        column.text_input(name, _written(default), key=f"set-{probe.name}-{name}")


def _settings(probe: Probe) -> dict[str, str]:
    """Settings that are not the default's, as they were typed."""
    typed = {name: st.session_state.get(f"set-{probe.name}-{name}") for name in probe.options}
    return {n: value for n, value in typed.items() if value is not None and value != _written(probe.options[n])}


def _written(value: Any) -> str:
    return value if isinstance(value, str) else repr(ast.literal_eval(repr(value)))


def _begun(lab: Lab) -> None:
    """Wait until the job has said that it runs, then draw the page with it."""
    st.session_state["probes_begun"] = st.session_state.get("probes_begun", 0) + 1
    st.fragment(_wait, run_every=POLL)(lab, jobs.jobs(lab)[0].name if jobs.jobs(lab) else "")


def _wait(lab: Lab, before: str) -> None:
    found = jobs.jobs(lab)
    if found and found[0].name != before:
        st.rerun()
    frame.caption("The question is being put: reading the libraries takes a few seconds.")


def _poll(lab: Lab, status: Any) -> None:
    """How far the running job is; the page is drawn anew when it has ended or gone a step further."""
    now = growth.running(lab)
    if now is None or now.get("step") != status.get("step"):
        st.rerun()
        return
    if now["what"] != "probes":
        frame.note(
            f"The lab is being written by another job ({now['what']}): questions can be put when it is done."
        )
        return
    share = (now.get("step_position", 1) - 1) / max(1, now.get("n_steps", 1))
    eta = now.get("eta_seconds")
    rest = f", about {words.duration(eta)} left" if eta else ""
    st.progress(
        share, text=f"Question {now.get('step_position')} of {now.get('n_steps')}: {now.get('label')}{rest}"
    )


def missed(lab: Lab, probe: Probe, about: Sequence[str]) -> str:
    """What went wrong when the probe was last asked, if it did since its last answer; else nothing."""
    said = last_message(lab, probe.name)
    if said is None:
        return ""
    when, state, message = said
    answer = latest(lab, about).get(probe.name)
    return message if state != DONE and (answer is None or answer.artefact.manifest["created"] < when) else ""
