"""What a dictionary finds where there is nothing to find: Gaussian activations of equal mean and covariance.

    y_i = μ + A (z_i − z̄),   A = S_x^{1/2} S_z^{−1/2},   z_i standard normal, a function of (seed, i) alone

A Gaussian has no features beyond its covariance, so alive latents, FVU and L0 of a dictionary trained on it say
how much of a figure comes from width and covariance alone. z̄ and S_z are the noise's own, so that mean and
covariance agree with those of the given activations exactly, not in the mean over noise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saes.arrays import Activations, in_order
from saes.errors import DictionaryError

CHUNK = 8_192


class Moments(NamedTuple):
    """Of all models' coordinates together, in float64."""

    mean: Float[Tensor, " coordinate"]
    covariance: Float[Tensor, "coordinate coordinate"]
    n_models: int


def moments(activations: Activations) -> Moments:
    """Mean and covariance (divided by n), in one pass."""
    total, shift, models = 0, None, 1
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0
    for x, _ in in_order(activations, CHUNK):
        flat, models = x.flatten(1).double(), x.shape[1]
        shift = flat.mean(dim=0) if shift is None else shift  # so that Σx² − (Σx)²/n loses nothing
        away = flat - shift
        total += len(away)
        first = first + away.sum(dim=0)
        second = second + away.T @ away
    if shift is None or total < 2:
        raise DictionaryError(f"a covariance needs at least 2 tokens, found {total}")
    offset = torch.as_tensor(first) / total
    return Moments(shift + offset, torch.as_tensor(second) / total - torch.outer(offset, offset), models)


class GaussianLike:
    """`n_rows` Gaussian rows with exactly these moments; a row's noise depends on (seed, row) alone."""

    def __init__(self, like: Moments, n_rows: int, seed: int = 0) -> None:
        width = len(like.mean)
        if n_rows <= width:
            raise DictionaryError(
                f"{n_rows} rows cannot have a covariance of {width} coordinates; ask for more than {width}"
            )
        self._n_rows, self._seed, self._n_models = n_rows, seed, like.n_models
        self._shape, self._shift = torch.eye(width, dtype=torch.float64), torch.zeros(width).double()
        raw = moments(self)
        values, vectors = torch.linalg.eigh(raw.covariance)
        whiten = vectors * values.rsqrt() @ vectors.T
        values, vectors = torch.linalg.eigh(like.covariance)
        colour = vectors * values.clamp_min(0).sqrt() @ vectors.T
        self._shape = whiten @ colour
        self._shift = like.mean - raw.mean @ self._shape

    def __len__(self) -> int:
        return self._n_rows

    def __getitem__(self, rows: np.ndarray) -> Float[Tensor, "token model d"]:
        parts = [self._rows(rows[at : at + CHUNK]) for at in range(0, len(rows), CHUNK)]
        return torch.cat(parts).unflatten(1, (self._n_models, -1))

    def _rows(self, rows: np.ndarray) -> Float[Tensor, "token coordinate"]:
        noise = torch.from_numpy(standard_normal(rows, len(self._shift), self._seed))
        return noise @ self._shape.float() + self._shift.float()


def standard_normal(rows: np.ndarray, width: int, seed: int) -> Float[np.ndarray, "row coordinate"]:
    """float32 noise by counting: SplitMix64 of (seed, row, coordinate), then Box and Muller's transform.

    A generator seeded anew for each row would be right too, and a hundred times slower.
    """
    half = -(-width // 2)
    key = _mixed(np.array([seed], dtype=np.uint64))
    counter = np.asarray(rows, dtype=np.uint64)[:, None] * np.uint64(half) + np.arange(half, dtype=np.uint64)
    bits = _mixed(_mixed(counter) ^ key)
    first = ((bits >> np.uint64(32)).astype(np.float32) + 0.5) * np.float32(2**-32)
    second = (bits & np.uint64(0xFFFFFFFF)).astype(np.float32) * np.float32(2 * np.pi * 2**-32)
    radius = np.sqrt(-2 * np.log(np.minimum(first, np.float32(1 - 2**-24))))
    return np.concatenate([radius * np.cos(second), radius * np.sin(second)], axis=1)[:, :width]


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's output function [Steele 2014], modulo 2^64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
