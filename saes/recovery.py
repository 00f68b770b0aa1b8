"""Does a sparse dictionary find the features that a toy model holds in superposition?

A TopK SAE with one latent a feature is trained on hidden vectors h = W x; only samples with some feature on,
since h = 0 teaches nothing. k is the number of features on in the mean, rounded down. (BatchTopK spends what
weak samples save on strong ones, and three directions, two at a time, span a plane: it reconstructs well with
directions of its own.) Of several seeds the one with the least FVU stands; the truth is not asked. Then every
feature that the toy represents is matched with a latent.

    MCC = mean over matched pairs of |cos(d_j, W_i)|,  the matching that makes it largest

In few dimensions any directions lie near some others, so the same figure for random ones stands beside it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes import trainer
from saes.arrays import TensorActivations
from saes.config import TOPK, TrainConfig
from saes.errors import DictionaryError
from saes.metrics import evaluate
from saes.toy_model import Toy, represented, sample
from saes.trainer import Step

NAME = "toy"
SAMPLES = 60_000
SEEDS = 4
RANDOM_DRAWS = 32
SIGN = 1e-3  # what agreement in sign is worth in a matching: in an antipodal pair |cosine| cannot choose


@dataclass(frozen=True)
class Matched:
    """Optimal pairs of features (rows of `truth`) and latents, with their signed cosines."""

    features: Int[np.ndarray, " pair"]
    latents: Int[np.ndarray, " pair"]
    cosines: Float[np.ndarray, " pair"]

    @property
    def mcc(self) -> float:
        return float(np.abs(self.cosines).mean())


@dataclass(frozen=True)
class Recovery:
    """The SAE's directions, what they were matched to, and how well it reconstructs h."""

    features: list[int]  # those the toy represents; the others are not in h
    decoder: Float[Tensor, "latent hidden"]
    matched: Matched
    random_mcc: float
    fvu: float
    l0: float
    dead_share: float


def match(truth: Float[Tensor, "feature d"], found: Float[Tensor, "latent d"]) -> Matched:
    """Pair every row of the smaller set with one of the other: Σ|cosine| is largest, signs break ties."""
    from scipy.optimize import linear_sum_assignment

    if not len(truth) or not len(found):
        raise DictionaryError("matching needs at least one direction on either side")
    cosines = torch.nn.functional.normalize(truth, dim=1) @ torch.nn.functional.normalize(found, dim=1).T
    rows, columns = linear_sum_assignment(-(cosines.abs() + SIGN * cosines).numpy())
    return Matched(rows, columns, cosines.numpy()[rows, columns])


def random_mcc(truth: Float[Tensor, "feature d"], n_latents: int, seed: int = 0) -> float:
    """Mean MCC of as many random directions."""
    rng = torch.Generator().manual_seed(seed)
    draws = [torch.randn(n_latents, truth.shape[1], generator=rng) for _ in range(RANDOM_DRAWS)]
    return sum(match(truth, draw).mcc for draw in draws) / RANDOM_DRAWS


def hidden(toy: Toy, n_samples: int, seed: int) -> tuple[Float[Tensor, "sample hidden"], float]:
    """h = W x of samples with a represented feature on, and how many of those are on in the mean."""
    held = represented(toy.W)
    rng = torch.Generator().manual_seed(seed)
    level = torch.tensor([toy.density])
    kept: list[Tensor] = []
    while sum(map(len, kept)) < n_samples:
        x = sample(n_samples, toy.W.shape[1], level, rng)[0]
        kept.append(x[(x[:, held] > 0).any(dim=1)])
    x = torch.cat(kept)[:n_samples]
    return x @ toy.W.T, float((x[:, held] > 0).sum(dim=1).float().mean())


def recover(toy: Toy, seed: int = 0, n_steps: int = 400) -> Generator[Step, None, Recovery]:
    """Train SAEs on the toy's hidden vectors; yields the first one's steps, returns what the best found."""
    held = represented(toy.W)
    if not held:
        raise DictionaryError("this toy model represents no feature: there is nothing to recover")
    h, active = hidden(toy, SAMPLES, seed + 1)
    config = TrainConfig(
        arch=TOPK,
        n_latents=len(held),
        k=max(1, int(active)),
        n_steps=n_steps,
        batch_size=512,
        lr=0.03,
        k_anneal_share=0.2,
    )
    seeds = [replace(config, seed=seed + i) for i in range(SEEDS)]
    run = trainer.train_together(TensorActivations(h[:, None]), seeds, names=(NAME,))
    while True:
        try:
            yield next(run)[0]
        except StopIteration as end:
            trained = end.value
            break
    fresh = TensorActivations(hidden(toy, SAMPLES // 4, seed + 2)[0][:, None])
    scored = [(evaluate(dictionary, fresh), dictionary) for dictionary in trained]
    scores, dictionary = min(scored, key=lambda pair: pair[0].fvu[NAME])
    truth, decoder = toy.W.T[held], dictionary.W_dec[:, 0]
    return Recovery(
        features=held,
        decoder=decoder,
        matched=match(truth, decoder),
        random_mcc=random_mcc(truth, len(decoder)),
        fvu=scores.fvu[NAME],
        l0=scores.l0,
        dead_share=scores.dead_share,
    )
