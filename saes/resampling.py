"""What a figure would have been with other documents: tokens of one document are not independent, documents are
taken to be.

A resample draws documents with return and counts each token as often as its document was drawn. AUROC and AP
need only, between one positive value and the next, how many tokens of each document lie there: with those
counts a resample is a row of a matrix product. For resamples (not for the figure itself) at most `EDGES`
positive values, evenly spread, are told apart, and the shift this makes is taken off again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saes.candidates import Entries
from saes.factors import FactorTable

RESAMPLES = 400
EDGES = 32


class Resampled(NamedTuple):
    """A figure, and what it would have been in each resample (NaN where that has no token with the factor)."""

    value: float
    samples: Float[np.ndarray, " resample"]


class Interval(NamedTuple):
    """The 2.5 % and 97.5 % quantiles."""

    low: float
    high: float


def interval(samples: Float[np.ndarray, " resample"]) -> Interval:
    """95 % interval from resamples; NaN where none has a figure."""
    known = samples[~np.isnan(samples)]
    if not len(known):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(known, (0.025, 0.975))
    return Interval(float(low), float(high))


def mean_over(measured: Sequence[Resampled]) -> Resampled:
    """The mean of several figures; a resample's is over those that it has."""
    samples = np.stack([m.samples for m in measured])
    known = ~np.isnan(samples)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, samples, 0.0).sum(axis=0) / known.sum(axis=0)
    return Resampled(float(np.mean([m.value for m in measured])), mean)


@dataclass(frozen=True)
class Resamples:
    """How often each document was drawn; the same draws serve every figure, so that they can be subtracted."""

    drawn: Float[np.ndarray, "resample document"]
    document: Int[np.ndarray, " token"]  # numbered from 0 without gaps

    @classmethod
    def of(cls, table: FactorTable, seed: int = 0, n: int = RESAMPLES) -> Resamples:
        """Resamples of the documents of `table`."""
        names, document = np.unique(table.document, return_inverse=True)
        even = np.full(len(names), 1 / len(names))
        drawn = np.random.default_rng(seed).multinomial(len(names), even, size=n)
        return cls(drawn.astype(np.float32), document)

    @property
    def n_documents(self) -> int:
        return self.drawn.shape[1]

    def sums(self, values: Float[np.ndarray, " token"]) -> Float[np.ndarray, " resample"]:
        """Σ of a number a token, in each resample."""
        return self.drawn @ np.bincount(self.document, values, minlength=self.n_documents)

    def ratio(self, above: Float[np.ndarray, " token"], below: Float[np.ndarray, " token"]) -> Resampled:
        """Σ above / Σ below."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.float64(above.sum()) / np.float64(below.sum())
            return Resampled(float(value), self.sums(above) / self.sums(below))

    def f1(self, entries: Entries, threshold: float, on: Bool[np.ndarray, " token"]) -> Resampled:
        """2 TP / (predicted + P), a token predicted where the unit is at least `threshold`."""
        predicted = np.full(len(on), threshold <= 0)
        predicted[entries.tokens] = entries.values >= threshold
        return self.ratio(2.0 * (predicted & on), predicted.astype(float) + on)

    def ranked(self, entries: Entries, on: Bool[np.ndarray, " token"]) -> dict[str, Resampled]:
        """AUROC (`auroc`) and average precision (`ap`) of a unit for the tokens where the factor is on."""
        values = entries.values[on[entries.tokens]]
        if np.count_nonzero(on) > len(values):
            values = np.append(values, np.float32(0))
        edges = np.unique(values)
        exact = _exact(entries, on)
        some = edges[np.unique(np.linspace(0, len(edges) - 1, EDGES).round().astype(int))]
        counts = self._counts(entries, on, some)
        coarse = _curves(counts.sum(axis=0, dtype=np.float64)[None])
        drawn = (self.drawn @ counts.reshape(self.n_documents, -1)).reshape(-1, *counts.shape[1:])
        found = _curves(drawn.astype(np.float64))
        return {
            name: Resampled(value, found[name] + (value - coarse[name][0])) for name, value in exact.items()
        }

    def _counts(
        self, entries: Entries, on: Bool[np.ndarray, " token"], edges: Float[np.ndarray, " edge"]
    ) -> Float[np.ndarray, "document group 2"]:
        """Tokens by document, by where their value lies (below, at, between, … the edges), without and with the
        factor."""
        n_groups = 2 * len(edges) + 1
        shape = (self.n_documents, n_groups, 2)

        def key(tokens: np.ndarray, group: np.ndarray | int) -> np.ndarray:
            return (self.document[tokens] * n_groups + group) * 2 + on[tokens]

        def group_of(values: np.ndarray) -> np.ndarray:
            left = np.searchsorted(edges, values)
            return 2 * left + (edges[np.minimum(left, len(edges) - 1)] == values)

        size = shape[0] * shape[1] * shape[2]
        found = np.bincount(key(entries.tokens, group_of(entries.values)), minlength=size)
        if len(entries.tokens) < len(on):
            silent = np.ones(len(on), bool)
            silent[entries.tokens] = False
            zero = int(group_of(np.zeros(1, np.float32))[0])
            found += np.bincount(key(np.flatnonzero(silent), zero), minlength=size)
        return found.reshape(shape).astype(np.float32)


def _exact(entries: Entries, on: Bool[np.ndarray, " token"]) -> dict[str, float]:
    """AUROC and AP of a unit, every value told apart."""
    order = np.argsort(-entries.values)
    values = entries.values[order]
    hits = np.cumsum(on[entries.tokens][order])
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True)[: len(values)])
    counts = np.stack([ends + 1 - hits[ends], hits[ends]], axis=1)
    groups = np.diff(counts, axis=0, prepend=0)
    if len(values) < len(on):
        n_on = np.count_nonzero(on) - (hits[-1] if len(hits) else 0)
        silent = [[len(on) - len(values) - n_on, n_on]]
        at = np.searchsorted(-values[ends], 0.0)
        groups = np.insert(groups, at, silent, axis=0)
    return {name: float(found[0]) for name, found in _curves(groups[::-1][None].astype(np.float64)).items()}


def _curves(counts: Float[np.ndarray, "resample group 2"]) -> dict[str, Float[np.ndarray, " resample"]]:
    """AUROC and AP from weighted counts of negatives and positives by group, lowest values first."""
    negative, positive = counts[:, ::-1, 0], counts[:, ::-1, 1]  # highest first
    hits = positive.cumsum(axis=1)
    false = negative.cumsum(axis=1)
    n_positive, n_negative = hits[:, -1], false[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        beaten = (positive * (n_negative[:, None] - false + negative / 2)).sum(axis=1)
        precision = np.where(positive > 0, hits / (hits + false), 0.0)
        return {
            "auroc": beaten / (n_positive * n_negative),
            "ap": (positive * precision).sum(axis=1) / n_positive,
        }
