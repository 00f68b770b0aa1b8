"""Which direction of a model's stream carries each latent's pattern: one ridge regression on all patterns together.

The patterns f [token latent] are fixed (what a finished dictionary says of the tokens); the stream a [token d] is
that of any snapshot, centred and divided by its standard deviation per coordinate. Over all latents at once

    D = argmin Σ_t ‖a_t − Σ_j f_tj D_j‖² + λ Σ_j Σ_t f_tj² ‖D_j‖²,        f centred

Latent scaling [Minder 2025] asks how much of a latent lies in what the others leave over, with the decoders that
the dictionary has. An earlier snapshot has none, so all are fitted together: of two latents that fire at the same
tokens neither gets the other's part. The Gram matrix of f is the same for every snapshot and is inverted once.

    strength    β_j = ⟨D_j, d_j⟩ / ‖d_j‖²                  how much of the own decoder d_j is there; 1 is all of it
    length      ‖D_j‖, the expected part of noise taken off
    cosine      ⟨D_j, d_j⟩ / (length ‖d_j‖)               a latent may have been there in another direction
    readable    R² of f_j read off the stream by ridge regression, fitted on half of the documents, on the other
    floor       95 % of patterns that are shuffled among tokens of one domain have less strength

Figures follow from D to first order when blocks of documents are weighed otherwise (`influence`): residuals
divided by 1 − leverage, which is the jackknife's. The floor shuffles the residuals, which is to shuffle one pattern
and leave the others where they are [Freedman & Lane 1983]; its quantile is pooled over latents in units of each
one's noise. λ makes β a little small (by 5 % on `quick`), at every snapshot alike.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix

RIDGE = 0.03  # λ, in units of a latent's own Σ f²
SHUFFLES = 2
NULL_QUANTILE = 0.95
MOST_LEVERAGE = 0.9  # a token that alone decides a decoder would be divided by nothing


class Reading(NamedTuple):
    """What one stream holds of each latent. Influences are changes when a block counts once more."""

    strength: Float[np.ndarray, "latent"]
    strength_influence: Float[np.ndarray, "block latent"]
    floor: Float[np.ndarray, "latent"]
    length: Float[np.ndarray, "latent"]
    cosine: Float[np.ndarray, "latent"]
    cosine_influence: Float[np.ndarray, "block latent"]
    readable: Float[np.ndarray, "latent"]


@dataclass(frozen=True)
class Patterns:
    """Fixed patterns over a sample of tokens, with all that the streams of snapshots share. Rows are in the order
    of their blocks; columns of `f` have a root sum of squares of 1 (`size` is what they had)."""

    f: csr_matrix
    size: Float[np.ndarray, "latent"]
    own: Float[np.ndarray, "latent d"]
    starts: Int[np.ndarray, "block"]
    shuffles: Int[np.ndarray, "shuffle token"]
    inverse: Float[np.ndarray, "latent latent"]
    weights: Float[np.ndarray, "token latent"]
    spread: Float[np.ndarray, "latent"]
    leverage: Float[np.ndarray, "token"]

    @classmethod
    def of(
        cls,
        f: csr_matrix,
        own: Float[np.ndarray, "latent d"],
        block: Int[np.ndarray, "token"],
        domain: Int[np.ndarray, "token"],
        seed: int = 0,
    ) -> Patterns:
        """`own`: each latent's decoder in units of its stream's standard deviation; `block` never decreases. Every
        latent fires, and no decoder is zero."""
        size = np.sqrt(np.asarray(f.multiply(f).sum(axis=0))).ravel()
        unit = csr_matrix(f.multiply(1 / size)).astype(np.float64)
        mean = np.asarray(unit.mean(axis=0)).ravel()
        gram = (unit.T @ unit).toarray() - f.shape[0] * np.outer(mean, mean)
        gram[np.diag_indices_from(gram)] += RIDGE
        inverse = np.linalg.inv(gram).astype(np.float32)
        unit = unit.astype(np.float32)
        weights = unit @ inverse - (mean @ inverse).astype(np.float32)
        leverage = np.asarray(unit.multiply(weights).sum(axis=1)).ravel() - weights @ mean + 1 / f.shape[0]
        starts = np.flatnonzero(np.diff(block, prepend=-1))
        rng = np.random.default_rng(seed)
        shuffles = np.stack([shuffled_within(domain, rng) for _ in range(SHUFFLES)])
        spread = np.sqrt(np.einsum("tj,tj->j", weights, weights))  # what a unit of noise does to each
        leverage = np.clip(leverage, 0, MOST_LEVERAGE).astype(np.float32)
        return cls(unit, size, own, starts, shuffles, inverse, weights, spread, leverage)

    def read(self, a: Float[np.ndarray, "token d"]) -> Reading:
        """What the stream `a`, at the same tokens, holds of each latent."""
        a = standardised(a)
        decoders = self._solve(a)
        mean = np.asarray(self.f.mean(axis=0)).ravel()
        left = a - self.f @ decoders + mean @ decoders
        left = left / (1 - self.leverage)[:, None]
        return self._figures(decoders, left, readable(self.f, a, self.starts))

    def _figures(
        self,
        decoders: Float[np.ndarray, "latent d"],
        left: Float[np.ndarray, "token d"],
        told: Float[np.ndarray, "latent"],
    ) -> Reading:
        """Patterns here have unit size, so decoders and own ones are compared times `size`."""
        own = (self.own * self.size[:, None]).astype(np.float32)
        square = (own**2).sum(axis=1)
        along = (decoders * own).sum(axis=1)
        change, turn, noise = [], [], np.zeros(len(own))
        for start, stop in itertools.pairwise((*self.starts, len(left))):
            moved = left[start:stop].T @ self.weights[start:stop]
            change.append(np.einsum("dj,jd->j", moved, own))
            turn.append(np.einsum("dj,jd->j", moved, decoders))
            noise += np.einsum("dj,dj->j", moved, moved)
        n = len(self.starts)
        squared = (decoders**2).sum(axis=1) - noise * n / max(n - 1, 1)
        length = np.sqrt(np.maximum(squared, 0))
        known = squared > noise  # more signal than noise: below that a direction says nothing
        below = np.where(known, length * np.sqrt(square), np.nan)
        cosine = along / below
        bent = np.stack(change) / below - cosine * np.stack(turn) / np.where(known, squared, np.nan)
        return Reading(
            strength=along / square,
            strength_influence=np.stack(change) / square,
            floor=self._floor(left, own) / square,
            length=length / self.size,
            cosine=np.clip(cosine, -1, 1),
            cosine_influence=bent,
            readable=told,
        )

    def _solve(self, a: Float[np.ndarray, "token d"]) -> Float[np.ndarray, "latent d"]:
        """Decoders of the patterns of unit size, for a centred stream."""
        return self.inverse @ (self.f.T @ a - np.outer(np.asarray(self.f.mean(axis=0)).ravel(), a.sum(axis=0)))

    def _floor(
        self, left: Float[np.ndarray, "token d"], own: Float[np.ndarray, "latent d"]
    ) -> Float[np.ndarray, "latent"]:
        """⟨D_j, d_j⟩ that 95 % of shuffled patterns stay under."""
        spread = left.T @ left / len(left)
        noise = np.sqrt(((own @ spread) * own).sum(axis=1)) * self.spread
        null = [(self._solve(left[order]) * own).sum(axis=1) / noise for order in self.shuffles]
        return np.quantile(np.concatenate(null), NULL_QUANTILE) * noise


def standardised(a: Float[np.ndarray, "token d"]) -> Float[np.ndarray, "token d"]:
    """Centred, divided by the root of the mean variance of its coordinates; a stream that does not vary is 0."""
    a = a.astype(np.float32) - a.mean(axis=0, dtype=np.float64).astype(np.float32)
    size = float(np.sqrt((a**2).mean(dtype=np.float64)))
    return a / size if size > 0 else a


def shuffled_within(group: Int[np.ndarray, "token"], rng: np.random.Generator) -> Int[np.ndarray, "token"]:
    """An order of the tokens in which each place is taken by one of its own group."""
    order = np.empty(len(group), dtype=np.int64)
    for each in np.unique(group):
        rows = np.flatnonzero(group == each)
        order[rows] = rng.permutation(rows)
    return order


def readable(
    f: csr_matrix, a: Float[np.ndarray, "token d"], starts: Int[np.ndarray, "block"], ridge: float = 1e-3
) -> Float[np.ndarray, "latent"]:
    """R² of each pattern read off the stream: fitted on every other block, told on the rest. NaN where a pattern
    does not vary there."""
    block = np.searchsorted(starts, np.arange(len(a)), side="right") - 1
    fitted = block % 2 == 0
    if fitted.all():
        return np.full(f.shape[1], np.nan)
    x, y = a[fitted].astype(np.float64), f[fitted]
    middle, mean = x.mean(axis=0), np.asarray(y.mean(axis=0)).ravel()
    x = x - middle
    cov = x.T @ x
    cov[np.diag_indices_from(cov)] += ridge * np.trace(cov) / len(cov) + np.finfo(float).tiny
    beta = np.linalg.solve(cov, (y.T @ x).T)
    x, y = a[~fitted].astype(np.float64) - middle, f[~fitted]
    total = np.asarray(y.sum(axis=0)).ravel()
    squares = np.asarray(y.multiply(y).sum(axis=0)).ravel()
    cross = (y.T @ x).T - np.outer(x.sum(axis=0), mean)
    wrong = squares - 2 * mean * total + len(x) * mean**2
    wrong = wrong - 2 * (beta * cross).sum(axis=0) + (beta * (x.T @ x @ beta)).sum(axis=0)
    varies = squares - total**2 / len(x)
    return np.where(varies > 0, 1 - wrong / np.where(varies > 0, varies, 1), np.nan)
