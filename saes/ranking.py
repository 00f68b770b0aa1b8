"""How well every unit of a pool follows every factor: AUROC, average precision and F1 from sorted entries.

    AUROC = P(f(x) > f(y)) + P(f(x) = f(y)) / 2,  x a token with the factor, y one without
    AP    = Σ_θ (R_θ − R_θ') P_θ over the thresholds, θ' the next higher one    (as scikit-learn has it)
    F1    = max_θ 2 TP / (TP + FP + P)

A unit's tokens are ranked from the top; equal values share a threshold and their mean rank. A latent is zero
nearly everywhere, so only its entries are sorted and the silent tokens are one group at the end. With the ranks
of a factor's tokens in ascending order the i-th of them has precision i / rank: that is all there is to it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix

from saes.candidates import SignedUnits, SparseUnits, Units
from saes.index import FeatureIndex

MOST_EQUAL = 1_000  # tokens of one factor and one value, in a direction, that are worth a loop
SPARSE_SHARE = 0.25  # a unit with entries on more of the tokens is ranked over all of them


class Scores(NamedTuple):
    """What each unit would score for each factor with its best threshold; NaN where the factor is never on or
    never off."""

    auroc: Float[np.ndarray, "unit factor"]
    ap: Float[np.ndarray, "unit factor"]
    f1: Float[np.ndarray, "unit factor"]


class Ranks(NamedTuple):
    """Of each entry, from the top: how many tokens are at least as high, and its mean rank."""

    reach: Int[np.ndarray, " entry"]
    mean: Float[np.ndarray, " entry"]


def ranks(values: Float[np.ndarray, " entry"]) -> Ranks:
    """Ranks of the values among themselves, the highest first; equal ones share theirs."""
    n = len(values)
    order = np.argsort(-values)
    ordered = values[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1 if n else np.zeros(0, np.int64)
    sizes = np.diff(ends, prepend=0)
    reach, mean = np.empty(n, np.int64), np.empty(n)
    reach[order] = np.repeat(ends, sizes)
    mean[order] = np.repeat(ends - (sizes - 1) / 2, sizes)
    return Ranks(reach, mean)


def score_units(units: Units, labels: csr_matrix) -> Scores:
    """Every unit against every factor of `labels` [token factor], over the units' tokens."""
    n, n_factors = labels.shape
    table = _Labels(labels)
    found = Scores(*(np.full((units.n_units, n_factors), np.nan) for _ in Scores._fields))
    if isinstance(units, SignedUnits):
        for i, row in enumerate(units.values):
            for scores, of_row in zip(found, table.both_signs(row), strict=True):
                scores[2 * i : 2 * i + 2] = of_row
    for unit in () if isinstance(units, SignedUnits) else range(units.n_units):
        tokens, values = units.entries(unit)
        few = len(tokens) <= SPARSE_SHARE * n and (not len(values) or values.min() > 0)
        auroc, ap, f1 = table.from_entries(tokens, values) if few else table.from_all(tokens, values)
        found.auroc[unit], found.ap[unit], found.f1[unit] = auroc, ap, f1
    for array in found:
        array[:, (table.positives == 0) | (table.positives == n)] = np.nan
    return found


class _Labels:
    """Labels, ready to be met by one unit after another."""

    def __init__(self, labels: csr_matrix) -> None:
        self.n, self.n_factors = labels.shape
        self.indptr, self.indices = labels.indptr, labels.indices
        by_factor = labels.tocsc()
        self.pair_token = by_factor.indices
        self.positives = np.diff(by_factor.indptr)
        self.pair_factor = np.repeat(np.arange(self.n_factors), self.positives)
        wide = self.n_factors * (self.n + 1) > np.iinfo(np.int32).max
        self.key_type = np.int64 if wide else np.int32
        self.base = (self.pair_factor * (self.n + 1)).astype(self.key_type)
        self.known = np.flatnonzero(self.positives)
        self.starts = by_factor.indptr[self.known]
        self.of_pair = self.positives[self.pair_factor]
        self.place = np.arange(1, len(self.pair_token) + 1) - by_factor.indptr[self.pair_factor]

    def from_entries(self, tokens: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A unit that is above zero at `tokens` and silent elsewhere."""
        reach, mean = ranks(values)
        starts, counts = self.indptr[tokens], np.diff(self.indptr)[tokens]
        at = (
            np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) if len(tokens) else counts
        )
        factor = self.indices[at + np.arange(len(at))]
        silent = self.n - len(tokens)
        missed = self.positives - np.bincount(factor, minlength=self.n_factors)
        ranked = np.bincount(factor, np.repeat(mean, counts), minlength=self.n_factors)
        rank_sum = ranked + missed * (len(tokens) + (silent + 1) / 2)
        keys = np.sort(factor.astype(np.int64) * (self.n + 1) + np.repeat(reach, counts))
        ap, f1 = self._precisions(keys // (self.n + 1), keys % (self.n + 1), missed)
        return self._auroc(rank_sum), ap, f1

    def from_all(self, tokens: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Any unit: all tokens are sorted."""
        full = np.zeros(self.n, np.float32)
        full[tokens] = values
        reach, mean = ranks(full)
        rank_sum = np.bincount(self.pair_factor, mean[self.pair_token], minlength=self.n_factors)
        keys = np.sort(self.base + reach.astype(self.key_type)[self.pair_token])
        ap, f1 = self._precisions(self.pair_factor, keys - self.base, np.zeros(self.n_factors, int))
        return self._auroc(rank_sum), ap, f1

    def both_signs(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A direction and its opposite, each array [2 factor], from one sort: ranks from the bottom are those from
        the top counted backwards, and the i-th of a factor's P tokens is the (P + 1 − i)-th."""
        reach, _ = ranks(row)
        keys = np.sort(self.base + reach.astype(self.key_type)[self.pair_token])
        equal = np.flatnonzero(keys[1:] == keys[:-1])
        if len(equal) > MOST_EQUAL or not len(keys):
            tokens = np.arange(len(row))
            pairs = zip(self.from_all(tokens, row), self.from_all(tokens, -row), strict=True)
            auroc, ap, f1 = (np.stack(pair) for pair in pairs)
            return auroc, ap, f1
        rank = keys - self.base
        others = (np.bincount(reach, minlength=self.n + 1) - 1)[rank]  # tokens of the same value
        last, first = self.place.copy(), self.place.copy()  # of the factor's tokens of one value
        for i in equal[::-1]:
            last[i] = last[i + 1]
        for i in equal:
            first[i + 1] = first[i]
        auroc, (ap, f1) = np.full(self.n_factors, np.nan), np.full((2, 2, self.n_factors), np.nan)
        auroc[self.known] = np.add.reduceat(rank - others / 2, self.starts)
        everything = (self.positives / (self.n + self.positives))[self.known]
        signs = [(last, rank), (self.of_pair + 1 - first, self.n + 1 + others - rank)]
        for sign, (hits, above) in enumerate(signs):
            ap[sign, self.known] = np.add.reduceat(hits / above, self.starts) / self.positives[self.known]
            best = np.maximum.reduceat(hits / (above + self.of_pair), self.starts)
            f1[sign, self.known] = 2 * np.maximum(best, everything)
        auroc = self._auroc(auroc)
        return np.stack([auroc, 1 - auroc]), ap, f1

    def _auroc(self, rank_sum: np.ndarray) -> np.ndarray:
        """Mann–Whitney, ranks from the top: 1 − (ΣR − P(P + 1)/2) / (P·N)."""
        positives = self.positives
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - (rank_sum - positives * (positives + 1) / 2) / (positives * (self.n - positives))

    def _precisions(
        self, factor: np.ndarray, reach: np.ndarray, missed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """AP and best F1 of each factor from its tokens' ranks (sorted by factor, then rank); `missed` of its
        tokens come last of all."""
        n, positives = self.n, self.positives
        new_factor = np.append(factor[1:] != factor[:-1], True)[: len(factor)]
        new_rank = np.append(reach[1:] != reach[:-1], True)[: len(reach)]
        ends = np.flatnonzero(new_factor | new_rank)
        of, rank = factor[ends], reach[ends]
        before = np.concatenate([[0], np.cumsum(np.bincount(factor, minlength=self.n_factors))])[:-1]
        hits = ends + 1 - before[of]
        gained = np.diff(ends, prepend=-1)
        area = np.bincount(of, gained * hits / rank, minlength=self.n_factors)
        best = 2 * positives / (n + positives)  # everything counts as on
        np.maximum.at(best, of, 2 * hits / (rank + positives[of]))
        with np.errstate(divide="ignore", invalid="ignore"):
            return (area + missed * positives / n) / positives, best


def aurocs(
    index: FeatureIndex, labels: csr_matrix, inside: Bool[np.ndarray, " token"], least: int = 20
) -> Float[np.ndarray, "latent factor"]:
    """AUROC of every latent for every factor over the tokens `inside`; NaN where it is on in fewer than
    `least` of them, or off."""
    rows = np.flatnonzero(inside)
    there = labels[rows]
    found = score_units(SparseUnits(index).on(rows), there).auroc
    positives = np.bincount(there.indices, minlength=there.shape[1])
    found[:, np.minimum(positives, len(rows) - positives) < least] = np.nan
    return found
