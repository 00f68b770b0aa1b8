"""PCA with k components: the dense baseline a dictionary with L0 = k has to beat.

One basis a model: x̂^m = x̄^m + U_m U_mᵀ (x^m − x̄^m), U_m the k leading eigenvectors of that model's
covariance on the dictionary set. Scored on held-out tokens with the same FVU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, einsum

from saes.arrays import Activations, in_order
from saes.errors import DictionaryError
from saes.metrics import Scatter


@dataclass(frozen=True)
class PCA:
    mean: Float[Tensor, "model d"]
    basis: Float[Tensor, "model d component"]
    variances: Float[Tensor, "model d"]  # all eigenvalues, descending

    def reconstruct(self, x: Float[Tensor, "token model d"]) -> Float[Tensor, "token model d"]:
        scores = einsum("tmd,mdk->tmk", x - self.mean, self.basis)
        return einsum("tmk,mdk->tmd", scores, self.basis) + self.mean

    def evaluate(self, activations: Activations, limit: int | None = None) -> Float[Tensor, " model"]:
        """FVU per model on (held-out) activations."""
        scatter = Scatter()
        for x, _ in in_order(activations, limit=limit):
            scatter.add(x, self.reconstruct(x))
        return scatter.fvu()


def fit_pca(activations: Activations, k: int, limit: int | None = None) -> PCA:
    """Exact PCA from one pass: first and second moments in float64."""
    n, shift = 0, None
    first = second = torch.zeros((), dtype=torch.float64)
    for x, _ in in_order(activations, limit=limit):
        if shift is None:
            shift = x.double().mean(dim=0)
        away = x.double() - shift
        n += x.shape[0]
        first = first + away.sum(dim=0)
        second = second + einsum("tmd,tme->mde", away, away)
    if shift is None or n < 2:
        raise DictionaryError(f"PCA needs at least 2 tokens, found {n}")
    if not 1 <= k <= shift.shape[1]:
        raise DictionaryError(f"PCA with {k} components of {shift.shape[1]} coordinates is not possible")
    offset = first / n
    covariance = second / n - einsum("md,me->mde", offset, offset)
    values, vectors = torch.linalg.eigh(covariance)
    return PCA((shift + offset).float(), vectors.flip(2)[:, :, :k].float(), values.flip(1).float())
