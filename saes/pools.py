"""The controls that latents are scored beside: PCA directions, random directions, a random dictionary.

All read the same tokens in the same units, z = (x − μ)/σ with models side by side.

    pca              z·u_i, u_i the eigenvectors of cov(z), both signs
    random_dense     (z − z̄)·r_j for random unit r_j, on every token, both signs, as PCA and neurons are
    random_sparse    the dictionary itself with random unit decoders, the encoder their transpose, and its own
                     way of choosing (a threshold calibrated to the same L0, or the k largest of a token); of a
                     transcoder random unit encoders, and decoders drawn apart from them
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saes import controls
from saes.arrays import Activations, in_order
from saes.calibrate import Units as Scaling
from saes.calibrate import calibrated, measure
from saes.candidates import SignedUnits
from saes.dictionary import Dictionary
from saes.transcoder_controls import random_transcoder

MOST_DIRECTIONS = 512  # of PCA, the leading ones


def normalised(activations: Activations, scaling: Scaling) -> Float[Tensor, "token flat"]:
    """All rows in the units of the controls."""
    return torch.cat([scaling.normalise(x) for x, _ in in_order(activations)])


def pca_directions(z: Float[Tensor, "token flat"]) -> SignedUnits:
    """Scores on the principal directions, both signs."""
    away = (z - z.mean(dim=0)).double()
    _, vectors = torch.linalg.eigh(away.T @ away)
    leading = vectors.flip(1)[:, :MOST_DIRECTIONS].float()
    return SignedUnits(np.ascontiguousarray((away.float() @ leading).T.numpy()))


def random_directions(z: Float[Tensor, "token flat"], n: int, seed: int) -> SignedUnits:
    """Scores on n random unit directions, both signs."""
    directions = controls.random_directions(n, z.shape[1], seed)
    values = np.empty((n, len(z)), np.float32)
    away = z - z.mean(dim=0)
    for at in range(0, n, 128):
        values[at : at + 128] = (directions[at : at + 128] @ away.T).numpy()
    return SignedUnits(values)


def random_dictionary(
    dictionary: Dictionary, activations: Activations, l0: float, seed: int, targets: Activations | None = None
) -> Dictionary:
    """A dictionary of the same size and way of choosing whose directions are random. `targets`: what a transcoder
    writes."""
    if targets is not None:
        k = min(max(1, round(l0)), dictionary.n_latents)
        return random_transcoder(activations, targets, dictionary.n_latents, k, dictionary.names, seed)
    scaling = measure(activations)
    rng = torch.Generator().manual_seed(seed)
    shape = dictionary.W_dec.shape
    flat = torch.nn.functional.normalize(torch.randn(shape[0], shape[1] * shape[2], generator=rng), dim=1)
    directions = flat.view(shape)
    W_enc = (directions / scaling.scales[:, None]).permute(1, 2, 0).contiguous()
    random = replace(
        dictionary,
        W_enc=W_enc,
        b_enc=-torch.einsum("md,mdf->f", scaling.mean, W_enc),
        W_dec=directions * scaling.scales[:, None],
        b_dec=scaling.mean,
        scales=scaling.scales,
        threshold=torch.zeros(shape[0]),
    )
    if dictionary.activation == "matching_pursuit":  # steps along decoders of length one in raw units
        return replace(random, W_dec=directions, W_enc=directions.permute(1, 2, 0).contiguous())
    if dictionary.activation != "jumprelu":
        return random
    k = min(max(1, round(l0)), dictionary.n_latents)
    return calibrated(replace(random, k=k), activations)
