"""Absorption: a child's latent takes over what the parent's latent should say [Chanin 2024].

The parent is on (`entity/person`), its latent is silent, and a child's latent (`Mira`) fires instead. That
alone may be chance, so a token counts only where the child's decoder also points along the parent's probe
direction w and supplies more than half of the code's projection on it:

    ⟨d_c, w⟩ > 0    and    Σ_j f_j ⟨d_j, w⟩ > 0    and    f_c ⟨d_c, w⟩ > ½ Σ_j f_j ⟨d_j, w⟩

(Where the whole code points away from the parent there is nothing that a child could have supplied.)

The latents of parent and child are those with the best F1 on the first half. A parent whose best latent fires
on less than half of its tokens there has no latent that could be absorbed: it is *split* (`saes.splitting`),
and is left out. w is the discriminant direction (Σ + λ)⁻¹(μ_on − μ) of the activations on the first half.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix

from saes.arrays import Activations, read
from saes.candidates import SparseUnits
from saes.factors import FactorTable, Halves
from saes.resampling import Resampled, Resamples
from saes.single_units import HalvedPool

HELD = 0.5  # share of the parent's tokens that its latent has to fire on
MOST_OF = 0.5  # share of the projection that the child's latent has to supply
SHRINK = 1e-3  # λ as a share of the mean variance


class Absorbed(NamedTuple):
    """`n` tokens with the child on; the parent's latent is silent on `missed` of them, a share is absorbed."""

    parent: int
    child: int
    parent_latent: int
    child_latent: int
    n: int
    missed: int
    share: Resampled


class Absorption(NamedTuple):
    """Pairs that could be looked at; of `n_parents` with children `n_held` have a latent of their own."""

    pairs: list[Absorbed]
    n_parents: int
    n_held: int


def probe_directions(
    activations: Activations, rows: Int[np.ndarray, " token"], table: FactorTable
) -> Float[np.ndarray, "factor flat"]:
    """w of every factor; `rows` are the table's tokens in the activations, models side by side."""
    d = read(activations, rows[:1]).flatten(1).shape[1]
    n, first, second = 0, np.zeros(d), np.zeros((d, d))
    by_factor = np.zeros((table.n_factors, d))
    labels = table.labels.astype(np.float64)
    for at in range(0, len(rows), 8192):
        x = read(activations, rows[at : at + 8192]).flatten(1).double().numpy()
        n += len(x)
        first, second = first + x.sum(axis=0), second + x.T @ x
        by_factor = by_factor + labels[at : at + 8192].T @ x
    mean = first / n
    covariance = second / n - np.outer(mean, mean)
    covariance += SHRINK * np.trace(covariance) / len(mean) * np.eye(len(mean))
    away = by_factor / np.maximum(table.positives, 1)[:, None] - mean
    return np.linalg.solve(covariance, away.T).T


def absorption(
    pool: HalvedPool,
    decoder: Float[np.ndarray, "latent flat"],
    directions: Float[np.ndarray, "factor flat"],
    halves: Halves,
    resamples: Resamples,
) -> Absorption:
    """Every pair of a held parent and its child; `decoder` and `directions` in the same units."""
    assert isinstance(pool.first, SparseUnits)
    assert isinstance(pool.second, SparseUnits)
    best = pool.best("f1", np.flatnonzero(pool.able))
    code = pool.second.matrix().tocsr()
    pairs: list[Absorbed] = []
    parents = sorted({int(p) for p in halves.first.parents if p >= 0})
    held = 0
    for parent in parents:
        latent = int(best[parent])
        if not _held(pool.first, latent, halves.first.column(parent)):
            continue
        held += 1
        along = decoder @ directions[parent]
        children = np.flatnonzero(halves.first.parents == parent)
        pairs += _pairs(parent, latent, children, best, along, code, halves.second, resamples)
    return Absorption(pairs, len(parents), held)


def _held(units: SparseUnits, latent: int, on: Bool[np.ndarray, " token"]) -> bool:
    fires = on[units.entries(latent).tokens].sum()
    return bool(fires >= HELD * np.count_nonzero(on))


def _pairs(
    parent: int,
    latent: int,
    children: Int[np.ndarray, " child"],
    best: Int[np.ndarray, " factor"],
    along: Float[np.ndarray, " latent"],
    code: csr_matrix,
    second: FactorTable,
    resamples: Resamples,
) -> Iterator[Absorbed]:
    projection = code @ along
    silent = np.asarray(code[:, [latent]].toarray()).ravel() == 0
    for child in children:
        child_latent = int(best[child])
        if child_latent == latent:
            continue
        on = second.column(int(child))
        supplied = np.asarray(code[:, [child_latent]].toarray()).ravel() * along[child_latent]
        most = (projection > 0) & (supplied > MOST_OF * projection)
        absorbed = on & silent & (supplied > 0) & most
        share = resamples.ratio(absorbed.astype(float), on.astype(float))
        missed = int((on & silent).sum())
        yield Absorbed(parent, int(child), latent, child_latent, int(on.sum()), missed, share)


def flat_decoder(W_dec: torch.Tensor) -> Float[np.ndarray, "latent flat"]:
    """A dictionary's decoder with its models side by side, as `probe_directions` reads activations."""
    return W_dec.flatten(1).double().cpu().numpy()
