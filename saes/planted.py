"""A planted truth: known directions added to real activations, and what the scorer and the trainer make of them.

    x' = x + Σ_i s_i · σ√d · w_i        s_i ∈ [1, 1.3] on a share `DENSITY` of the tokens, else 0

w_i are random unit vectors. σ√d is the rms length of x − x̄: a planted feature is as long as all that was there
before. Which tokens carry it is drawn independently of x, so nothing but the addition links them. Three things
have to come out, whatever the model:

    held       a dictionary whose decoder *is* w, read by the matched filter Σ⁻¹w (Σ the covariance of x'),
               scores near 1 by every metric: the scorer finds what is there
    shuffled   the same units with the labels of other tokens score as chance: it finds nothing else
    recovered  an SAE trained on x' has a decoder near each w: mean |cosine| over optimally matched pairs (MCC),
               beside that of as many random directions (in few dimensions any direction lies near some other)

At half the length, or on 2 % of the tokens, an SAE of this size misses some of 16 directions with one seed in two:
that measures the trainer, and is no test of the scorer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes.arrays import BLOCK_ROWS, Activations, TensorActivations, read, spread
from saes.calibrate import measure
from saes.candidates import SparseUnits
from saes.config import TOPK, TrainConfig
from saes.controls import random_directions
from saes.dictionary import Dictionary
from saes.errors import DictionaryError
from saes.factors import FactorTable, Halves, halved
from saes.ground_truth import Mean, ground_truth, means, with_interval
from saes.index import FeatureIndex
from saes.matching import cosines, mcc
from saes.pools import random_dictionary
from saes.trainer import fit

HELD, RANDOM = "held", "random"
METRICS = ("unit_auroc", "unit_ap", "unit_f1", "mcc")
FOUND = 0.9  # what every metric of the held dictionary, and the SAE's MCC, have to reach
CHANCE = 0.05  # how far from chance shuffled labels may score
DENSITY, STRONGER = 0.05, 0.3
MOST_FEATURES = 32
MOST_TOKENS = 8_192
OTHERS = 4  # latents a token that the SAE may spend on what was there before
RIDGE = 1e-4  # of Σ, as a share of the mean variance


@dataclass(frozen=True)
class Planted:
    """Activations with the directions in them, and the tokens that carry each."""

    activations: TensorActivations
    directions: Float[Tensor, "feature d"]
    on: Bool[np.ndarray, "token feature"]
    length: float  # of the weakest planted feature


@dataclass(frozen=True)
class PlantedTruth:
    """What was found of `features` directions in `tokens` tokens of `d` coordinates."""

    tokens: int
    features: int
    d: int
    seed: int
    held: Mapping[str, Mean]
    random: Mapping[str, Mean]  # a random dictionary of the same size, asked the same
    shuffled: Mapping[str, Mean]
    recovered: float
    recovered_random: float

    @property
    def scorer_finds(self) -> bool:
        return all(self.held[metric].mean >= FOUND for metric in METRICS)

    @property
    def scorer_invents_nothing(self) -> bool:
        return abs(self.shuffled["unit_auroc"].mean - 0.5) <= CHANCE and self.shuffled["mcc"].mean <= CHANCE

    @property
    def trainer_recovers(self) -> bool:
        return self.recovered >= FOUND and self.recovered > self.recovered_random


def plant(activations: Activations, seed: int = 0) -> Planted:
    """Directions added to (up to `MOST_TOKENS` of) one model's activations, half as many as coordinates."""
    x = read(activations, spread(activations, MOST_TOKENS))
    n, n_models, d = x.shape
    if n_models != 1:
        raise DictionaryError(f"a truth is planted in one model's activations, found those of {n_models}")
    n_features = min(MOST_FEATURES, max(1, d // 2))
    rng = torch.Generator().manual_seed(seed)
    directions = random_directions(n_features, d, seed)
    on = torch.rand(n, n_features, generator=rng) < DENSITY
    length = float(measure(TensorActivations(x)).scales[0]) * d**0.5
    strength = on * (1 + STRONGER * torch.rand(n, n_features, generator=rng)) * length
    return Planted(TensorActivations(x + (strength @ directions)[:, None]), directions, on.numpy(), length)


def holding(planted: Planted) -> Dictionary:
    """A dictionary that holds the directions; a latent fires from half of the weakest feature's length on."""
    x = planted.activations.tensor[:, 0].double()
    w = planted.directions.double()
    mean = x.mean(dim=0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    covariance += RIDGE * covariance.trace() / len(mean) * torch.eye(len(mean), dtype=torch.float64)
    filters = torch.linalg.solve(covariance, w.T)
    filters /= (filters * w.T).sum(dim=0)  # so that a latent says how far the feature goes
    n = len(w)
    return Dictionary(
        W_enc=filters[None].float(),
        b_enc=-(mean @ filters).float(),
        W_dec=planted.directions[:, None].clone(),
        b_dec=mean[None].float(),
        threshold=torch.full((n,), planted.length / 2),
        scales=torch.ones(1),
        names=("model0",),
        k=max(1, round(DENSITY * n)),
    )


def recovered(planted: Planted, seed: int = 0) -> Dictionary:
    """An SAE trained on the activations."""
    n_features = len(planted.directions)
    k = max(1, round(DENSITY * n_features)) + OTHERS
    config = TrainConfig(
        arch=TOPK, n_latents=4 * n_features, k=min(k, 4 * n_features), k_start=2 * k, n_steps=300,
        batch_size=min(512, len(planted.activations)), seed=seed,
    )  # fmt: skip
    return fit(planted.activations, config)


def planted_truth(activations: Activations, seed: int = 0) -> PlantedTruth:
    """Plant, score, shuffle, train."""
    planted = plant(activations, seed)
    held = holding(planted)
    index = FeatureIndex.build(held, planted.activations)
    l0 = max(1.0, len(index.tokens) / index.n_tokens)
    random = random_dictionary(held, planted.activations, l0, seed + 1)
    pools = {
        HELD: SparseUnits(index),
        RANDOM: SparseUnits(FeatureIndex.build(random, planted.activations)),
    }
    scored = _scored(pools, _halves(planted.on, seed), seed)
    others = planted.on[np.random.default_rng(seed).permutation(len(planted.on))]
    shuffled = _scored({HELD: pools[HELD]}, _halves(others, seed), seed)
    found = recovered(planted, seed).W_dec[:, 0]
    directions = planted.directions.numpy()
    by_chance = random_directions(len(found), found.shape[1], seed + 1).numpy()
    return PlantedTruth(
        tokens=len(planted.on),
        features=len(directions),
        d=found.shape[1],
        seed=seed,
        held=scored[HELD],
        random=scored[RANDOM],
        shuffled=shuffled[HELD],
        recovered=mcc(cosines(found.numpy(), directions)),
        recovered_random=mcc(cosines(by_chance, directions)),
    )


def _halves(on: Bool[np.ndarray, "token feature"], seed: int) -> Halves:
    """Labels know nothing of the text, so neighbouring tokens stand for documents."""
    tokens, features = np.nonzero(on)
    names = tuple(f"planted {i}" for i in range(on.shape[1]))
    return halved(FactorTable.of(tokens, features, np.arange(len(on)) // BLOCK_ROWS, names), seed)


def _scored(pools: Mapping[str, SparseUnits], halves: Halves, seed: int) -> dict[str, dict[str, Mean]]:
    """Each pool's means with all the candidates it has."""
    answers = {asked.pool: asked for asked in ground_truth(pools, halves, seed).asked}  # the last has most
    return {
        pool: {metric: with_interval(found) for metric, found in means(asked).items() if metric in METRICS}
        for pool, asked in answers.items()
    }
