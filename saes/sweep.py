"""A grid of dictionaries trained together over one pass, and which of them nobody beats.

A point is on the (Pareto) front if no other has both fewer latents on and a better score. A wrong L0 gives
wrong features [arXiv 2508.16560], so k is swept rather than assumed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from saes.arrays import Activations
from saes.config import TrainConfig
from saes.dictionary import Dictionary
from saes.errors import DictionaryError
from saes.heldout import HeldoutSums, heldout_sums
from saes.metrics import nearest_cosine
from saes.trainer import fit_together


@dataclass(frozen=True)
class SweepPoint:
    """One dictionary's figures for one of the models it reads."""

    dictionary: str
    model: str
    arch: str
    width: int
    k: int
    l0: float
    fvu: float
    dead_share: float
    shrinkage: float
    nearest_cosine: float  # median over latents that fire


def grid(
    shared: TrainConfig, archs: Sequence[str], widths: Sequence[int], ks: Sequence[int]
) -> dict[str, TrainConfig]:
    """One configuration for each combination, by name."""
    if not archs or not widths or not ks:
        raise DictionaryError("a sweep needs at least one architecture, one width and one k")
    combinations = itertools.product(dict.fromkeys(archs), dict.fromkeys(widths), dict.fromkeys(ks))
    return {
        f"{arch}-w{width}-k{k}": replace(shared, arch=arch, n_latents=width, k=k)
        for arch, width, k in combinations
    }


def sweep(
    activations: Activations, configs: Mapping[str, TrainConfig], **options: Any
) -> dict[str, Dictionary]:
    """Train all of `configs` over one pass; each ends as it would alone. `options`: as of `fit_together`."""
    return dict(zip(configs, fit_together(activations, list(configs.values()), **options), strict=True))


def points(name: str, config: TrainConfig, dictionary: Dictionary, sums: HeldoutSums) -> list[SweepPoint]:
    """The figures of one dictionary, a point a model."""
    nearest = nearest_cosine(dictionary, sums.alive)
    median = float(np.nanmedian(nearest.numpy(force=True))) if sums.alive.sum() > 1 else float("nan")
    return [
        SweepPoint(
            dictionary=name,
            model=model,
            arch=config.arch,
            width=config.n_latents,
            k=config.k,
            l0=sums.l0().value,
            fvu=sums.fvu(m).value,
            dead_share=sums.dead_share,
            shrinkage=sums.shrinkage(m).value,
            nearest_cosine=median,
        )
        for m, model in enumerate(dictionary.names)
    ]


def measured(
    trained: Mapping[str, Dictionary], configs: Mapping[str, TrainConfig], heldout: Activations
) -> list[SweepPoint]:
    """The figures of all dictionaries of a sweep on held-out activations."""
    return [
        point
        for name, dictionary in trained.items()
        for point in points(name, configs[name], dictionary, heldout_sums(dictionary, heldout))
    ]


def front(l0: Float[np.ndarray, "point"], worse: Float[np.ndarray, "point"]) -> Bool[np.ndarray, "point"]:
    """Which points no other beats: none has at most their L0 and at most their `worse`, and less of one."""
    fewer = (l0[:, None] <= l0) & (worse[:, None] <= worse)
    strictly = (l0[:, None] < l0) | (worse[:, None] < worse)
    return np.logical_not((fewer & strictly).any(axis=0))
