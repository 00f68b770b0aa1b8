"""The mean difference of two checkpoints' activations on the same tokens, and how far it is beyond noise.

    δ = E[x_b − x_a]        size = ‖δ‖ / E‖x_a‖        own length = ‖δ‖ / E‖x_b − x_a‖ (1: the same everywhere)

[Minder 2025, "Narrow finetuning leaves clearly readable traces in activation differences", arXiv 2510.13900: the
mean by position over unrelated text.] Tokens are told apart in facets (position, domain, kind of token); sums are
kept by `BLOCKS` blocks of documents, added up first and divided once.

The interval is of the mean difference along δ's own direction, documents resampled: a resampled norm is longer than
the norm, since noise lengthens every norm. The null flips the sign of each block's differences: how long a mean of
as many tokens is where they do not agree. It counts what does agree as noise, so it is too long, the more so the
fewer documents. δ of a checkpoint and itself is exactly 0.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from workbench.intervals import quantiles

BLOCKS = 64
RESAMPLES = 400
FLIPS = 200


class Facet(NamedTuple):
    """A way to tell tokens apart: the names of its groups, and each token's group (−1: in none)."""

    groups: tuple[str, ...]
    of: Int[np.ndarray, "token"]

    @classmethod
    def by(
        cls, names: Shaped[np.ndarray, "thing"], of: Int[np.ndarray, "token"], order: Sequence[str] = ()
    ) -> Facet:
        """Tokens by the name of what each belongs to (its document, its entry of the vocabulary): the groups of
        `order` first; an empty name is no group."""
        found = [name for name in sorted(set(names.tolist())) if name]
        groups = [name for name in order if name in found]
        groups += [name for name in found if name not in groups]
        number = {name: i for i, name in enumerate(groups)} | {"": -1}
        return cls(tuple(groups), np.array([number[name] for name in names.tolist()], dtype=np.int64)[of])


@dataclasses.dataclass(frozen=True)
class GroupSums:
    """What is known of one group of tokens, by block of documents. `vectors` Σ x by checkpoint, `lengths` Σ‖x‖ by
    checkpoint, `apart` Σ‖x_b − x_a‖ by pair."""

    n: Float[np.ndarray, "block"]
    vectors: Mapping[str, Float[np.ndarray, "block d"]]
    lengths: Mapping[str, Float[np.ndarray, "block"]]
    apart: Mapping[tuple[str, str], Float[np.ndarray, "block"]]

    @classmethod
    def of(
        cls, x: Mapping[str, Float[np.ndarray, "token d"]], cell: Int[np.ndarray, "token"], n_cells: int
    ) -> GroupSums:
        """The checkpoints' activations added up in the cell of each token; a negative cell is none."""
        return next(cls.of_each(x, [(cell, n_cells)]))

    @classmethod
    def of_each(
        cls,
        x: Mapping[str, Float[np.ndarray, "token d"]],
        cells: Iterable[tuple[Int[np.ndarray, "token"], int]],
    ) -> Iterator[GroupSums]:
        """`of` in several ways to deal the tokens into cells, of which each has its number."""
        lengths = {name: np.linalg.norm(value, axis=1) for name, value in x.items()}
        apart = {(a, b): np.linalg.norm(x[b] - x[a], axis=1) for a, b in itertools.combinations(x, 2)}
        for cell, n in cells:
            inside = cell >= 0
            at = cell[inside]
            yield cls(
                _counted(at, np.ones(len(at)), n),
                {name: _summed(cell, value, n) for name, value in x.items()},
                {name: _counted(at, value[inside], n) for name, value in lengths.items()},
                {pair: _counted(at, value[inside], n) for pair, value in apart.items()},
            )

    def plus(self, other: GroupSums) -> GroupSums:
        """Both together."""
        return GroupSums(
            self.n + other.n,
            {name: value + other.vectors[name] for name, value in self.vectors.items()},
            {name: value + other.lengths[name] for name, value in self.lengths.items()},
            {pair: value + other.apart[pair] for pair, value in self.apart.items()},
        )

    def some(self, cells: slice) -> GroupSums:
        """Those cells alone."""
        parts = (self.vectors, self.lengths, self.apart)
        return GroupSums(self.n[cells], *({key: v[cells] for key, v in part.items()} for part in parts))  # type: ignore[arg-type]

    def differences(self, before: str, after: str) -> Float[np.ndarray, "block d"]:
        """Σ (x_b − x_a) by block."""
        return self.vectors[after] - self.vectors[before]

    def mean(self, name: str) -> Float[np.ndarray, "d"]:
        """The mean stream of one checkpoint."""
        return self.vectors[name].sum(0) / self.n.sum()


class MeanDifference(NamedTuple):
    """δ of a group, as a share of the mean length of x_a: `size` with its interval, `null` (mean) and `null_high`
    (95 %) of flipped signs, `coherence` ‖δ‖ / E‖x_b − x_a‖, `halves` the cosine of δ of one half of the documents
    with δ of the other. NaN where nothing can be said (one block; no difference)."""

    delta: Float[np.ndarray, "d"]
    size: float
    low: float
    high: float
    null: float
    null_high: float
    coherence: float
    halves: float
    n: int
    documents: int


class DifferenceSums:
    """Adds up activations of several checkpoints, chunk by chunk, in the groups of several facets."""

    def __init__(self, facets: Mapping[str, Facet], blocks: Int[np.ndarray, "token"]) -> None:
        self.facets, self._blocks = facets, blocks
        self._sums: dict[str, GroupSums] = {}

    def add(self, x: Mapping[str, Float[np.ndarray, "token d"]], rows: Int[np.ndarray, "token"]) -> None:
        """The checkpoints' activations at `rows` of the token set."""
        cells = [
            (np.where(of[rows] < 0, -1, of[rows] * BLOCKS + self._blocks[rows]), len(groups) * BLOCKS)
            for groups, of in self.facets.values()
        ]
        for name, found in zip(self.facets, GroupSums.of_each(x, cells), strict=True):
            self._sums[name] = self._sums[name].plus(found) if name in self._sums else found

    def groups(self) -> Iterator[tuple[str, str, GroupSums]]:
        """Facet, group and sums of every group that holds tokens."""
        for facet, (groups, _) in self.facets.items():
            for group in groups:
                if (sums := self.group(facet, group)).n.sum() > 0:
                    yield facet, group, sums

    def group(self, facet: str, group: str) -> GroupSums:
        """The sums of one group."""
        at = self.facets[facet].groups.index(group) * BLOCKS
        return self._sums[facet].some(slice(at, at + BLOCKS))


def _counted(
    cell: Int[np.ndarray, "inside"], values: Float[np.ndarray, "inside"], n_cells: int
) -> Float[np.ndarray, "cell"]:
    """Σ of the values in each cell; of none zeros, which numpy counts as whole numbers."""
    return np.bincount(cell, values, n_cells).astype(np.float64)


def _summed(
    cell: Int[np.ndarray, "token"], values: Float[np.ndarray, "token d"], n_cells: int
) -> Float[np.ndarray, "cell d"]:
    """Σ of the values in each cell, float64."""
    from scipy.sparse import csr_array

    inside = np.flatnonzero(cell >= 0)
    chosen = csr_array((np.ones(len(inside)), (cell[inside], inside)), shape=(n_cells, len(cell)))
    return np.asarray(chosen @ values.astype(np.float64))


def mean_difference(sums: GroupSums, before: str, after: str, seed: int = 0) -> MeanDifference:
    """δ of a group with its interval and its null."""
    used = sums.n > 0
    parts, lengths = sums.differences(before, after)[used], sums.lengths[before][used]
    total, n, blocks = parts.sum(0), int(sums.n.sum()), int(used.sum())
    length, whole = float(np.linalg.norm(total)), float(lengths.sum())
    rng = np.random.default_rng(seed)
    low = high = null = null_high = float("nan")
    if blocks > 1 and whole > 0:
        along = parts @ (total / length) if length > 0 else np.zeros(blocks)
        drawn = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=RESAMPLES)
        low, high = quantiles(drawn @ along, drawn @ lengths, blocks)
        flipped = np.linalg.norm(rng.choice((-1.0, 1.0), (FLIPS, blocks)) @ parts, axis=1) / whole
        null, null_high = float(flipped.mean()), float(np.quantile(flipped, 0.95))
    apart = float(sums.apart[before, after].sum())
    return MeanDifference(
        delta=total / n,
        size=length / whole if whole > 0 else float("nan"),
        low=low,
        high=high,
        null=null,
        null_high=null_high,
        coherence=length / apart if apart > 0 else float("nan"),
        halves=cosine(parts[::2].sum(0), parts[1::2].sum(0)),
        n=n,
        documents=blocks,
    )


def cosine(a: Float[np.ndarray, "d"], b: Float[np.ndarray, "d"]) -> float:
    """The cosine of two directions; NaN where one is 0."""
    below = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / below if below > 0 else float("nan")


def half_differences(sums: GroupSums, before: str, after: str) -> Float[np.ndarray, "half d"]:
    """δ of the even and of the odd blocks: what is measured on one half can be made from the other."""
    parts = sums.differences(before, after)
    return np.stack([parts[half::2].sum(0) / max(1.0, float(sums.n[half::2].sum())) for half in (0, 1)])
