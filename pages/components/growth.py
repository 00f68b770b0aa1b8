"""What is growing: a fragment that polls the lab's newest job and redraws the page when a step is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from pages.components import charts, frame, store, theme, words
from workbench import jobs
from workbench.lab import Lab
from workbench.plan import Plan, Resolved, resolve
from workbench.serve import grow_in_background

POLL_RUNNING, POLL_IDLE = 1.0, 3.0  # seconds


def running(lab: Lab) -> Mapping[str, Any] | None:
    """Status of the lab's running job, if one runs."""
    return next((job.status for job in jobs.jobs(lab) if job.state == "running"), None)


def watch(lab: Lab, grown: Sequence[str]) -> None:
    """Show the newest job and poll it; `grown` are the steps that the rest of the page knows as done."""
    every = POLL_RUNNING if running(lab) else POLL_IDLE
    st.fragment(_poll, run_every=every)(lab, tuple(grown), every)


def _poll(lab: Lab, grown: tuple[str, ...], every: float) -> None:
    with frame.sentences():
        plan = Plan.of(lab)
        resolved = resolve(lab, plan)
        if tuple(keys_done(resolved)) != grown:
            st.rerun()  # a step was finished: the tree and the pictures have news
        found = jobs.jobs(lab)
        newest = found[0] if found else None
        is_running = newest is not None and newest.state == "running"
        if is_running != (every == POLL_RUNNING):
            st.rerun()
        if newest is not None and is_running:
            _running(newest.status, resolved)
        else:
            _resting(lab, newest, len(resolved) - len(grown), len(resolved))


def keys_done(resolved: Sequence[Resolved]) -> list[str]:
    """Keys of the steps that are finished."""
    return [r.step.key for r in resolved if r.artefact is not None]


def _running(status: Mapping[str, Any], resolved: Sequence[Resolved]) -> None:
    st.subheader("Growing now", anchor=False)
    if "step" not in status:
        frame.caption("The job has begun and is reading the recipe.")
        return
    key = status["step"]
    left, right = st.columns([3, 2], gap="large")
    with left:
        done, total = status.get("done"), status.get("total")
        label = f"Step {status['step_position']} of {status['n_steps']}: {_words(key)}"
        if total:
            eta = status.get("eta_seconds")
            rest = f"about {words.duration(eta)} left" if eta is not None else "time not known yet"
            st.progress(min(1.0, done / total), text=label)
            frame.caption(f"{done:,} of {total:,} {status['unit']} · {rest}")
        else:
            st.progress(0.0, text=label)
            frame.caption("Getting ready.")
        if status.get("figures"):
            frame.facts([(words.metric(name), words.number(v)) for name, v in status["figures"].items()])
        if status["finished_steps"]:
            with st.expander(f"Done in this run: {len(status['finished_steps'])}"):
                for entry in status["finished_steps"]:
                    frame.caption(f"{_words(entry['step'])}: {words.duration(entry['seconds'])}")
    with right:
        _live_curve(key, resolved)


def _live_curve(key: str, resolved: Sequence[Resolved]) -> None:
    partial = next((r.partial for r in resolved if r.step.key == key), None)
    metrics = store.metrics(partial)
    name = key.split("/", 1)[1]
    if metrics is None or not len(metrics):
        frame.caption("A curve appears here while a model or a dictionary is trained.")
        return
    chosen = main_metric(metrics["name"].unique().to_list())
    curve = metrics.filter(metrics["name"] == chosen)
    made = charts.line(curve, "step", "value", theme.colours([name])[name], "step", words.metric(chosen))
    st.plotly_chart(
        made,
        key="live",
        alt=f"{words.metric(chosen)} of {name} over its steps so far; figures in the line beside it",
    )


def main_metric(names: Sequence[str]) -> str:
    """The metric that tells most of a stage, of those it has."""
    for wanted in ("reward", "loss", "fvu"):
        if wanted in names:
            return wanted
    return sorted(names)[0]


def _resting(lab: Lab, newest: jobs.Job | None, n_missing: int, n_steps: int) -> None:
    """No job runs: say how the last one ended and what is missing."""
    if newest is not None and newest.state in ("failed", "lost", "stopped"):
        step = newest.status.get("step")
        where = f" at {_words(step)}" if step else ""
        why = newest.status.get("message") or {
            "lost": "its process ended without a word; finished steps and snapshots are kept",
            "stopped": "someone stopped it; finished steps and snapshots are kept",
        }.get(newest.state, "")
        frame.note(f"The last run {_ENDED[newest.state]}{where}: {why}", error=newest.state == "failed")
    if not n_missing:
        return
    st.subheader("Not finished", anchor=False)
    frame.caption(
        f"{n_missing} of {n_steps} steps are yet to be grown. "
        f"Begin here, or run `python -m workbench grow {lab.name}`."
    )
    if st.button("Grow what is missing", key="grow", type="primary"):
        frame.caption(f"{grow_in_background(lab)}.")


_ENDED = {"failed": "failed", "lost": "was cut off", "stopped": "was stopped"}


def _words(key: str) -> str:
    """A step's key as words: 'checkpoint/base' -> 'checkpoint base'."""
    return key.replace("/", " ")
