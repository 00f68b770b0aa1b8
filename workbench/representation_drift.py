"""How far two checkpoints' activations are from each other on the same tokens, layer by layer.

    CKA     ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F), columns centred                       [Kornblith 2019]
    moved   √(Σ_t ‖y_t − x_t‖² / Σ_t ‖x_t‖²)

CKA saturates near 1 for checkpoints of one lineage and does not see a rotation: read it beside `moved`. Both
follow from three d × d sums, kept in float64 by `BLOCKS` blocks of documents: intervals resample the blocks.
CKA(X, X) is 1 to rounding, moved(X, X) is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BLOCKS = 16
RESAMPLES = 400


class Figure(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


class Sums(NamedTuple):
    """What CKA and `moved` follow from: leading axes (if any) are added up first."""

    n: Float[np.ndarray, "*block"]
    x: Float[np.ndarray, "*block d"]
    y: Float[np.ndarray, "*block e"]
    xx: Float[np.ndarray, "*block d d"]
    yy: Float[np.ndarray, "*block e e"]
    xy: Float[np.ndarray, "*block d e"]

    def weighted(self, weights: Float[np.ndarray, "block"]) -> Sums:
        """The blocks added up, each as often as it is drawn."""
        return Sums(*(np.tensordot(weights, part, axes=1) for part in self))


class PairedSums:
    """Adds up the two checkpoints' activations at one place, by block of documents."""

    def __init__(self, d: int, e: int, blocks: int = BLOCKS) -> None:
        shapes = ((), (d,), (e,), (d, d), (e, e), (d, e))
        self.sums = Sums(*(np.zeros((blocks, *shape)) for shape in shapes))

    def add(
        self,
        x: Float[np.ndarray, "token d"],
        y: Float[np.ndarray, "token e"],
        block: Int[np.ndarray, "token"],
    ) -> None:
        for b in np.unique(block):
            here = block == b
            one, other = x[here].astype(np.float64), y[here].astype(np.float64)
            parts = (len(one), one.sum(0), other.sum(0), one.T @ one, other.T @ other, one.T @ other)
            for total, part in zip(self.sums, parts, strict=True):
                total[b] += part


def cka(sums: Sums) -> float:
    """Linear CKA of sums without blocks; NaN where either side does not vary."""
    xx = sums.xx - np.outer(sums.x, sums.x) / sums.n
    yy = sums.yy - np.outer(sums.y, sums.y) / sums.n
    xy = sums.xy - np.outer(sums.x, sums.y) / sums.n
    below = np.linalg.norm(xx) * np.linalg.norm(yy)
    return float((xy**2).sum() / below) if below > 0 else float("nan")


def cka_between(x: Float[np.ndarray, "token d"], y: Float[np.ndarray, "token e"]) -> float:
    """`cka` of two arrays held whole."""
    paired = PairedSums(x.shape[1], y.shape[1], blocks=1)
    paired.add(x, y, np.zeros(len(x), dtype=np.int64))
    return cka(paired.sums.weighted(np.ones(1)))


def moved(sums: Sums) -> float:
    """√(Σ‖y − x‖² / Σ‖x‖²); NaN for models of different width."""
    if sums.xx.shape != sums.yy.shape:
        return float("nan")
    change = np.trace(sums.xx) + np.trace(sums.yy) - 2 * np.trace(sums.xy)
    return float(np.sqrt(max(change, 0.0) / np.trace(sums.xx)))


def with_intervals(sums: Sums, seed: int = 0) -> dict[str, Figure]:
    """`cka` and `moved` over all blocks that hold tokens, with intervals over them."""
    used = sums.n > 0
    kept = Sums(*(part[used] for part in sums))
    n = int(used.sum())
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    whole = kept.weighted(np.ones(n))
    resampled = [kept.weighted(weights.astype(float)) for weights in drawn] if n > 1 else []
    found = {}
    for name, figure in (("cka", cka), ("moved", moved)):
        samples = np.array([figure(each) for each in resampled])
        bounds = np.nanquantile(samples, (0.025, 0.975)) if np.isfinite(samples).any() else (np.nan, np.nan)
        found[name] = Figure(figure(whole), *map(float, bounds))
    return found
