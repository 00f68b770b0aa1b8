"""Builds `circuit/history-<circuit>`: a circuit along every snapshot of the checkpoints' lineage, on one step axis.

`history.parquet`, a row a moment and figure: how well the task is done there (`told_apart`, `gap`); where it is
done, f of the last checkpoint's circuit (`last here`) and of the moment's own of as many edges (`own`), both
on the judge pairs; and what the own one has in common with the last checkpoint's (`edges`, `nodes`, `weights`).
`heads.parquet` and `copying.parquet`: previous-token, duplicate-token and induction heads on repeated ids
(`workbench.circuits.phase_change`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from workbench.checkpoint import Checkpoint
from workbench.circuits.attribution import edge_scores
from workbench.circuits.circuit import Circuit, Scores, sized
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.competence import competence
from workbench.circuits.faithfulness import circuit_scores, ends, faithfulness
from workbench.circuits.found_circuits import FoundCircuits
from workbench.circuits.overlap import Overlap, overlap
from workbench.circuits.own_tasks import the_task
from workbench.circuits.pairs import Pairs
from workbench.circuits.phase_change import history
from workbench.circuits.tasks import task_pairs
from workbench.device import best_device, few_threads
from workbench.grow import Build
from workbench.halfway import rows_once
from workbench.parents import lineage
from workbench.part_tables import write_part
from workbench.recipe import stage_of
from workbench.step_axis import Moment, moments, stages_of

N_PAIRS = 32  # of each use: there are many moments
SCHEMA = {
    "stage": pl.String, "step": pl.Int64, "axis": pl.Int64, "place": pl.Float64, "figure": pl.String,
    "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64,
}  # fmt: skip


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `circuit/history-<circuit>`."""
    found = FoundCircuits.of(build.lab, build.config["circuit"])
    line = lineage([stage_of(name) for name in found.checkpoints], build.plan.parent_checkpoint)
    axis = moments(stages_of(build.lab, build.plan, line))
    with few_threads(build.lab.checkpoint(found.checkpoints[0]).d_model):
        build.progress.start(2 * len(axis), "models")
        rows = list(_rows(build, found, axis))
        heads = history(build.lab, line, device=best_device(), report=lambda moment: build.progress.advance())
    write_part(build.draft.path, "history", pl.DataFrame(rows, schema=SCHEMA, orient="row"))
    write_part(build.draft.path, "heads", heads.head_table())
    write_part(build.draft.path, "copying", heads.loss_table())
    return {"circuit": found.name, "line": list(line), "moments": len(axis), "sentences": heads.sentences()}


def _rows(build: Build, found: FoundCircuits, axis: list[Moment]) -> Iterator[tuple[Any, ...]]:
    config, last = found.config, found.circuit(found.checkpoints[-1])
    task = the_task(config)
    search, judge = (
        task_pairs(build.lab, task, N_PAIRS, use, config["seed"], checkpoint=found.checkpoints[0])
        for use in ("search", "judge")
    )

    def at(checkpoint: Checkpoint) -> list[tuple[Any, ...]]:
        loaded = checkpoint.model(best_device())
        does = competence(loaded, judge)
        rows: list[tuple[Any, ...]] = [("told_apart", *does.told_apart, does.n), ("gap", *does.gap, does.n)]
        if does.does_it:
            model = CircuitModel(checkpoint.bridge(best_device(), loaded))
            scores = edge_scores(model, search, config["n_steps"]).mean
            rows += _beside(model, last, scores, judge, len(search))
        return rows

    for moment in axis:
        kept = build.draft.path / "resume" / f"{moment.address}.json"
        report = build.progress.skip if kept.exists() else build.progress.advance
        here = rows_once(kept, functools.partial(at, Checkpoint.of(build.lab, moment.address)))
        yield from ((*moment[:4], *row) for row in here)
        report(1)


def _beside(
    model: CircuitModel, last: Circuit, scores: Scores, judge: Pairs, n_search: int
) -> Iterator[tuple[Any, ...]]:
    own = sized(model.graph, scores, last.n_edges)
    m, between = circuit_scores(model, judge, np.stack([last.edges, own])), ends(model, judge)
    for name, each in zip(("last here", "own"), m, strict=True):
        yield name, *faithfulness(each, between), len(judge)
    shared = overlap(model.graph, scores, last.scores, last.n_edges)
    yield from ((measure, getattr(shared, measure), None, None, n_search) for measure in Overlap._fields)
