"""Two dictionaries' latents laid side by side: every pair's cosine and correlation, and who is matched with whom.

    cosine       ⟨d_i, d_j⟩ / (‖d_i‖ ‖d_j‖)             of their decoders, one model's
    correlation  corr(f_i, f_j) = (Σ_t f_ti f_tj / n − f̄_i f̄_j) / (s_i s_j)      FᵀF of sparse codes; silent is zero
    matched      the one-to-one assignment with the largest sum of either, or of their mean (`saes.matching`)
    MCC          the mean over matched pairs

What chance gives: one side's decoders turned by a random rotation, which keeps every cosine among them, and one
side's tokens shuffled within their groups, which keeps how often and how strongly each latent fires in each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix

from saes.index import FeatureIndex
from saes.matching import Matching, cosines, match

COSINE, CORRELATION, MEAN = CRITERIA = ("cosine", "correlation", "mean")  # what an assignment maximises
_TINY = 1e-12


class Best(NamedTuple):
    """For each latent of the other side the one that comes nearest to it, whoever else wants that."""

    value: Float[np.ndarray, "other"]
    latent: Int[np.ndarray, "other"]


@dataclass(frozen=True)
class Codes:
    """What some latents of a dictionary do on some tokens: a row a latent, a column a token."""

    latent: Int[np.ndarray, "latent"]  # their numbers in the dictionary
    f: csr_matrix  # [latent token]
    mean: Float[np.ndarray, "latent"]
    spread: Float[np.ndarray, "latent"]

    @classmethod
    def of(
        cls, index: FeatureIndex, counted: Bool[np.ndarray, "token"], fewest: int = 1, most: int | None = None
    ) -> Codes:
        """The latents that fire on at least `fewest` of the `counted` tokens; of more than `most` those that fire
        on most of them."""
        where = np.cumsum(counted) - 1
        token = np.asarray(index.tokens)
        kept = counted[token]
        owner = np.repeat(np.arange(index.n_latents), np.diff(index.starts))[kept]
        fires = np.bincount(owner, minlength=index.n_latents)
        order = np.argsort(-fires, kind="stable")[:most]
        latent = np.sort(order[fires[order] >= max(1, fewest)])
        starts = np.concatenate([[0], np.cumsum(fires)])
        values = np.asarray(index.values, dtype=np.float64)[kept]
        shape = (index.n_latents, int(counted.sum()))
        f = csr_matrix((values, where[token[kept]].astype(np.int32), starts), shape=shape)[latent]
        return cls._measured(latent, f)

    @classmethod
    def _measured(cls, latent: np.ndarray, f: csr_matrix) -> Codes:
        n = f.shape[1]
        mean = np.asarray(f.sum(axis=1)).ravel() / n
        square = np.asarray(f.multiply(f).sum(axis=1)).ravel() / n
        return cls(latent, f, mean, np.sqrt(np.maximum(square - mean**2, 0.0)))

    @property
    def fires(self) -> Int[np.ndarray, "latent"]:
        """On how many tokens each is on."""
        return np.diff(self.f.indptr)

    def shuffled(self, order: Int[np.ndarray, "token"]) -> Codes:
        """The same with token t's activations laid on token `order[t]`."""
        moved = csr_matrix(
            (self.f.data, order[self.f.indices].astype(np.int32), self.f.indptr), shape=self.f.shape
        )
        return Codes(self.latent, moved, self.mean, self.spread)

    def correlations(self, other: Codes) -> Float[np.ndarray, "latent other"]:
        """Of every latent with every latent of `other`; 0 where either is flat."""
        inner = (self.f @ other.f.T.tocsr()).toarray() / self.f.shape[1]
        inner -= np.outer(self.mean, other.mean)
        size = np.outer(self.spread, other.spread)
        return np.divide(inner, size, out=np.zeros_like(inner), where=size > _TINY)


@dataclass(frozen=True)
class AllPairs:
    """Cosine and correlation of every latent of one dictionary with every latent of another."""

    cosine: Float[np.ndarray, "own other"]
    correlation: Float[np.ndarray, "own other"]

    @classmethod
    def of(
        cls, own: Float[np.ndarray, "own d"], other: Float[np.ndarray, "other d"], f_own: Codes, f_other: Codes
    ) -> AllPairs:
        """Decoders are those of the codes' latents, in their order."""
        return cls(cosines(own.astype(float), other.astype(float)), f_own.correlations(f_other))

    def by(self, criterion: str) -> Float[np.ndarray, "own other"]:
        """What an assignment by `criterion` maximises."""
        both: Mapping[str, np.ndarray] = {COSINE: self.cosine, CORRELATION: self.correlation}
        return (self.cosine + self.correlation) / 2 if criterion == MEAN else both[criterion]

    def matched(self, criterion: str) -> Matching:
        """One to one, with the largest sum."""
        return match(self.by(criterion))

    def best(self, criterion: str, of_own: bool = False) -> Best:
        """For each latent of the other side (`of_own`: of this one) the nearest across."""
        similarity = self.by(criterion) if not of_own else self.by(criterion).T
        return Best(similarity.max(axis=0), similarity.argmax(axis=0))


def random_rotation(d: int, seed: int = 0) -> Float[np.ndarray, "d d"]:
    """Uniform over the orthogonal matrices [Mezzadri 2007]."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))
    return q * np.sign(np.diag(r))


@dataclass(frozen=True)
class Resampler:
    """What sums over tokens would have been with other documents: blocks of them drawn with return."""

    block: Int[np.ndarray, "token"]
    drawn: Float[np.ndarray, "resample block"]

    @classmethod
    def of(cls, block: Int[np.ndarray, "token"], seed: int = 0, n: int = 200) -> Resampler:
        """`n` draws."""
        blocks = int(block.max()) + 1
        even = np.full(blocks, 1 / blocks)
        return cls(block, np.random.default_rng(seed).multinomial(blocks, even, size=n).astype(float))

    def means(self, f: csr_matrix) -> Float[np.ndarray, "resample latent"]:
        """The mean of each row of `f` [latent token] over the tokens drawn."""
        n_blocks = self.drawn.shape[1]
        row = np.repeat(np.arange(f.shape[0]), np.diff(f.indptr))
        key = row * n_blocks + self.block[f.indices]
        sums = np.bincount(key, f.data, minlength=f.shape[0] * n_blocks).reshape(-1, n_blocks)
        return self.drawn @ sums.T / (self.drawn @ np.bincount(self.block, minlength=n_blocks))[:, None]

    def moments(self, codes: Codes) -> Moments:
        """Mean and variance of every latent, in each resample."""
        mean = self.means(codes.f)
        return Moments(mean, np.maximum(self.means(codes.f.multiply(codes.f).tocsr()) - mean**2, 0.0))


class Moments(NamedTuple):
    """By resample and latent."""

    mean: Float[np.ndarray, "resample latent"]
    variance: Float[np.ndarray, "resample latent"]


def resampled_correlation(
    own: tuple[Codes, Moments], other: tuple[Codes, Moments], pairs: Matching, resampler: Resampler
) -> Float[np.ndarray, "resample"]:
    """The mean correlation of matched pairs in each resample; the pairs stay as they are. A pair of which
    one is silent in a resample has no part in its mean: it is rare, not unlike."""
    (f, of_f), (g, of_g) = own, other
    both = resampler.means(f.f[pairs.rows].multiply(g.f[pairs.columns]).tocsr())
    covariance = both - of_f.mean[:, pairs.rows] * of_g.mean[:, pairs.columns]
    size = np.sqrt(of_f.variance[:, pairs.rows] * of_g.variance[:, pairs.columns])
    known = size > _TINY
    each = np.clip(np.divide(covariance, size, out=np.zeros_like(size), where=known), -1.0, 1.0)
    return each.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
