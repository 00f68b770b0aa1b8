"""Splitting and composition: one factor in several latents, one latent for several factors.

*Splitting.* Latents are added one by one to the set whose "any of them fires" follows the factor: each time the
one that raises F1 on the first half most, as long as it raises it by `GAIN` [after Chanin 2024, who add latents
to a k-sparse probe]. A factor that ends with more than one is split.

*Composition.* A latent that fires where two factors are on *together*, better than where either is:
F1(a ∧ b) ≥ best F1 of any single factor + `GAIN`, chosen on the first half, both measured on the second.
A pair has to be on together often enough in both halves, and neither may follow from the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix

from saes.candidates import SparseUnits
from saes.factors import MIN_TOKENS, FactorTable, Halves
from saes.resampling import Resampled, Resamples
from saes.single_units import HalvedPool

GAIN = 0.03
CONSIDERED = 64  # latents of the highest F1 that may join a factor's set
MOST_LATENTS = 16
NESTED = 0.95  # a pair that is on together on more than this share of the rarer one is no conjunction


class Split(NamedTuple):
    """The latents of a factor in the order they joined; F1 of the first and of all, on the second half."""

    factor: int
    latents: tuple[int, ...]
    alone: Resampled
    together: Resampled


class Composed(NamedTuple):
    """A latent, its best pair of factors, and F1 on the second half for them and for its best single factor."""

    latent: int
    factors: tuple[int, int]
    single: int
    n: int
    pair_f1: float
    single_f1: float

    @property
    def composed(self) -> bool:
        return self.pair_f1 >= self.single_f1 + GAIN


def splits(pool: HalvedPool, halves: Halves, resamples: Resamples) -> Iterator[Split]:
    """How many latents each factor takes."""
    assert isinstance(pool.first, SparseUnits)
    assert isinstance(pool.second, SparseUnits)
    fires = [_fires(units) for units in (pool.first, pool.second)]
    able = np.flatnonzero(pool.able)
    for factor in range(halves.first.n_factors):
        order = np.argsort(-pool.scores.f1[able, factor], kind="stable")
        latents = _joined(fires[0], able[order[:CONSIDERED]], halves.first.column(factor))
        on = halves.second.column(factor)
        alone, together = (
            resamples.ratio(2.0 * (any_on & on), any_on.astype(float) + on)
            for any_on in (_any(fires[1], latents[:1]), _any(fires[1], latents))
        )
        yield Split(factor, latents, alone, together)


def _fires(units: SparseUnits) -> csr_matrix:
    """[unit token], 1 where it fires."""
    matrix = units.matrix().T.tocsr()
    matrix.data = (matrix.data != 0).astype(np.float64)
    return matrix


def _any(fires: csr_matrix, latents: tuple[int, ...]) -> np.ndarray:
    return np.asarray(fires[list(latents)].sum(axis=0)).ravel() > 0


def _joined(fires: csr_matrix, considered: Int[np.ndarray, " latent"], on: np.ndarray) -> tuple[int, ...]:
    """Latents in the order in which they raise F1 most, until none raises it by `GAIN`."""
    rows = fires[considered]
    covered = np.zeros(len(on), bool)
    chosen: list[int] = []
    best = 0.0
    while len(chosen) < min(MOST_LATENTS, len(considered)):
        hits = (covered & on).sum() + rows @ (on & ~covered)
        predicted = covered.sum() + rows @ ~covered
        f1 = 2 * hits / (predicted + on.sum())
        top = int(np.argmax(f1))
        if chosen and f1[top] < best + GAIN:
            break
        best = float(f1[top])
        chosen.append(int(considered[top]))
        covered |= np.asarray(rows[[top]].toarray()).ravel() > 0
    return tuple(chosen)


def compositions(pool: HalvedPool, halves: Halves) -> Iterator[Composed]:
    """The best pair of factors of every latent that has one."""
    assert isinstance(pool.first, SparseUnits)
    assert isinstance(pool.second, SparseUnits)
    together = [_together(half) for half in (halves.first, halves.second)]
    rarer = [np.minimum.outer(half.positives, half.positives) for half in (halves.first, halves.second)]
    enough = np.ones_like(together[0], bool)
    for both, least in zip(together, rarer, strict=True):
        enough &= (both >= MIN_TOKENS) & (both <= NESTED * least)
    if not enough.any():
        return
    for latent in np.flatnonzero(pool.able):
        first = _pair_f1(pool.first, int(latent), halves.first, together[0])
        pairs = np.where(enough, first, -1.0)
        a, b = (int(i) for i in np.unravel_index(np.argmax(pairs), pairs.shape))
        single = int(np.argmax(np.diag(first)))
        second = _pair_f1(pool.second, int(latent), halves.second, together[1], np.array([a, b, single]))
        yield Composed(
            int(latent),
            (a, b),
            single,
            int(together[1][a, b]),
            float(second[0, 1]),
            float(second[2, 2]),
        )


def _together(table: FactorTable) -> Float[np.ndarray, "factor factor"]:
    labels = table.labels.astype(np.float64)
    return (labels.T @ labels).toarray()


def _pair_f1(
    units: SparseUnits,
    latent: int,
    table: FactorTable,
    together: Float[np.ndarray, "factor factor"],
    among: Int[np.ndarray, "chosen"] | None = None,
) -> Float[np.ndarray, "chosen chosen"]:
    """F1 of "it fires" for every conjunction of two factors (`among` some, or all); single factors on the
    diagonal."""
    tokens = units.entries(latent).tokens
    rows = table.labels[tokens].toarray().astype(np.float32)
    if among is not None:
        rows, together = rows[:, among], together[np.ix_(among, among)]
    return 2 * (rows.T @ rows) / (len(tokens) + np.maximum(together, 1))
