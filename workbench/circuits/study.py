"""One task in several checkpoints: the circuit of each, what it is worth at home and in the others, its controls.

A circuit is found on `search` pairs and judged on `judge` pairs, which ask about other things (lines of a file of
one's own take turns). How large it is is
decided on the search pairs too: the smallest step of the ladder from which f stays within 0.1 of 1, half of what is
allowed on the judge pairs, where it is lower. Where no step is, that of a fifth of the edges stands in its place,
and the judged f says that it is not faithful. Of finders (`finders`) ACDC alone says itself which edges stay.
The other task's circuit, a control, is always chosen from EAP-IG's scores. What takes time is kept in a file where
one is named (`halfway`), and read from there the next time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from workbench.circuits.attribution import EdgeScores, edge_scores
from workbench.circuits.circuit import GREEDY, HELPING, TOP, Circuit, chosen, sized, smallest_faithful
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.faithfulness import (
    SHARES,
    ByPair,
    Circuits,
    Ends,
    Measured,
    circuit_scores,
    ends,
    faithfulness,
    ladder,
)
from workbench.circuits.finders import Finder
from workbench.circuits.graph import Edges
from workbench.circuits.pairs import Pairs
from workbench.circuits.random_circuits import RandomCircuit, random_circuit
from workbench.errors import Failure
from workbench.halfway import arrays_once

# MIB's shares and some between
LADDER = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.85, 1.0)
WITHIN_SEARCHED = 0.1
UNFAITHFUL_SHARE = 0.2
N_RANDOM = 20
ORDERS = (TOP, HELPING, GREEDY)
EAP_IG = Finder()


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found in one checkpoint: scores on the task and on another one, and the circuits of both."""

    scores: EdgeScores
    circuit: Circuit
    faithful: bool  # on the search pairs
    other: Edges | None  # the other task's circuit, of as many edges


@dataclasses.dataclass(frozen=True)
class Judged:
    """What circuits do in one checkpoint, on the judge pairs: m by pair."""

    between: Ends
    steps: Mapping[str, ByPair]  # by order, a circuit a share of the `LADDER`
    sizes: Mapping[str, list[int]]
    own: Float[np.ndarray, "pair"]
    moved: Mapping[str, Float[np.ndarray, "pair"]]  # circuits of the other checkpoints
    random: list[RandomCircuit]
    random_m: Float[np.ndarray, "draw pair"]
    other_m: Float[np.ndarray, "pair"] | None

    def measured(self, m: Float[np.ndarray, "pair"]) -> Measured:
        return faithfulness(m, self.between)

    def curve(self, how: str) -> list[Measured]:
        """f at every step of the ladder."""
        return [self.measured(m) for m in self.steps[how]]

    def at_shares(self, how: str) -> list[float]:
        """f at MIB's shares alone."""
        return [found.f for share, found in zip(LADDER, self.curve(how), strict=True) if share in SHARES]


def find(
    model: CircuitModel,
    checkpoint: str,
    search: Pairs,
    other: Pairs | None = None,
    finder: Finder = EAP_IG,
    done: Callable[[int], None] = lambda n: None,
    kept: Path | None = None,
    does_it: bool = True,
) -> Found:
    """The circuit of one checkpoint; of one that does not do the task (`does_it`) it may have no edge."""
    held = arrays_once(kept, lambda: _looked_for(model, search, other, finder, done))
    if does_it and not held["edges"].any():
        raise Failure(
            f"{held['method']} takes every edge of {checkpoint} out on task {search.task!r}: ask again with a "
            "lower --tau, or leave --finder out"
        )
    scores = EdgeScores(model.graph, str(held["method"]), held["by_pair"])
    circuit = Circuit(model.graph, search.task, checkpoint, held["edges"], scores.mean)
    return Found(scores, circuit, bool(held["faithful"]), held.get("other"))


def _looked_for(
    model: CircuitModel,
    search: Pairs,
    other: Pairs | None,
    finder: Finder,
    done: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """What `Found` is made of."""
    scores, edges = finder.look(model, search, done)
    if edges is None:
        edges, faithful = _smallest(model, search, scores, done)
    else:
        m = circuit_scores(model, search, edges[None], done=done)[0]
        faithful = abs(1 - faithfulness(m, ends(model, search)).f) <= WITHIN_SEARCHED
    found = {
        "method": np.array(scores.method),
        "by_pair": scores.by_pair,
        "edges": edges,
        "faithful": np.array(faithful),
    }
    if other is not None:
        theirs = edge_scores(model, other, finder.n_steps, done=done).mean
        found["other"] = sized(model.graph, theirs, int(edges.sum()))
    return found


def _smallest(
    model: CircuitModel, search: Pairs, scores: EdgeScores, done: Callable[[int], None]
) -> tuple[Edges, bool]:
    """The circuit that scores choose, and whether it is faithful on the search pairs."""
    steps, between = ladder(model.graph, scores.mean, GREEDY, LADDER), ends(model, search)
    f = [faithfulness(m, between).f for m in circuit_scores(model, search, steps, done=done)]
    share = smallest_faithful(list(LADDER), f, WITHIN_SEARCHED)
    # the whole graph is faithful by definition
    size = round((UNFAITHFUL_SHARE if share in (None, 1.0) else share or 0.0) * model.graph.n_edges)
    return chosen(model.graph, scores.mean, max(1, size), GREEDY), share not in (None, 1.0)


def judge(
    model: CircuitModel,
    checkpoint: str,
    found: Mapping[str, Found],
    pairs: Pairs,
    n_random: int = N_RANDOM,
    seed: int = 0,
    done: Callable[[int], None] = lambda n: None,
    kept: Path | None = None,
) -> Judged:
    """What the circuits of all checkpoints do in this one, and its controls; one batch of runs."""
    home, rng = found[checkpoint], np.random.default_rng(seed)
    steps = {how: ladder(model.graph, home.scores.mean, how, LADDER) for how in ORDERS}
    random = [random_circuit(model.graph, home.circuit.edges, rng) for _ in range(n_random)]
    rows: list[Circuits] = [*steps.values(), home.circuit.edges[None]]
    rows += [each.circuit.edges[None] for name, each in found.items() if name != checkpoint]
    rows += [each.edges[None] for each in random]
    rows += [home.other[None]] if home.other is not None else []

    def run() -> dict[str, np.ndarray]:
        return {
            "m": circuit_scores(model, pairs, np.concatenate(rows), done=done),
            **ends(model, pairs)._asdict(),
        }

    held = arrays_once(kept, run)
    m = iter(held["m"])
    return Judged(
        Ends(held["full"], held["none"]),
        {how: np.stack([next(m) for _ in LADDER]) for how in steps},
        {how: [int(edges.sum()) for edges in each] for how, each in steps.items()},
        own=next(m),
        moved={name: next(m) for name in found if name != checkpoint},
        random=random,
        random_m=np.stack([next(m) for _ in random]),
        other_m=next(m, None),
    )
