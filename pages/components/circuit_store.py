"""What the Circuits page reads and works out, kept between runs by the circuit's id."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from pages.components import store
from workbench.circuits.found_circuits import FoundCircuits
from workbench.errors import Failure
from workbench.lab import Lab
from workbench.plan import Plan

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from workbench.circuits.circuit import Circuit
    from workbench.circuits.circuit_history import CircuitHistory
    from workbench.circuits.circuit_model import CircuitModel
    from workbench.circuits.cross_patching import BothWays
    from workbench.circuits.difference_graph import DifferenceGraph
    from workbench.circuits.direct_logits import Contribution
    from workbench.circuits.found_checks import CircuitCheck
    from workbench.circuits.found_lenses import FoundLens
    from workbench.circuits.grids import Effects, Grid
    from workbench.circuits.lens_answers import LensAnswers
    from workbench.circuits.node_effects import NodeEffect
    from workbench.circuits.one_edge import OneEdge
    from workbench.circuits.pairs import Pairs
    from workbench.vocabulary import TokenText

NOTHING, READING = "Patching the checkpoint", "Reading the checkpoint"


class Of(NamedTuple):
    """Which circuit of which lab; what is kept is kept by it."""

    lab: str  # path
    name: str
    id: str

    def opened(self) -> Lab:
        return Lab(Path(self.lab))


class Patched(NamedTuple):
    """A grid with its effects worked out."""

    grid: Grid
    effects: Effects


def of(lab: Lab, name: str) -> Of:
    """The circuit as it stands in the lab's recipe now."""
    return Of(str(lab.path), name, lab.find("circuit", name).id)


def names(lab: Lab) -> list[str]:
    """The recipe's circuits that are finished; not their ways along the snapshots, which are of this kind too."""
    finished = set(store.finished(lab, "circuit"))
    return [circuit.name for circuit in Plan.of(lab).recipe.circuits if circuit.name in finished]


def latents_alone(lab: Lab) -> dict[str, list[str]]:
    """Tasks of which feature circuits are finished and no circuit is: the checkpoints of each."""
    circuits = names(lab)
    there = {circuit.task for circuit in Plan.of(lab).recipe.circuits if circuit.name in circuits}
    return {task: checkpoints for task, checkpoints in latents_of(lab).items() if task not in there}


def latents_of(lab: Lab) -> dict[str, list[str]]:
    """Tasks of which feature circuits are finished: the checkpoints of each."""
    finished = set(store.finished(lab, "evaluation"))
    found: dict[str, list[str]] = {}
    for each in Plan.of(lab).recipe.feature_circuits:
        if each.name in finished:
            found.setdefault(each.task, []).append(each.checkpoint)
    return found


def history(of: Of) -> CircuitHistory:
    """The circuit's way along the snapshots, as it stands now; `Misuse` with the command where there is none."""
    from workbench.circuits.circuit_history import CircuitHistory

    return CircuitHistory.of(of.opened(), of.name)


def check(of: Of) -> CircuitCheck:
    """The circuit's edges patched one by one, as they stand now; `Misuse` with the command where they were not."""
    from workbench.circuits.found_checks import CircuitCheck

    return CircuitCheck.of(of.opened(), of.name)


@st.cache_resource(max_entries=16, show_spinner=False)
def found(of: Of) -> FoundCircuits:
    """The finished artefact; its tables are read once."""
    return FoundCircuits.of(of.opened(), of.name)


@st.cache_resource(max_entries=64, show_spinner=False)
def circuit(of: Of, checkpoint: str) -> Circuit:
    """One checkpoint's circuit."""
    return found(of).circuit(checkpoint)


@st.cache_resource(max_entries=64, show_spinner=False)
def difference(of: Of, before: str, after: str) -> DifferenceGraph:
    """What became of the edges between two checkpoints."""
    return found(of).difference(before, after)


@st.cache_resource(max_entries=32, show_spinner="Writing the task's prompts")
def pairs(of: Of, use: str = "search", one_length: bool = False) -> Pairs:
    """The task's pairs."""
    return found(of).pairs(of.opened(), use, one_length)


@st.cache_resource(max_entries=32, show_spinner=False)
def texts(
    of: Of, use: str = "search", one_length: bool = False
) -> list[tuple[list[TokenText], list[TokenText], TokenText, TokenText]]:
    """Every pair as tokens: clean, corrupt, target, foil."""
    from workbench.vocabulary import Vocabulary

    some = pairs(of, use, one_length)
    words = Vocabulary(store.loaded(of.opened(), found(of).checkpoints[0]).tokenizer)
    told = []
    for row in range(len(some)):
        end = int(some.last[row]) + 1
        clean, corrupt = ([words[int(i)] for i in ids[row, :end]] for ids in (some.clean, some.corrupt))
        told.append((clean, corrupt, words[int(some.target[row])], words[int(some.foil[row])]))
    return told


@st.cache_resource(max_entries=256, show_spinner=NOTHING)
def grid(of: Of, checkpoint: str, point: str, direction: str, axes: Sequence[str]) -> Patched:
    """A grid of patches within one checkpoint, on pairs of one length."""
    from workbench.circuits.activation_patching import Patching
    from workbench.circuits.direct_patching import DIRECT, direct_parts
    from workbench.circuits.pattern_patching import PATTERN, pattern_grid

    at = store.loaded(of.opened(), checkpoint)
    with at.lock, _threads(of):
        patching = Patching(at.model, pairs(of, "judge", True))
        if point == PATTERN:
            made = pattern_grid(patching, direction, axes)
        else:
            made = (
                direct_parts(patching, direction) if point == DIRECT else patching.grid(point, direction, axes)
            )
    return Patched(made, made.effect())


@st.cache_resource(max_entries=128, show_spinner=NOTHING)
def cross(of: Of, before: str, after: str, point: str, axes: Sequence[str]) -> tuple[Patched, Patched]:
    """Patches of one checkpoint's values into another, both ways."""
    from workbench.circuits.activation_patching import Patching
    from workbench.circuits.cross_patching import cross_grids

    a, b = (store.loaded(of.opened(), each) for each in (before, after))
    some = pairs(of, "judge", True)
    with _both(a, b), _threads(of):
        both: BothWays = cross_grids(
            Patching(a.model, some), Patching(b.model, some), point, axes, (before, after)
        )
    one, other = (Patched(made, made.effect()) for made in both)
    return one, other


@contextlib.contextmanager
def _both(a: store.Loaded, b: store.Loaded) -> Iterator[None]:
    """Both models held, whoever else wants the two in whatever order."""
    first, second = sorted((a, b), key=id)
    with first.lock, second.lock:
        yield


class Ways(NamedTuple):
    """Parts put in together and singly, both ways (`cross_patching.joint_and_single`)."""

    a_into_b: Grid
    b_into_a: Grid


@st.cache_resource(max_entries=64, show_spinner=NOTHING)
def together(of: Of, before: str, after: str, parts: tuple[str, ...]) -> Ways:
    """Components of one checkpoint put into another at once, both ways, on the clean prompts."""
    from workbench.circuits.activation_patching import Patching
    from workbench.circuits.cross_patching import joint_and_single
    from workbench.circuits.node_effects import cell_of

    a, b = (store.loaded(of.opened(), each) for each in (before, after))
    some, cells = pairs(of, "judge", True), [cell_of(part) for part in parts]
    with _both(a, b), _threads(of):
        first, second = Patching(a.model, some), Patching(b.model, some)
        return Ways(
            joint_and_single(first, second, cells, (before, after)),
            joint_and_single(second, first, cells, (after, before)),
        )


@st.cache_resource(max_entries=512, show_spinner=NOTHING)
def node(of: Of, checkpoint: str, name: str) -> NodeEffect:
    """What one component does on each of the prompts that found the circuit."""
    from workbench.circuits.activation_patching import Patching
    from workbench.circuits.node_effects import node_effect

    at = store.loaded(of.opened(), checkpoint)
    with at.lock, _threads(of):
        return node_effect(Patching(at.model, pairs(of)), name)


class Written(NamedTuple):
    """What each part writes into logit(target) − logit(foil), by its name, and the check that this adds up."""

    parts: dict[str, Contribution]
    check: str


@st.cache_resource(max_entries=64, show_spinner=READING)
def written(of: Of, checkpoint: str) -> Written:
    """Direct logit attribution on the prompts that found the circuit; `Failure` where the parts do not add up."""
    from workbench.circuits.direct_logits import attribute
    from workbench.residual_writers import NotASum

    at = store.loaded(of.opened(), checkpoint)
    with at.lock, _threads(of):
        try:
            made = attribute(at.model, pairs(of))
        except NotASum as error:
            raise Failure(f"nothing is attributed in {checkpoint}: {error}") from error
    return Written({each.component: each for each in made.means()}, made.sentence())


def direct(of: Of, checkpoint: str) -> dict[str, Contribution]:
    """What each part writes, by its name."""
    return written(of, checkpoint).parts


class Looked(NamedTuple):
    """Where the last tokens look, the mean over pairs with its interval, and the same as a table."""

    mean: np.ndarray  # layer, head, position
    interval: np.ndarray  # the same, then low and high
    table: pl.DataFrame


@st.cache_resource(max_entries=64, show_spinner=READING)
def last_attention(of: Of, checkpoint: str) -> Looked:
    """Every head's attention from the last token of the clean prompts, on pairs of one length."""
    from workbench.circuits.heads import last_attention

    at = store.loaded(of.opened(), checkpoint)
    with at.lock, _threads(of):
        made = last_attention(at.model, pairs(of, "judge", True))
    return Looked(made.mean(), made.interval(), made.table())


@st.cache_resource(max_entries=128, show_spinner=NOTHING)
def patterns(of: Of, checkpoint: str, row: int) -> np.ndarray:
    """Every head's attention on one pair's clean prompt: layer, head, query, key."""
    from workbench.circuits.heads import patterns

    at, some = store.loaded(of.opened(), checkpoint), pairs(of)
    ids = some.clean[row : row + 1, : int(some.last[row]) + 1]
    with at.lock, _threads(of):
        return patterns(at.model, ids.to(at.model.device))[:, 0].cpu().numpy()


def lens(of: Of, checkpoint: str) -> FoundLens | None:
    """The checkpoint's tuned lens as it stands now; None where none has been fitted."""
    from workbench.circuits.found_lenses import FoundLens
    from workbench.plan import lens_name

    opened = of.opened()
    step = Plan.of(opened).steps.get(f"evaluation/{lens_name(checkpoint)}")
    there = step is not None and opened.artefact(step.kind, step.name, step.id) is not None
    return FoundLens.of(opened, checkpoint) if there else None


def lens_answers(of: Of, checkpoint: str, lens: FoundLens | None) -> LensAnswers:
    """m by layer through the logit lens and, where they were fitted, the checkpoint's and its root's."""
    return _lens_answers(of, checkpoint, None if lens is None else str(lens.path), lens)


@st.cache_resource(max_entries=64, show_spinner=READING)
def _lens_answers(of: Of, checkpoint: str, path: str | None, _lens: FoundLens | None) -> LensAnswers:
    from workbench.circuits.lens_answers import lens_answers

    lenses = {} if _lens is None else _lens.lenses(of.opened())
    at = store.loaded(of.opened(), checkpoint)
    with at.lock, _threads(of):
        return lens_answers(at.model, pairs(of, "judge"), lenses)


class _Bridge(NamedTuple):
    model: CircuitModel
    lock: threading.Lock


@st.cache_resource(max_entries=3, show_spinner="Opening the checkpoint for its edges")
def _bridge(of: Of, checkpoint: str) -> _Bridge:
    from workbench.circuits.circuit_model import CircuitModel

    return _Bridge(CircuitModel(of.opened().checkpoint(checkpoint).bridge()), threading.Lock())


@st.cache_resource(max_entries=512, show_spinner="Taking the edge out")
def edge(of: Of, checkpoint: str, sender: str, receiver: str) -> OneEdge:
    """What is left without one edge, exactly."""
    from workbench.circuits.one_edge import taken_out

    at = _bridge(of, checkpoint)
    with at.lock, _threads(of):
        return taken_out(at.model, pairs(of), circuit(of, checkpoint), sender, receiver)


def _threads(of: Of):  # type: ignore[no-untyped-def]
    """As many as a model of this size is worth."""
    from workbench.device import few_threads

    return few_threads(of.opened().checkpoint(found(of).checkpoints[0]).d_model)
