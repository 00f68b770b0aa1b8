"""Toy models trained while one looks on, and kept: the same settings are trained once for all viewers."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any

import streamlit as st

from pages.components.toy_controls import DENSITIES
from saes.phase_diagram import PhaseConfig, PhaseDiagram, phase_diagram
from saes.recovery import Recovery, recover
from saes.toy_model import Toy, ToyConfig, ToyStep, train

KEPT = 64  # results
SWEEP_SEEDS = 4  # of each density
Share = tuple[int, int]  # steps done, steps


@st.cache_resource(show_spinner=False)
def _kept() -> OrderedDict[Hashable, Any]:
    return OrderedDict()


def trained(config: ToyConfig, draw: Callable[[Toy, str], None]) -> Toy:
    """The toy model, drawn by `draw` while it is trained and when it is ready."""
    place = st.empty()

    def live(step: ToyStep) -> Share:
        with place.container():
            draw(step.toys[0], f"geometry-{step.step}")
        return step.step, step.n_steps

    (toy,) = _run(("toy", config), "Training the toy model", lambda: train(config), live)
    with place.container():
        draw(toy, "geometry")
    return toy


def recovered(config: ToyConfig, toy: Toy) -> Recovery:
    """What an SAE finds in the toy model."""
    return _run(
        ("sae", config), "Training an SAE on it", lambda: recover(toy), lambda step: (step.step, step.n_steps)
    )


def swept(config: ToyConfig) -> Sequence[Toy]:
    """The same model at every density."""
    equal = dataclasses.replace(config, density=1.0, n_seeds=min(config.n_seeds, SWEEP_SEEDS))
    return _run(
        ("sweep", equal),
        "Training it at every density",
        lambda: train(equal, DENSITIES),
        lambda step: (step.step, step.n_steps),
    )


def phases() -> PhaseDiagram:
    """The phase diagram of two features in one dimension."""
    config = PhaseConfig()
    return _run(("phases", config), "Training every cell", lambda: phase_diagram(config), lambda done: done)


def _run(
    key: Hashable, label: str, start: Callable[[], Generator[Any, None, Any]], live: Callable[[Any], Share]
) -> Any:
    """The kept result, or that of a run to its end under a bar of progress."""
    kept = _kept()
    if key in kept:
        return kept[key]
    bar = st.progress(0.0, text=label)
    run = start()
    while True:
        try:
            done, total = live(next(run))
        except StopIteration as end:
            result = end.value
            break
        bar.progress(done / total, text=f"{label}: {done:,} of {total:,} steps")
    bar.empty()
    kept[key] = result
    while len(kept) > KEPT:
        kept.popitem(last=False)
    return result
