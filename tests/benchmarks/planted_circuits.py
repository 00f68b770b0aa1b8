"""Circuits whose truth is known, and who finds them: precision and recall, edge by edge.

    python -m tests.benchmarks.planted_circuits [--json] [--quick]

Hand-set (`hand_set`): an induction pair and a lookup head among random heads and MLPs, several seeds of places and
noise, with several kinds of pairs: a circuit is of a model *and* of what its pairs differ in. Found are

    the n edges of largest |score|, n the number of true ones: EAP, EAP-IG 5, EAP-IG 20, exact patching
    as many of EAP-IG 5 greedily from the logits down
    ACDC, and the workbench's own choice (`study.find`), which do not know n (of 262 edges the first steps of the
    latter's ladder are 3 and 5, near the true sizes: that flatters its precision)
    nulls: greedy on shuffled scores, and random circuits with the degrees of the true one

`f` is of the circuit found, on other pairs; the row "truth" has that of the true edges themselves, without which
they would be no truth. Shares have Wilson intervals over the edges of all seeds, whose edges are no independent
draws within a seed; `whole` counts seeds in which every true edge is found.

Trained (`modular_sums`): a one-layer model that adds modulo p, against what is known of it [Nanda 2023].
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tests.benchmarks import modular_sums, report
from tests.benchmarks.hand_set import PLANTED, Planted, opened, shuffled_circuit
from workbench.circuits.acdc import take_out
from workbench.circuits.attribution import edge_scores
from workbench.circuits.circuit import GREEDY, TOP, chosen
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.competence import competence
from workbench.circuits.edge_patching import exact_scores
from workbench.circuits.faithfulness import circuit_scores, ends, faithfulness
from workbench.circuits.graph import Edges
from workbench.circuits.pairs import Pairs
from workbench.circuits.random_circuits import random_circuit
from workbench.circuits.study import find
from workbench.intervals import wilson

SEEDS = 8
NOISES = (0.05, 0.08)  # at 0.1 the models begin to fail at their task
N_SEARCH, N_JUDGE, N_NULL = 16, 32, 5


class Outcome(NamedTuple):
    """One circuit beside the true edges."""

    hits: int
    found: int
    true: int
    f: float


def by_finder(model: CircuitModel, search: Pairs, true: Edges, seed: int) -> dict[str, list[Edges]]:
    """The circuits of every finder; of the nulls, several."""
    graph, n, rng = model.graph, int(true.sum()), np.random.default_rng(seed)
    scores = {
        f"EAP-IG {steps}" if steps > 1 else "EAP": edge_scores(model, search, steps) for steps in (1, 5, 20)
    }
    scores["exact"] = exact_scores(model, search)
    found = {name: [chosen(graph, each.mean, n, TOP)] for name, each in scores.items()}
    by_ig = scores["EAP-IG 5"].mean
    found["EAP-IG 5, greedy"] = [chosen(graph, by_ig, n, GREEDY)]
    found["ACDC"] = [take_out(model, search).edges]
    found["study"] = [find(model, "planted", search).circuit.edges]
    found["shuffled scores"] = [shuffled_circuit(graph, by_ig, n, rng) for _ in range(N_NULL)]
    found["random circuit"] = [random_circuit(graph, true, rng).edges for _ in range(N_NULL)]
    return found | {"truth": [true]}


def outcomes(model: CircuitModel, planted: Planted, kind: str, seed: int) -> dict[str, list[Outcome]]:
    """What every finder finds in one model, by one kind of pairs."""
    true = planted.true(kind, model.graph)
    circuits = by_finder(model, planted.pairs(kind, N_SEARCH), true, seed)
    judge = planted.pairs(kind, N_JUDGE, seed=1)
    every = np.stack([edges for found in circuits.values() for edges in found])
    m, between = iter(circuit_scores(model, judge, every)), ends(model, judge)
    return {
        finder: [
            Outcome(int((e & true).sum()), int(e.sum()), int(true.sum()), faithfulness(next(m), between).f)
            for e in found
        ]
        for finder, found in circuits.items()
    }


def share(hits: int, n: int) -> dict[str, Any]:
    """A share with its Wilson interval; of nothing there is none."""
    low, high = wilson(hits, n) if n else (None, None)
    return {"share": hits / n if n else None, "low": low, "high": high, "n": n}


def hand_set_rows(quick: bool) -> Iterator[dict[str, Any]]:
    """A row a noise, model, kind of pairs and finder."""
    for noise in NOISES[:1] if quick else NOISES:
        for name, make in PLANTED.items():
            seeds = range(2 if quick else SEEDS)
            models = [make(seed, noise) for seed in seeds]
            circuit_models = [opened(planted.model) for planted in models]
            for kind in models[0].edges:
                done = [competence(each.model, each.pairs(kind, N_JUDGE, seed=1)) for each in models]
                told = {
                    "model": name, "noise": noise, "pairs": kind, "n_seeds": len(models),
                    "n_edges": circuit_models[0].graph.n_edges,
                    "told_apart": min(each.told_apart.value for each in done),
                    "top1": float(np.mean([each.top1.value for each in done])),
                }  # fmt: skip
                by_seed = [
                    outcomes(model, planted, kind, seed)
                    for seed, model, planted in zip(seeds, circuit_models, models, strict=True)
                ]
                for finder in by_seed[0]:
                    yield told | summed([each for found in by_seed for each in found[finder]], finder)


def summed(found: list[Outcome], finder: str) -> dict[str, Any]:
    """Precision and recall over the edges of all seeds."""
    hits, n_found, n_true = (sum(each[i] for each in found) for i in range(3))
    return {
        "finder": finder,
        "true": found[0].true,
        "found": n_found / len(found),
        "precision": share(hits, n_found),
        "recall": share(hits, n_true),
        "whole": share(sum(each.hits == each.true for each in found), len(found)),
        "f": {"mean": float(np.mean([e.f for e in found])), "least": min(e.f for e in found)},
    }


def main() -> None:
    switches = report.parse("Circuits that are known by construction, and who finds them.")
    found = []
    for rows in (hand_set_rows(switches.quick), modular_sums.rows(switches.quick)):
        for row in rows:
            report.say(str(row))
            found.append(row)
    report.write_rows("planted_circuits", found, switches.json)


if __name__ == "__main__":
    sys.exit(main())
