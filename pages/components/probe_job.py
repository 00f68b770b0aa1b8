"""Asking from the page: a job of its own, polled until it is done."""

from __future__ import annotations

from typing import Any

import streamlit as st

from pages.components import frame, growth, words
from pages.components.probe_choice import Board
from probes.kit.found import Probe, checked_options
from probes.kit.stored import set_otherwise
from workbench import jobs
from workbench.lab import Lab

POLL = 1.0  # seconds


def asking(lab: Lab, probe: Probe, board: Board) -> dict[str, Any]:
    """The question, its settings, buttons that put it or all of them, and how far a job is; the settings that are
    other than the defaults."""
    st.header(probe.question or probe.name, anchor=False)
    if probe.broken:
        frame.note(f"This probe cannot be asked: {probe.broken}.", error=True)
        return {}
    typed = _forms(probe) if probe.options else []
    options = set_otherwise(probe, checked_options(probe, typed))
    settings = [f"--set={name}={value}" for name, value in options.items()]
    running = growth.running(lab)
    about = ",".join(board.about)
    wanted = ["run", lab.name, probe.name, "--checkpoints", about, *settings]
    columns = st.columns([2, 2, 5])
    label = "Ask again" if board.answer(probe, options) else "Ask"
    if columns[0].button(label, key="ask", type="primary", disabled=running is not None, width="stretch"):
        jobs.start(lab, [*wanted, "--again"], "probes")
        _begun(lab)
    if columns[1].button("Ask all", key="ask_all", disabled=running is not None, width="stretch"):
        jobs.start(lab, ["run", lab.name, "--all", "--checkpoints", about], "probes")
        _begun(lab)
    st.code(" ".join(["python -m probes", *wanted]), language="bash")
    if running is not None:
        st.fragment(_poll, run_every=POLL)(lab, running)
    if message := board.missed(probe, options):
        frame.note(f"Asked last in this way, it gave no answer: {message}.", error=True)
    return options


def _forms(probe: Probe) -> list[str]:
    """An input for each setting; what stands in them, as the command line takes it."""
    typed = []
    with st.expander("Settings", key="settings"):
        frame.caption("The answer below is the one for these settings; each has an answer of its own.")
        columns = st.columns(min(4, len(probe.options)))
        for number, (name, default) in enumerate(probe.options.items()):
            key = f"{probe.name}.{name}"
            value = columns[number % len(columns)].text_input(name, str(default), key=key, bind="query-params")
            typed.append(f"{name}={value}")
    return typed


def _begun(lab: Lab) -> None:
    """Wait until the job has said that it runs, then draw the page with it."""
    known = jobs.jobs(lab)
    st.fragment(_wait, run_every=POLL)(lab, known[0].name if known else "")


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
    if "step" not in now:
        frame.caption("The question is being put: reading the libraries takes a few seconds.")
        return
    share = (now.get("step_position", 1) - 1) / max(1, now.get("n_steps", 1))
    eta = now.get("eta_seconds")
    rest = f", about {words.duration(eta)} left" if eta else ""
    place = f"Question {now['step_position']} of {now['n_steps']}: {now['step'].partition('/')[2]}"
    st.progress(share, text=f"{place}{rest}")
