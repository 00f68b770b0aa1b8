"""The directions in which two checkpoints' activations differ: principal components of x_b − x_a.

Share of variance of the leading components, beside those of x_a itself and of a shuffled control: each coordinate
of x_b − x_a permuted over tokens on its own, which keeps the variance of every coordinate and breaks what they have
in common. One direction written everywhere has a first share of 1; noise alike in all directions has 1/d.

Intervals resample documents along fixed components: linear in sums by document, so no basis is found again (a basis
fitted to each resample would find more variance than there is).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from workbench.intervals import quantiles, resampled_sums

COMPONENTS = 10
ROUNDING = 1e-9  # of x's energy


class Spectrum(NamedTuple):
    """Shares of variance of the leading components, each with its interval; `basis` orthonormal, most first.
    Shares are NaN of what does not vary."""

    share: Float[np.ndarray, "component"]
    low: Float[np.ndarray, "component"]
    high: Float[np.ndarray, "component"]
    basis: Float[np.ndarray, "component d"]
    mean: Float[np.ndarray, "d"]


def spectrum(
    x: Float[np.ndarray, "token d"], document: Int[np.ndarray, "token"], k: int = COMPONENTS
) -> Spectrum:
    """PCA of x, centred. What varies by less than rounding does not vary."""
    mean = x.mean(0, dtype=np.float64)
    away = (x - mean).astype(x.dtype)
    values, vectors = np.linalg.eigh((away.T @ away).astype(np.float64))
    k = min(k, len(mean))
    basis = vectors[:, ::-1][:, :k]
    total = float(values.clip(0).sum())
    if total <= ROUNDING * float((x.astype(np.float64) ** 2).sum()):
        nothing = np.full(k, np.nan)
        return Spectrum(nothing, nothing, nothing, basis.T, mean)
    scores = away @ basis
    low, high = _intervals(scores**2, (away**2).sum(1), document)
    return Spectrum(values[::-1][:k] / total, low, high, oriented(basis.T, scores), mean)


def _intervals(
    energy: Float[np.ndarray, "token component"],
    whole: Float[np.ndarray, "token"],
    document: Int[np.ndarray, "token"],
) -> tuple[Float[np.ndarray, "component"], Float[np.ndarray, "component"]]:
    """Ends of the shares' intervals, documents resampled once for all components."""
    found, number = np.unique(document, return_inverse=True)
    sums = np.stack([np.bincount(number, part) for part in (*energy.T, whole)], axis=1)
    drawn = resampled_sums(sums)
    ends = [quantiles(drawn[:, i], drawn[:, -1], len(found)) for i in range(energy.shape[1])]
    return np.array([end.low for end in ends]), np.array([end.high for end in ends])


def oriented(
    basis: Float[np.ndarray, "component d"], scores: Float[np.ndarray, "token component"]
) -> Float[np.ndarray, "component d"]:
    """Each component turned so that its longer tail is above zero: a sign is otherwise chance."""
    tails = (scores.astype(np.float64) ** 3).sum(0)
    return basis * np.where(tails < 0, -1.0, 1.0)[:, None]


def shuffled(x: Float[np.ndarray, "token d"], seed: int = 0) -> Float[np.ndarray, "token d"]:
    """Every coordinate permuted over tokens on its own."""
    return np.random.default_rng(seed).permuted(x, axis=0)


def strongest(
    scores: Float[np.ndarray, "token"], document: Int[np.ndarray, "token"], n: int
) -> Int[np.ndarray, "chosen"]:
    """The tokens of the highest scores, one a document."""
    order = np.argsort(-scores, kind="stable")
    _, first = np.unique(document[order], return_index=True)
    return order[np.sort(first)[:n]]
