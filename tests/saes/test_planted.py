"""A truth planted in the activations of a real model: the scorer and the trainer find it, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from saes import DictionaryError, FeatureIndex, TensorActivations
from saes.arrays import ActivationArrays
from saes.candidates import SparseUnits
from saes.factors import FactorTable, halved
from saes.ground_truth import ground_truth, means
from saes.planted import DENSITY, METRICS, holding, plant, planted_truth
from tests.tiny_lab import shared_lab


@pytest.fixture(scope="module")
def activations() -> ActivationArrays:
    """The residual stream of the tiny lab's base model on its held-out tokens."""
    return ActivationArrays([shared_lab().find("activations", "base").path / "heldout.npy"])


@pytest.fixture(scope="module", params=[0, 1])
def truth(request, activations):
    torch.set_num_threads(1)
    return planted_truth(activations, seed=request.param)


def test_the_scorer_finds_the_planted_units(truth):
    """16 directions in some 7,000 tokens of a stream of 32 coordinates."""
    assert truth.tokens > 6_000
    assert (truth.features, truth.d) == (16, 32)
    assert truth.scorer_finds
    assert min(truth.held[m].mean for m in ("unit_auroc", "unit_ap", "unit_f1")) > 0.98
    assert truth.held["mcc"].low > 0.95
    for metric in METRICS:  # a random dictionary of the same size is nowhere near
        assert truth.random[metric].high < truth.held[metric].low - 0.2


def test_shuffled_labels_are_chance(truth):
    assert truth.scorer_invents_nothing
    # not "within its interval", which leaves the truth out one time in twenty
    assert truth.shuffled["unit_auroc"].mean == pytest.approx(0.5, abs=0.01)
    assert truth.shuffled["unit_ap"].mean == pytest.approx(DENSITY, abs=0.01)


def test_an_sae_recovers_the_planted_directions(truth):
    assert truth.trainer_recovers
    assert truth.recovered >= 0.9
    assert truth.recovered_random < 0.6


def test_each_bound_can_be_missed(truth):
    low = {metric: truth.random[metric] for metric in METRICS}
    assert not replace(truth, held=low).scorer_finds
    assert not replace(truth, shuffled=truth.held).scorer_invents_nothing
    assert not replace(truth, recovered=0.89).trainer_recovers


def test_a_scorer_that_reads_the_wrong_units_would_be_caught(activations):
    """The same dictionary with its directions turned away from what was planted does not pass."""
    planted = plant(activations)
    other = replace(planted, directions=plant(activations, seed=5).directions)
    tokens, features = np.nonzero(planted.on)
    names = tuple(map(str, range(planted.on.shape[1])))
    halves = halved(FactorTable.of(tokens, features, np.arange(len(planted.on)) // 64, names))
    index = FeatureIndex.build(holding(other), planted.activations)
    (asked,) = ground_truth({"turned": SparseUnits(index)}, halves).asked
    found = means(asked)
    assert max(found[m].value for m in METRICS if m != "unit_auroc") < 0.8


def test_what_was_there_stays_and_only_the_marked_tokens_move(activations):
    planted = plant(activations)
    x = activations[np.arange(len(activations))]
    moved = (planted.activations.tensor - x).norm(dim=2).squeeze(1)
    carries = torch.from_numpy(planted.on.any(axis=1))
    assert not moved[~carries].any()
    alone = torch.from_numpy(planted.on.sum(axis=1) == 1)
    assert moved[alone].min() >= 0.99 * planted.length
    assert moved[alone].max() <= 1.31 * planted.length


def test_several_models_are_refused():
    with pytest.raises(DictionaryError, match="one model's activations, found those of 2"):
        plant(TensorActivations(torch.randn(100, 2, 8)))
