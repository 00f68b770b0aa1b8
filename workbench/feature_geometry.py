"""Directions of latents: which of another dictionary points the same way, and all of them on a plane.

A direction is the unit vector of a latent's decoder: of an SAE d_j / ‖d_j‖; of a crosscoder either one
checkpoint's decoder, or all of them side by side in normalised units (`Dictionary.scales`).

    cosine of i and j = ⟨d_i/‖d_i‖, d_j/‖d_j‖⟩
    map: the two axes along which the unit directions vary most (PCA; the sign is set so that the largest
    coordinate is positive, so that one dictionary has one map)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saes.dictionary import Dictionary
from workbench.errors import Misuse


class Match(NamedTuple):
    """The latent of another dictionary that points most nearly the same way."""

    latent: int
    cosine: float


class Plane(NamedTuple):
    """Coordinates `[latent, 2]` and the share of the directions' variance along each axis."""

    places: Float[np.ndarray, "latent 2"]
    shares: tuple[float, float]


def unit_directions(dictionary: Dictionary, checkpoint: str | None = None) -> Float[Tensor, "latent d"]:
    """Unit decoders in one checkpoint; with None those of all its checkpoints side by side. A latent without
    a decoder stays zero."""
    if checkpoint is None:
        rows = (dictionary.W_dec / dictionary.scales[:, None]).flatten(1)
    else:
        rows = dictionary.W_dec[:, dictionary.model_index(checkpoint)]
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def shared_checkpoints(first: Dictionary, second: Dictionary) -> tuple[str, str]:
    """The checkpoint in whose decoders each is compared: one that both read, else the last of each."""
    both = [name for name in first.names if name in second.names]
    return (both[-1], both[-1]) if both else (first.names[-1], second.names[-1])


def cosines(first: Dictionary, latent: int, second: Dictionary) -> Float[np.ndarray, "latent"]:
    """Cosine of a latent's decoder with every decoder of `second`."""
    if first.d_out != second.d_out:
        raise Misuse(
            f"their decoders lie in spaces of {first.d_out} and {second.d_out} dimensions: no cosine can be taken"
        )
    own, other = shared_checkpoints(first, second)
    return (unit_directions(second, other) @ unit_directions(first, own)[latent]).numpy()


def best_match(first: Dictionary, latent: int, second: Dictionary) -> Match:
    """The nearest latent of `second` by decoder cosine; within one dictionary, the nearest other one."""
    found = cosines(first, latent, second)
    if first is second:
        found[latent] = -np.inf
    best = int(found.argmax())
    return Match(best, float(found[best]))


def plane(directions: Float[Tensor, "latent d"]) -> Plane:
    """Two-dimensional PCA, from the eigenvectors of the covariance (d × d, however many latents)."""
    if directions.shape[1] < 2:
        raise Misuse(f"decoders of {directions.shape[1]} dimension have no plane: a map needs two")
    centred = (directions - directions.mean(dim=0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors[:, -2:].flip(1)
    signs = torch.sign(axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)))
    total = float(values.sum()) or 1.0
    shares = (float(values[-1]) / total, float(values[-2]) / total)
    return Plane((centred @ (axes * signs)).numpy(), shares)
