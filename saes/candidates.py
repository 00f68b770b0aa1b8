"""Pools of units that are asked the same question: which of you follows this factor?

A unit is a number a token. `SparseUnits` are latents (a feature index: silent nearly everywhere), `SignedUnits`
are directions or neurons, each there twice, as it is and with its sign turned, since a factor may push a neuron
down. A latent of two signs (`abstopk`) is there once, as |f|: it is on or off, and how strongly is |f| wherever a
lab speaks of strength; its sign is kept for what it writes (`SparseUnits.matrix`). What else there is of a pool,
its decoder, only absorption asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csc_matrix, csr_matrix

from saes.index import FeatureIndex


class Entries(NamedTuple):
    """The tokens (ascending) that a unit says something of, and what; everywhere else it is zero."""

    tokens: Int[np.ndarray, " entry"]
    values: Float[np.ndarray, " entry"]


class Descending(NamedTuple):
    """A unit's entries, the highest first. `last` marks the last of equal values."""

    tokens: Int[np.ndarray, " entry"]
    values: Float[np.ndarray, " entry"]
    last: Bool[np.ndarray, " entry"]

    @classmethod
    def of(cls, entries: Entries) -> Descending:
        order = np.argsort(-entries.values)
        values = entries.values[order]
        last = np.append(values[1:] != values[:-1], True)[: len(values)]
        return cls(np.asarray(entries.tokens)[order], values, last)


@runtime_checkable
class Units(Protocol):
    """A pool's units over some tokens."""

    @property
    def n_units(self) -> int: ...

    @property
    def n_tokens(self) -> int: ...

    def entries(self, unit: int) -> Entries: ...

    def on(self, rows: Int[np.ndarray, " chosen"]) -> Units:
        """The units over some of the tokens, in ascending order."""
        ...

    def varies(self) -> Bool[np.ndarray, " unit"]:
        """Units that are not the same number everywhere: the others are no candidates."""
        ...

    def correlations(self, labels: csr_matrix) -> Float[np.ndarray, "unit factor"]:
        """Pearson's correlation of every unit with every factor; 0 where one of them is constant."""
        ...


@dataclass(frozen=True)
class SparseUnits:
    """Units of a feature index: |f|, which but for `abstopk` is f."""

    index: FeatureIndex

    @cached_property
    def strengths(self) -> FeatureIndex:
        """The index with |f|."""
        return self.index.strengths()

    @property
    def n_units(self) -> int:
        return self.index.n_latents

    @property
    def n_tokens(self) -> int:
        return self.index.n_tokens

    def entries(self, unit: int) -> Entries:
        return Entries(*self.strengths.entries(unit))

    def signed(self, unit: int) -> Entries:
        """f itself."""
        return Entries(*self.index.entries(unit))

    def on(self, rows: Int[np.ndarray, " chosen"]) -> SparseUnits:
        place = np.full(self.n_tokens, -1, np.int32)
        place[rows] = np.arange(len(rows), dtype=np.int32)
        there = place[self.index.tokens]
        kept = there >= 0
        starts = np.concatenate([[0], np.cumsum(kept)])[self.index.starts]
        return SparseUnits(FeatureIndex(there[kept], np.asarray(self.index.values)[kept], starts, len(rows)))

    def varies(self) -> Bool[np.ndarray, " unit"]:
        return np.diff(self.index.starts) > 0

    def matrix(self) -> csc_matrix:
        """[token unit], f with its sign: what is decoded."""
        values = np.asarray(self.index.values, np.float64)
        entries = (values, np.asarray(self.index.tokens), self.index.starts)
        return csc_matrix(entries, shape=(self.n_tokens, self.n_units))

    def correlations(self, labels: csr_matrix) -> Float[np.ndarray, "unit factor"]:
        matrix = abs(self.matrix())
        sums, squares = (np.asarray(m.sum(axis=0)).ravel() for m in (matrix, matrix.multiply(matrix)))
        return _correlations((matrix.T @ labels.astype(np.float64)).toarray(), sums, squares, labels)


@dataclass(frozen=True)
class SignedUnits:
    """Unit 2i is row i of `values`, unit 2i + 1 the same with its sign turned."""

    values: Float[np.ndarray, "direction token"]

    @property
    def n_units(self) -> int:
        return 2 * len(self.values)

    @property
    def n_tokens(self) -> int:
        return self.values.shape[1]

    def entries(self, unit: int) -> Entries:
        row = self.values[unit // 2]
        return Entries(np.arange(self.n_tokens, dtype=np.int32), -row if unit % 2 else row)

    def on(self, rows: Int[np.ndarray, " chosen"]) -> SignedUnits:
        return SignedUnits(np.ascontiguousarray(self.values[:, rows]))

    def varies(self) -> Bool[np.ndarray, " unit"]:
        return np.repeat(np.ptp(self.values, axis=1) > 0, 2)

    def correlations(self, labels: csr_matrix) -> Float[np.ndarray, "unit factor"]:
        columns = labels.tocsc().astype(np.float64)
        found = np.zeros((len(self.values), labels.shape[1]))
        for at in range(0, len(self.values), 64):
            rows = self.values[at : at + 64].astype(np.float64)
            away = rows - rows.mean(axis=1, keepdims=True)
            found[at : at + 64] = _correlations(
                (columns.T @ away.T).T, np.zeros(len(away)), (away**2).sum(axis=1), labels
            )
        return np.stack([found, -found], axis=1).reshape(self.n_units, -1)


def _correlations(
    products: np.ndarray, sums: np.ndarray, squares: np.ndarray, labels: csr_matrix
) -> np.ndarray:
    """r = (Σvy − ΣvΣy/n) / √((Σv² − (Σv)²/n)(Σy − (Σy)²/n)), y ∈ {0, 1}."""
    n = labels.shape[0]
    ones = np.bincount(labels.indices, minlength=labels.shape[1])
    spread = np.outer(squares - sums**2 / n, ones - ones**2 / n)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (products - np.outer(sums, ones) / n) / np.sqrt(spread)
    return np.where(spread > 1e-12, found, 0.0)


def column(units: Units, unit: int) -> Float[np.ndarray, " token"]:
    """One unit on every token."""
    tokens, values = units.entries(unit)
    out = np.zeros(units.n_tokens, np.float32)
    out[tokens] = values
    return out


def draw(able: Bool[np.ndarray, " unit"], n: int, seed: int) -> Int[np.ndarray, " chosen"]:
    """n of the units that are able, at random, ascending; all of them if there are no more."""
    units = np.flatnonzero(able)
    return np.sort(np.random.default_rng(seed).permutation(units)[:n])


def levels(sizes: Sequence[int]) -> list[int]:
    """Numbers of candidates to compare at: each pool's own size, but for those within a tenth of a smaller and
    those that no other pool has."""
    found: list[int] = []
    for place, size in enumerate(ordered := sorted(sizes)):
        if not found or (size > 1.1 * found[-1] and place < len(ordered) - 1):
            found.append(size)
    return found
