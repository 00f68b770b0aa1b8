"""What a figure would have been with other documents: tokens of one document are not independent, documents are
taken to be.

A resample draws documents with return and counts each token as often as its document was drawn. AUROC and AP
need only, between one value of a token with the factor and the next, how many tokens of each document lie there:
with those counts a resample is a row of a matrix product. For resamples (not for the figure itself) at most
`EDGES` of those values, evenly spread, are told apart, and the shift this makes is taken off again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saes.candidates import Descending
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

    @cached_property
    def exactly_drawn(self) -> Float[np.ndarray, "resample document"]:
        """`drawn` as float64, once: sums of float64 would turn it into that each time."""
        return self.drawn.astype(np.float64)

    def sums(self, values: Float[np.ndarray, " token"]) -> Float[np.ndarray, " resample"]:
        """Σ of a number a token, in each resample."""
        return self.exactly_drawn @ np.bincount(self.document, values, minlength=self.n_documents)

    def ratio(self, above: Float[np.ndarray, " token"], below: Float[np.ndarray, " token"]) -> Resampled:
        """Σ above / Σ below."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.float64(above.sum()) / np.float64(below.sum())
            return Resampled(float(value), self.sums(above) / self.sums(below))

    def f1(self, unit: Descending, threshold: float, on: Bool[np.ndarray, " token"]) -> Resampled:
        """2 TP / (predicted + P), a token predicted where the unit is at least `threshold`."""
        predicted = np.full(len(on), threshold <= 0)
        predicted[unit.tokens] = unit.values >= threshold
        return self.ratio(2.0 * (predicted & on), predicted.astype(float) + on)

    def ranked(self, unit: Descending, on: Bool[np.ndarray, " token"]) -> dict[str, Resampled]:
        """AUROC (`auroc`) and average precision (`ap`) of a unit for the tokens where the factor is on."""
        here = on[unit.tokens]
        n_above = int(np.searchsorted(-unit.values, 0.0)) if len(here) < len(on) else len(here)
        ends = np.flatnonzero(unit.last) + 1
        group, hits = np.unique(np.searchsorted(ends, np.flatnonzero(here), "right"), return_counts=True)
        starts, ends = np.concatenate([[0], ends])[group], ends[group]
        exact = _exact(starts, ends, hits, len(here) - n_above, len(on) - len(here), int(on.sum()), len(on))
        some = np.unique(np.linspace(0, len(group) - 1, EDGES).round().astype(int)) if len(group) else group
        cuts = np.unique(np.concatenate([starts[some], ends[some], [n_above]])).astype(np.int64)
        counts = self._counts(unit.tokens, here, on, cuts, n_above)
        coarse = _curves(counts.sum(axis=0, dtype=np.float64)[None])
        drawn = (self.drawn @ counts.reshape(self.n_documents, -1)).reshape(-1, *counts.shape[1:])
        found = _curves(drawn.astype(np.float64))
        return {
            name: Resampled(value, found[name] + (value - coarse[name][0])) for name, value in exact.items()
        }

    def _counts(
        self,
        tokens: Int[np.ndarray, " entry"],
        here: Bool[np.ndarray, " entry"],
        on: Bool[np.ndarray, " token"],
        cuts: Int[np.ndarray, " cut"],
        n_above: int,
    ) -> Float[np.ndarray, "document group 2"]:
        """Tokens by document and by group, without and with the factor. Groups lie between the cuts; the tokens
        that the unit is silent on have one of their own, behind the `n_above` entries above zero."""
        silent = int(np.searchsorted(cuts, n_above)) + 1
        group = np.repeat(np.arange(len(cuts) + 1), np.diff(cuts, prepend=0, append=len(tokens)))
        group += group >= silent
        n_groups = len(cuts) + 2
        key = (self.document[tokens] * n_groups + group) * 2 + here
        found = np.bincount(key, minlength=self.n_documents * n_groups * 2)
        found = found.reshape(self.n_documents, n_groups, 2)
        if len(tokens) < len(on):
            by_document = np.bincount(self.document * 2 + on, minlength=self.n_documents * 2)
            found[:, silent] += by_document.reshape(self.n_documents, 2) - found.sum(axis=1)
        return found.astype(np.float32)


def _exact(
    starts: Int[np.ndarray, " group"],
    ends: Int[np.ndarray, " group"],
    hits: Int[np.ndarray, " group"],
    n_below: int,
    n_silent: int,
    n_on: int,
    n: int,
) -> dict[str, float]:
    """AUROC and AP from the groups of equal values that hold tokens with the factor, `starts` to `ends` from the
    top. Silent tokens, `n_silent` with value 0, come before the `n_below` entries below zero."""
    below = starts >= n - n_silent - n_below
    starts, ends = starts + n_silent * below, ends + n_silent * below
    if (missed := n_on - int(hits.sum())) > 0:
        at = int(np.count_nonzero(~below))
        above = n - n_silent - n_below
        starts, ends = np.insert(starts, at, above), np.insert(ends, at, above + n_silent)
        hits = np.insert(hits, at, missed)
    rank_sum = float((hits * (starts + ends + 1) / 2).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc = 1 - np.float64(rank_sum - n_on * (n_on + 1) / 2) / (n_on * (n - n_on))
        return {"auroc": float(auroc), "ap": float((hits * np.cumsum(hits) / ends).sum() / np.float64(n_on))}


def _curves(counts: Float[np.ndarray, "resample group 2"]) -> dict[str, Float[np.ndarray, " resample"]]:
    """AUROC and AP from weighted counts of negatives and positives by group, highest values first."""
    negative, positive = counts[:, :, 0], counts[:, :, 1]
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
