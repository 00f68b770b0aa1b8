"""Builds the probe transfer of a comparison: probes for the world's factors, fitted on the activations of each of
its checkpoints, scored on those of every one at the same tokens of other documents.

Only activations that the comparison has stored are read (its site), no model is run. Labelled tokens are those of
`workbench.truth_build.labelled_rows`; the split and the rule for factors are in `workbench.linear_probes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from threadpoolctl import threadpool_limits

from saes.arrays import ActivationArrays
from saes.resampling import Resampled, Resamples, interval, mean_over
from workbench.dictionaries import stored_sources, token_sets
from workbench.grow import Build
from workbench.linear_probes import (
    LEAST_SHARE,
    MOST_SHARE,
    Deal,
    Probe,
    accuracy,
    control_labels,
    deal,
    fit_probe,
    frequent,
    less,
    ranked,
)
from workbench.part_tables import write_part
from workbench.probe_transfer import CONTROL, FACTOR, MEAN, PROBES, TRANSFER
from workbench.truth_build import factor_table, labelled_rows

Measured = dict[tuple[str, ...], dict[str, Resampled]]  # by what is measured: its figures


class Task(NamedTuple):
    """Something to be told of a token: a factor or its control."""

    factor: str
    kind: str
    on: Bool[np.ndarray, " token"]


class Read(NamedTuple):
    """One checkpoint's activations on the tokens of the three sets."""

    fit: Float[np.ndarray, "fit d"]
    choose: Float[np.ndarray, "choose d"]
    score: Float[np.ndarray, "score d"]


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/probe_transfer-<comparison>`."""
    recipe = build.plan.recipe
    comparison = recipe.comparison(build.config["comparison"])
    used = recipe.dictionary(comparison.dictionary)
    token_set = token_sets(build)["heldout"]
    sources = stored_sources(build, used, used.point)
    rows = labelled_rows(token_set)
    table = factor_table(token_set, rows)
    dealt = deal(table.document)
    chosen = frequent(table, dealt)
    ids = np.asarray(token_set.tokens)[rows]
    tasks = [
        task
        for factor in chosen.tolist()
        for task in _tasks(table.names[factor], table.column(factor), ids, factor)
    ]
    names = comparison.checkpoints
    build.progress.start(
        max(1, len(tasks) * len(names)), "probes", label=f"probe transfer of {', '.join(names)}"
    )
    stored = ActivationArrays([source.path / "heldout.npy" for source in sources])
    read = {name: _read(stored, m, rows, dealt) for m, name in enumerate(names)}
    resamples = Resamples.of(table.on(dealt.score))
    with threadpool_limits(1):  # a probe is small: two threads take twice as long as one
        transfer, probes = measure(read, tasks, dealt, resamples, build.progress.advance)
    write_part(build.draft.path, "transfer", transfer)
    write_part(build.draft.path, "probes", probes)
    return {
        "checkpoints": list(names),
        "site": sources[0].figures["site"],
        "factors": [table.names[factor] for factor in chosen],
        "shares": [LEAST_SHARE, MOST_SHARE],
        "tokens": [len(part) for part in dealt],
        "documents": [len(np.unique(table.document[part])) for part in dealt],
    }


def _tasks(name: str, on: Bool[np.ndarray, " token"], ids: np.ndarray, seed: int) -> list[Task]:
    return [Task(name, FACTOR, on), Task(name, CONTROL, control_labels(ids, int(on.sum()), int(seed)))]


def _read(stored: ActivationArrays, model: int, rows: np.ndarray, dealt: Deal) -> Read:
    parts = (stored[rows[part]][:, model].numpy().astype(np.float64) for part in dealt)
    return Read(*parts)


def measure(
    read: Mapping[str, Read],
    tasks: Sequence[Task],
    dealt: Deal,
    resamples: Resamples,
    report: Any = lambda n: None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tables `TRANSFER` and `PROBES`; their last rows are means over factors."""
    scored: Measured = {}
    own: Measured = {}
    penalties: dict[tuple[str, str], float] = {}
    for task in tasks:
        fit, choose, score = (task.on[part] for part in dealt)
        if not all(both.any() and not both.all() for both in (fit, choose, score)):
            continue  # a control whose types are not in all sets
        for name, x in read.items():
            probe = fit_probe(x.fit, fit, x.choose, choose)
            for other, at in read.items():
                scored[name, other, task.factor, task.kind] = ranked(resamples, probe.odds(at.score), score)
            own[name, task.factor, task.kind] = {"accuracy": accuracy(resamples, probe, x.score, score)}
            penalties[name, task.factor] = _penalty(penalties.get((name, task.factor)), probe, task)
            report(1)
    for (_, other, factor, kind), found in scored.items():
        found["loss"] = less(found["auroc"], scored[other, other, factor, kind]["auroc"])
    n = len(dealt.score)
    positives = {(task.factor, task.kind): int(task.on[dealt.score].sum()) for task in tasks}
    return _transfer(scored, positives, n, resamples.n_documents), _probes(own, penalties, n)


def _penalty(known: float | None, probe: Probe, task: Task) -> float:
    """The factor's own, not its control's."""
    return probe.penalty if task.kind == FACTOR or known is None else known


def _with_means(found: Measured, factor: int) -> Iterator[tuple[tuple[str, ...], dict[str, Resampled]]]:
    """The figures, then their means over factors, at place `factor` of the keys."""
    yield from found.items()
    groups: dict[tuple[str, ...], list[dict[str, Resampled]]] = {}
    for key, figures in found.items():
        groups.setdefault((*key[:factor], MEAN, *key[factor + 1 :]), []).append(figures)
    for key, several in groups.items():
        yield key, {name: mean_over([each[name] for each in several]) for name in several[0]}


def _cells(name: str, found: Resampled | None) -> dict[str, float | None]:
    """A figure and its interval, as columns."""
    if found is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    low, high = interval(found.samples)
    return {name: found.value, f"{name}_low": low, f"{name}_high": high}


def _transfer(
    scored: Measured, positives: Mapping[tuple[str, str], int], n: int, documents: int
) -> pl.DataFrame:
    rows = []
    for (fitted, other, factor, kind), figures in _with_means(scored, 2):
        row: dict[str, Any] = {"fitted": fitted, "scored": other, "factor": factor, "task": kind}
        for name in ("auroc", "ap", "loss"):
            row |= _cells(name, figures[name])
        rows.append(row | {"n": n, "positives": positives.get((factor, kind)), "documents": documents})
    return pl.DataFrame(rows, schema=TRANSFER)


def _probes(own: Measured, penalties: Mapping[tuple[str, str], float], n: int) -> pl.DataFrame:
    """Each checkpoint's own probes beside their control tasks; means over the factors that have both."""
    both: Measured = {}
    for (name, factor, kind), figures in own.items():
        control = own.get((name, factor, CONTROL))
        if kind == FACTOR and control is not None:
            told, by_heart = figures["accuracy"], control["accuracy"]
            both[name, factor] = {"accuracy": told, "control": by_heart, "selectivity": less(told, by_heart)}
    rows = []
    for (name, factor), figures in _with_means(both, 1):
        row: dict[str, Any] = {"checkpoint": name, "factor": factor, "penalty": penalties.get((name, factor))}
        for figure, value in figures.items():
            row |= _cells(figure, value)
        rows.append(row | {"n": n})
    return pl.DataFrame(rows, schema=PROBES)
