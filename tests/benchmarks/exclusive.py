"""How often "this latent is one checkpoint's alone" is wrong: by relative norm and by latent scaling.

    python -m tests.benchmarks.exclusive [--json] [--quick]

Two truths. `features`: activations superposed from features of which some are one model's alone; a latent is of
the feature that its decoder is nearest to. `factors`: the demo lab's base and sft; a latent follows the factor of
the world that its activation tells best (F1 at least `FOLLOWS`, threshold and score on different documents), and
what really is new in sft are the factors of chats, which base never met (`NEW`). A false positive is a latent of a
feature that both have, called one model's; a true positive is a latent of one model's feature, called its. Each for
the BatchTopK and for the L1 crosscoder, with Wilson intervals.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import nn

import saes
from saes.arrays import ActivationArrays, Activations
from saes.dictionary import Dictionary
from saes.index import FeatureIndex
from saes.latent_scaling import latent_scaling
from tests.benchmarks import report
from tests.benchmarks.sae_training import ACTIVE
from workbench.comparison import BOUNDS
from workbench.followed_factors import followed
from workbench.intervals import wilson
from workbench.lab import Lab
from workbench.tokens import token_set

ARCHS = ("batchtopk", "l1")
NEAR = 0.7  # cosine of a decoder with its feature
FOLLOWS = 0.3  # F1
NEW = ("dialogue/answer", "dialogue/question", "form/direct", "form/worked")
D, FEATURES, LATENTS, K = 64, 512, 1_024, 12
OWN, TURNED = 0.3, 0.3  # share of features that one model has alone; how far the others lie apart


class Superposed(NamedTuple):
    """`[token, model, d]`; each feature's direction in each model `[feature, model, d]`; its owner (-1: both)."""

    x: torch.Tensor
    directions: torch.Tensor
    owner: np.ndarray


def superposed(n_tokens: int, seed: int = 0) -> Superposed:
    """Sparse features on at the same tokens in both models, some without a direction in one of them; the features
    are the same for every `seed` of the tokens."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal((FEATURES, D), dtype=np.float32)
    owner = np.where(rng.random(FEATURES) < OWN, rng.integers(2, size=FEATURES), -1)
    turned = common[:, None] + TURNED * rng.standard_normal((FEATURES, 2, D), dtype=np.float32)
    directions = nn.functional.normalize(torch.from_numpy(turned), dim=2)
    for model in range(2):
        directions[torch.from_numpy(owner == 1 - model), model] = 0
    drawn = np.random.default_rng([1, seed])
    share = 1 / np.arange(1, FEATURES + 1) ** 0.5
    chosen = torch.from_numpy(drawn.choice(FEATURES, (n_tokens, ACTIVE), p=share / share.sum()))
    strengths = torch.from_numpy(drawn.exponential(1.0, (n_tokens, ACTIVE)).astype(np.float32))
    flat = nn.functional.embedding_bag(chosen, directions.flatten(1), per_sample_weights=strengths, mode="sum")
    noise = torch.from_numpy(drawn.standard_normal((n_tokens, 2, D), dtype=np.float32))
    return Superposed(flat.view(n_tokens, 2, D) + 0.03 * noise, directions, owner)


def owners_by_feature(crosscoder: Dictionary, truth: Superposed) -> np.ndarray:
    """[latent]: the owner of the feature that it is of; -2 where it is near none."""
    own = crosscoder.relative_norms().argmax(dim=1)
    rows = torch.arange(crosscoder.n_latents)
    decoder = nn.functional.normalize(crosscoder.W_dec[rows, own], dim=1)
    cosines = torch.stack([decoder @ truth.directions[:, m].T for m in range(2)]).amax(dim=0)
    best = cosines.max(dim=1)
    return np.where((best.values > NEAR).numpy(), truth.owner[best.indices.numpy()], -2)


def owners_by_factor(crosscoder: Dictionary, heldout: Activations, lab: Lab) -> np.ndarray:
    """[latent]: 1 (sft) where it follows a factor that only chats have, -1 where one that base was trained on, -2
    where none well enough."""
    best = followed(FeatureIndex.build(crosscoder, heldout).strengths(), token_set(lab, "base"))
    best = best.filter(pl.col("rank") == 0, pl.col("f1") >= FOLLOWS)
    owner = np.full(crosscoder.n_latents, -2)
    owner[best["latent"].to_numpy()] = np.where(best["factor"].is_in(NEW).to_numpy(), 1, -1)
    return owner


def called(crosscoder: Dictionary, activations: Activations, groups: np.ndarray) -> dict[str, np.ndarray]:
    """rule → [latent model]: called that model's alone, of those that fire."""
    scaled = latent_scaling(crosscoder, activations, groups)
    norm = crosscoder.relative_norms().numpy() >= BOUNDS["exclusive"]
    fires = (scaled.fires > 0)[:, None]
    specific = np.stack([scaled.specific(name) for name in crosscoder.names], axis=1)
    return {"norm": norm & fires, "scaling": specific & fires, "norm and scaling": norm & specific & fires}


def rates(rules: dict[str, np.ndarray], owner: np.ndarray) -> Iterator[dict[str, Any]]:
    """False and true positives of each rule with their intervals."""
    for rule, found in rules.items():
        wrong = found[owner == -1].any(axis=1)
        right = np.concatenate([found[owner == m, m] for m in range(2)])
        told: dict[str, Any] = {"rule": rule}
        for name, hits in (("false_positive", wrong), ("true_positive", right)):
            ends = wilson(int(hits.sum()), len(hits)) if len(hits) else (None, None)
            told[name] = {"hits": int(hits.sum()), "n": len(hits), "low": ends[0], "high": ends[1]}
        yield told


def config_of(arch: str, n_latents: int, k: int, n_steps: int) -> saes.TrainConfig:
    """The same for both architectures but for the rate that suits each."""
    return saes.TrainConfig(
        arch=arch,
        n_latents=n_latents,
        k=k,
        n_steps=n_steps,
        lr=1e-2 if arch == "batchtopk" else 3e-3,
        decoder_norm=0.1,
    )


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """A row a truth, architecture and rule."""
    n_steps = 60 if quick else 350
    truth = superposed(20_000 if quick else 120_000)
    for arch in ARCHS:
        crosscoder = saes.fit(saes.TensorActivations(truth.x), config_of(arch, LATENTS, K, n_steps))
        held = saes.TensorActivations(superposed(20_000, seed=1).x)
        groups = np.arange(20_000) % 64
        for row in rates(called(crosscoder, held, groups), owners_by_feature(crosscoder, truth)):
            yield {"truth": "features", "arch": arch, **row}
    lab = Lab.open("demo")
    sets = ("dictionary", "heldout")
    read, heldout = (
        ActivationArrays([lab.find("activations", n).path / f"{name}.npy" for n in ("base", "sft")])
        for name in sets
    )
    document = np.asarray(token_set(lab, "base").document)
    for arch in ARCHS:
        crosscoder = saes.fit(
            read, config_of(arch, 2_048, 16, n_steps), names=("base", "sft"), calibration=heldout
        )
        for row in rates(called(crosscoder, heldout, document), owners_by_factor(crosscoder, heldout, lab)):
            yield {"truth": "factors", "arch": arch, **row}


def main() -> None:
    switches = report.parse("How often a latent is wrongly called one checkpoint's alone.")
    found = []
    for row in rows(switches.quick):
        report.say(str(row))
        found.append(row)
    report.write_rows("exclusive", found, switches.json)


if __name__ == "__main__":
    sys.exit(main())
