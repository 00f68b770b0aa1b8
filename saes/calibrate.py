"""Units and thresholds: what is measured on activations before and after training.

Before: the mean μ^m and the scale σ_m (σ_m² = mean per-coordinate variance), so that training sees (x − μ)/σ.
After: one θ on the score f_j·Σ_m‖d_j^m‖ such that L0 = k [Bussmann 2024]; a latent's own threshold is
θ/Σ_m‖d_j^m‖. A slow moving average of the batch thresholds, as is usual, leaves short runs several times too
dense.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saes.arrays import Activations, in_order, read, spread
from saes.dictionary import Dictionary
from saes.errors import DictionaryError

MEASURE_ROWS = 131_072
CALIBRATION_ROWS = 65_536


@dataclass(frozen=True)
class Units:
    """x = μ + σ·z: what turns raw activations into the z that training sees."""

    mean: Float[Tensor, "model d"]
    scales: Float[Tensor, " model"]

    def to(self, device: str) -> Units:
        return Units(self.mean.to(device), self.scales.to(device))

    def normalise(self, x: Float[Tensor, "token model d"]) -> Float[Tensor, "token flat"]:
        return ((x - self.mean) / self.scales[:, None]).flatten(1)


def measure(activations: Activations) -> Units:
    """μ and σ from up to `MEASURE_ROWS` rows spread over the set."""
    x = read(activations, spread(activations, MEASURE_ROWS)).double()
    mean = x.mean(dim=0)
    scales = (x - mean).square().mean(dim=(0, 2)).sqrt()
    if not bool((scales > 0).all()):
        which = (scales <= 0).nonzero().squeeze(1).tolist()
        raise DictionaryError(
            f"activations of model {which[0]} never vary, so there is nothing to learn from them"
        )
    return Units(mean.float(), scales.float())


@torch.no_grad()
def calibrated(dictionary: Dictionary, activations: Activations, limit: int = CALIBRATION_ROWS) -> Dictionary:
    """The dictionary with thresholds such that L0 = k on (held-out) activations."""
    norms = dictionary.decoder_norms().sum(dim=1)
    rows = spread(activations, limit)
    n = dictionary.k * len(rows)
    largest = _largest_scores(dictionary, activations, rows, norms, first_bound=None)
    if len(largest) <= n:  # the first chunk was far denser than the rest: take every positive score
        largest = _largest_scores(dictionary, activations, rows, norms, first_bound=0.0)
    # n scores lie strictly above the (n+1)-th largest.
    theta = largest.kthvalue(len(largest) - n).values if len(largest) > n else norms.new_zeros(())
    return replace(dictionary, threshold=theta / norms.clamp_min(1e-12))


@torch.no_grad()
def with_measured_k(dictionary: Dictionary, activations: Activations, limit: int | None = None) -> Dictionary:
    """A dictionary of thresholds from elsewhere, which says of no k that it was trained for one, with its L0 on
    these activations for it, rounded and at least 1. Where k selects (`topk` and the like) it stays."""
    if dictionary.activation != "jumprelu":
        return dictionary
    entries, tokens = 0, 0
    for x, _ in in_order(activations, limit=limit):
        entries += len(dictionary.encode_sparse(x.to(dictionary.device)).rows)
        tokens += len(x)
    return replace(dictionary, k=max(1, round(entries / max(tokens, 1))))


def _largest_scores(
    dictionary: Dictionary, activations: Activations, rows: np.ndarray, norms: Tensor, first_bound: float | None
) -> Float[Tensor, " score"]:
    """Scores above a bound; by default one that passes 2k a token of the first chunk."""
    kept, bound = [], first_bound
    for start in range(0, len(rows), 4096):
        x = read(activations, rows[start : start + 4096]).to(dictionary.device)
        scores = F.relu(dictionary.preactivations(x)).mul_(norms).flatten()
        if bound is None:
            most = min(2 * dictionary.k * len(x), len(scores))
            bound = float(scores.topk(most, sorted=False).values.min())
        kept.append(scores[scores > bound])
    return torch.cat(kept)
