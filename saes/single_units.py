"""The best unit of a pool for each factor: chosen on the first half of the documents, measured on the second.

For each metric the unit that does best by that metric on the first half; for F1 its threshold too is the best
one there. A k-sparse probe takes the k units that correlate most with the factor on the first half instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saes.candidates import Descending, Entries, SignedUnits, Units
from saes.factors import FactorTable, Halves
from saes.matching import match
from saes.ranking import Scores, score_units
from saes.resampling import Resampled, Resamples, mean_over
from saes.sparse_probes import fit_probe

METRICS = ("auroc", "ap", "f1")
PROBES = (1, 5)


class Found(NamedTuple):
    """One pool's answer to one factor by one metric. `method` is `unit` or `probe_k`; `unit` the first unit;
    `threshold` NaN where the metric has none."""

    factor: int
    method: str
    metric: str
    unit: int
    threshold: float
    measured: Resampled


@dataclass(frozen=True)
class HalvedPool:
    """A pool's units on both halves, and what each would score on the first."""

    name: str
    first: Units
    second: Units
    scores: Scores
    correlations: Float[np.ndarray, "unit factor"]

    @classmethod
    def of(cls, name: str, units: Units, halves: Halves) -> HalvedPool:
        first, second = units.on(halves.first_rows), units.on(halves.second_rows)
        labels = halves.first.labels
        return cls(name, first, second, score_units(first, labels), first.correlations(labels))

    @property
    def able(self) -> Bool[np.ndarray, " unit"]:
        """Units that may be chosen: those that say anything on the first half."""
        return self.first.varies()

    def best(self, metric: str, among: Int[np.ndarray, " chosen"]) -> Int[np.ndarray, " factor"]:
        """The unit that does best for each factor on the first half."""
        return among[np.argmax(getattr(self.scores, metric)[among], axis=0)]


def best_threshold(unit: Descending, on: Bool[np.ndarray, " token"]) -> float:
    """The value from which on the unit should count as on, for the largest F1; of equal ones the highest.

    0 for a latent says that every token should.
    """
    silent = len(unit.tokens) < len(on)
    able = unit.last & (unit.values > 0) if silent else unit.last
    positives = np.count_nonzero(on)
    hits = np.cumsum(on[unit.tokens])[able]
    f1 = 2 * hits / (np.flatnonzero(able) + 1 + positives)
    if not len(f1) or (silent and f1.max() < 2 * positives / (len(on) + positives)):
        return 0.0
    return float(unit.values[able][np.argmax(f1)])


def best_units(
    pool: HalvedPool, halves: Halves, among: Int[np.ndarray, " chosen"], resamples: Resamples
) -> Iterator[Found]:
    """The best single unit for each factor by each metric; unit by unit, so that each is sorted once."""
    by_metric = {metric: pool.best(metric, among) for metric in METRICS}
    wanted: dict[int, dict[int, list[str]]] = {}
    for metric, units in by_metric.items():
        for factor, unit in enumerate(units):
            wanted.setdefault(int(unit), {}).setdefault(factor, []).append(metric)
    for unit, factors in wanted.items():
        second = Descending.of(pool.second.entries(unit))
        first: Descending | None = None  # only a threshold is chosen on it
        for factor, metrics in factors.items():
            on = halves.second.column(factor)
            ranked = resamples.ranked(second, on) if metrics != ["f1"] else {}
            for metric in metrics:
                if metric != "f1":
                    yield Found(factor, "unit", metric, unit, float("nan"), ranked[metric])
                    continue
                if first is None:
                    first = Descending.of(pool.first.entries(unit))
                threshold = best_threshold(first, halves.first.column(factor))
                yield Found(factor, "unit", metric, unit, threshold, resamples.f1(second, threshold, on))


def best_probes(
    pool: HalvedPool, halves: Halves, among: Int[np.ndarray, " chosen"], resamples: Resamples, k: int
) -> Iterator[Found]:
    """A probe of the k units that correlate most with each factor, by each metric."""
    for factor in range(halves.first.n_factors):
        order = np.argsort(-pool.correlations[among, factor], kind="stable")
        chosen = among[order[:k]]
        on_first, on_second = (half.column(factor) for half in (halves.first, halves.second))
        first, second = (Descending.of(e) for e in _told(pool, chosen, on_first, seed=factor))
        found = resamples.ranked(second, on_second)
        threshold = best_threshold(first, on_first)
        found["f1"] = resamples.f1(second, threshold, on_second)
        for metric in METRICS:
            given = threshold if metric == "f1" else float("nan")
            yield Found(factor, f"probe_{k}", metric, int(chosen[0]), given, found[metric])


def _told(
    pool: HalvedPool, chosen: Int[np.ndarray, " k"], on: Bool[np.ndarray, " token"], seed: int
) -> list[Entries]:
    """What the probe says of the tokens of both halves. One unit that correlates needs no fit: its order stays."""
    halves = (pool.first, pool.second)
    if len(chosen) == 1:
        return [units.entries(int(chosen[0])) for units in halves]
    probe = fit_probe(pool.first, chosen, on, seed)
    return [probe.entries(units) for units in halves]


def matched_correlation(
    pool: HalvedPool, halves: Halves, among: Int[np.ndarray, " chosen"], resamples: Resamples
) -> tuple[list[tuple[int, int]], Resampled]:
    """MCC: (unit, factor) pairs matched one to one on the first half, mean |correlation| on the second."""
    found = pool.correlations[among]
    rows, factors = match(found if isinstance(pool.first, SignedUnits) else np.abs(found))
    pairs = [(int(among[r]), int(f)) for r, f in zip(rows, factors, strict=True)]
    measured = [_correlation(pool.second.entries(u), halves.second, f, resamples) for u, f in pairs]
    return pairs, mean_over(measured)


def _correlation(entries: Entries, table: FactorTable, factor: int, resamples: Resamples) -> Resampled:
    """|Pearson's correlation| from sums by document."""
    n_documents, document = resamples.n_documents, resamples.document
    tokens, values = entries.tokens, entries.values.astype(np.float64)
    on = table.column(factor)
    sums = np.stack(
        [
            np.bincount(document, minlength=n_documents).astype(float),
            np.bincount(document[tokens], values, minlength=n_documents),
            np.bincount(document[tokens], values**2, minlength=n_documents),
            np.bincount(document, on, minlength=n_documents),
            np.bincount(document[tokens], values * on[tokens], minlength=n_documents),
        ],
        axis=1,
    )

    def pearson(n: np.ndarray, v: np.ndarray, vv: np.ndarray, y: np.ndarray, vy: np.ndarray) -> np.ndarray:
        spread = (vv - v * v / n) * (y - y * y / n)
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.abs(vy - v * y / n) / np.sqrt(np.maximum(spread, 1e-300))
            return np.where(spread > 1e-12, size, 0.0)

    drawn = resamples.exactly_drawn @ sums
    return Resampled(float(pearson(*sums.sum(axis=0)[:, None])[0]), pearson(*drawn.T))
