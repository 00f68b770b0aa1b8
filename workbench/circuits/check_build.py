"""Builds `circuit/check-<circuit>`: every edge patched for itself in each checkpoint that does the task.

`scores.parquet`, a row a checkpoint and edge: its effect with the interval over the pairs that found the circuit,
beside what EAP-IG and EAP estimate from the same pairs. `agreement.parquet`: how nearly those are the effects
(`workbench.circuits.agreement`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from workbench.circuit_config import EXACT
from workbench.circuits.agreement import ByEdge, agreement
from workbench.circuits.attribution import EdgeScores, edge_scores
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.edge_patching import exact_scores, refuse_many
from workbench.circuits.found_circuits import FoundCircuits
from workbench.circuits.graph import Graph
from workbench.circuits.pairs import Pairs
from workbench.device import best_device, few_threads
from workbench.grow import Build
from workbench.halfway import arrays_once
from workbench.intervals import ratio_intervals
from workbench.part_tables import write_part

SCORES: Mapping[str, Any] = {
    "checkpoint": pl.String, "sender": pl.String, "receiver": pl.String, "exact": pl.Float64, "low": pl.Float64,
    "high": pl.Float64, "eap_ig": pl.Float64, "eap": pl.Float64,
}  # fmt: skip
AGREEMENT: Mapping[str, Any] = {
    "checkpoint": pl.String, "method": pl.String, "measure": pl.String, "value": pl.Float64, "low": pl.Float64,
    "high": pl.Float64, "n_edges": pl.Int64, "n_pairs": pl.Int64,
}  # fmt: skip


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `circuit/check-<circuit>`."""
    found = FoundCircuits.of(build.lab, build.config["circuit"])
    refuse_many(found.graph)
    pairs = found.pairs(build.lab)
    scores: list[tuple[Any, ...]] = []
    agreed: list[tuple[Any, ...]] = []
    with few_threads(build.lab.checkpoint(found.checkpoints[0]).d_model):
        build.progress.start(len(found.able) * len(pairs) * found.graph.n_edges, "prompts")
        for name in found.able:
            model = CircuitModel(build.lab.checkpoint(name).bridge(best_device()))
            exact = _exact(build, name, model, pairs)
            estimates = [edge_scores(model, pairs, n) for n in (found.config["n_steps"], 1)]
            scores += _scores(name, model.graph, exact, estimates)
            agreed += _agreed(name, model.graph, exact, estimates)
    write_part(build.draft.path, "scores", pl.DataFrame(scores, schema=dict(SCORES), orient="row"))
    write_part(build.draft.path, "agreement", pl.DataFrame(agreed, schema=dict(AGREEMENT), orient="row"))
    return {
        "circuit": found.name,
        "checkpoints": found.able,
        "n_edges": found.graph.n_edges,
        "n_pairs": len(pairs),
    }


def _exact(build: Build, name: str, model: CircuitModel, pairs: Pairs) -> EdgeScores:
    """Every edge's effect; what was patched before an interruption is not patched again."""
    kept = build.draft.path / "resume" / f"{name}.npz"
    if kept.exists():
        build.progress.skip(len(pairs) * model.graph.n_edges)
    held = arrays_once(
        kept, lambda: {"by_pair": exact_scores(model, pairs, done=build.progress.advance).by_pair}
    )
    return EdgeScores(model.graph, EXACT, held["by_pair"])


def _by_edge(graph: Graph, scores: EdgeScores) -> ByEdge:
    return scores.by_pair[:, graph.edges]


def _scores(
    name: str, graph: Graph, exact: EdgeScores, estimates: list[EdgeScores]
) -> Iterator[tuple[Any, ...]]:
    by_pair = _by_edge(graph, exact)
    ends = ratio_intervals(by_pair, np.ones(len(by_pair)))
    means = (each.mean[graph.edges] for each in (exact, *estimates))
    rows = zip(np.argwhere(graph.edges), ends, *means, strict=True)
    for (s, r), (low, high), effect, *estimated in rows:
        figures = (float(each) for each in (effect, low, high, *estimated))
        yield name, graph.senders[s], graph.receivers[r].name, *figures


def _agreed(
    name: str, graph: Graph, exact: EdgeScores, estimates: list[EdgeScores]
) -> Iterator[tuple[Any, ...]]:
    truth = _by_edge(graph, exact)
    for each in estimates:
        for measure, figure in agreement(_by_edge(graph, each), truth).items():
            yield name, each.method, measure, *figure, truth.shape[1], len(truth)
