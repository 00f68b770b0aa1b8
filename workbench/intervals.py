"""Intervals by bootstrap over documents: tokens of one document are not independent, documents are taken to be.

Figures are ratios of sums (a loss is nats / tokens, FVU is residual / total), so a resample draws documents
with return, sums numerators and denominators, and divides once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 1_000
_CHUNK = 100  # resamples at a time, so that weights take [chunk, document] and no more


class Interval(NamedTuple):
    """The 2.5 % and 97.5 % quantiles; NaN where there is only one document."""

    low: float
    high: float


def bracketed(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """A figure with its interval, for people; what rounds to zero has no sign, what is not known is a dash.

    >>> bracketed(0.5, 0.4, 0.61, 2), bracketed(-0.0001, None, None)
    ('0.50 [0.40, 0.61]', '0.000')
    """
    if value is None:
        return "–"
    told = [f"{round(each, digits) + 0.0:.{digits}f}" for each in (value, low, high) if each is not None]
    return told[0] if low is None or high is None else f"{told[0]} [{told[1]}, {told[2]}]"


def document_blocks(n_documents: int, n_blocks: int, seed: int = 0) -> Int[np.ndarray, "document"]:
    """The block of each document, dealt at random: sums by block are resampled where sums by document take too
    much room."""
    return np.random.default_rng(seed).permutation(n_documents) % n_blocks


def resampled_sums(
    sums: Float[np.ndarray, "document figure"], seed: int = 0, n: int = RESAMPLES
) -> Float[np.ndarray, "resample figure"]:
    """Sums over documents drawn with return, `n` times."""
    rng = np.random.default_rng(seed)
    documents = len(sums)
    parts = []
    for at in range(0, n, _CHUNK):
        weights = rng.multinomial(documents, np.full(documents, 1 / documents), size=min(_CHUNK, n - at))
        parts.append(weights @ sums)
    return np.concatenate(parts)


def ratio_interval(
    numerator: Float[np.ndarray, "document"], denominator: Float[np.ndarray, "document"], seed: int = 0
) -> Interval:
    """95 % interval of Σ numerator / Σ denominator."""
    sums = resampled_sums(np.stack([numerator, denominator], axis=1).astype(float), seed)
    return quantiles(sums[:, 0], sums[:, 1], len(numerator))


def ratio_intervals(
    numerators: Float[np.ndarray, "document figure"], denominator: Float[np.ndarray, "document"], seed: int = 0
) -> Float[np.ndarray, "figure 2"]:
    """95 % interval of Σ numerator / Σ denominator of many figures of the same documents: low, high."""
    sums = resampled_sums(np.concatenate([numerators, denominator[:, None]], axis=1).astype(float), seed)
    ends = [quantiles(sums[:, i], sums[:, -1], len(numerators)) for i in range(numerators.shape[1])]
    return np.array(ends).reshape(-1, 2)


def wilson(hits: int, n: int) -> Interval:
    """95 % Wilson interval of a share `hits` / `n`: what a share of latents gets, dead ones first of all.

    A bootstrap over documents would be biased there. A latent that fires in one document is silent in the 37 % of
    resamples that miss it, and one that never fired fires in none: no resample has fewer dead latents than the
    sample, so its interval lies above the figure. Wilson's is about latents, as if drawn from one population.
    """
    from scipy.stats import binomtest

    found = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return Interval(float(found.low), float(found.high))


def newcombe(
    first: tuple[int, int], second: tuple[int, int], scales: tuple[float, float] = (1.0, 1.0)
) -> Interval:
    """95 % interval of the difference of two shares `(hits, n)`, second − first, each times its scale: two Wilson
    intervals combined [Newcombe 1998, method 10]. Of shares on the same questions it is somewhat wide."""
    ends, shares = [], []
    for (hits, n), scale in zip((first, second), scales, strict=True):
        low, high = wilson(hits, n)
        shares.append(scale * hits / n)
        ends.append((shares[-1] - scale * low, scale * high - shares[-1]))
    change = shares[1] - shares[0]
    (down_first, up_first), (down_second, up_second) = ends
    return Interval(change - math.hypot(up_first, down_second), change + math.hypot(down_first, up_second))


def median_interval(values: Float[np.ndarray, "latent"], seed: int = 0) -> Interval:
    """95 % interval of a median by bootstrap over latents.

    Decoders are not made of the held-out documents, so resampling those would say nothing of their cosines. Two
    latents that are each other's neighbours share a value: the interval is a little narrow.
    """
    if len(values) < 2:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(resampled_medians(values, seed), (0.025, 0.975))
    return Interval(float(low), float(high))


def resampled_medians(
    values: Float[np.ndarray, "latent"], seed: int = 0, n: int = RESAMPLES
) -> Float[np.ndarray, "resample"]:
    """Medians of as many values drawn with return, `n` times."""
    rng = np.random.default_rng(seed)
    return np.array([np.median(values[rng.integers(0, len(values), len(values))]) for _ in range(n)])


def quantiles(
    numerator: Float[np.ndarray, "resample"], denominator: Float[np.ndarray, "resample"], n_documents: int
) -> Interval:
    """The interval that resampled numerators and denominators give."""
    keep = denominator != 0
    if n_documents < 2 or not keep.any():
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(numerator[keep] / denominator[keep], (0.025, 0.975))
    return Interval(float(low), float(high))
