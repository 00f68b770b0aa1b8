"""Matches between dictionaries are what numpy says of dense columns; a copy is its own match."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from saes.index import FeatureIndex
from tests.tiny_lab import shared_lab
from workbench.errors import Misuse
from workbench.feature_match import Matches, correlations, matches, twins
from workbench.features import FeatureTable


@pytest.fixture(scope="module")
def sae() -> FeatureTable:
    return FeatureTable.of(shared_lab(), "sae-sft")


@pytest.fixture(scope="module")
def joint() -> FeatureTable:
    return FeatureTable.of(shared_lab(), "crosscoder")


def dense(index: FeatureIndex, latent: int) -> np.ndarray:
    out = np.zeros(index.n_tokens)
    tokens, values = index.entries(latent)
    out[tokens] = values
    return out


def test_correlations_are_those_of_dense_columns(sae, joint):
    latent = int(sae.table.sort("density", descending=True)["latent"][1])
    found = correlations(sae.index, latent, joint.index)
    own = dense(sae.index, latent)
    for other in range(joint.index.n_latents):
        column = dense(joint.index, other)
        slow = np.corrcoef(own, column)[0, 1] if column.any() else 0.0
        assert found[other] == pytest.approx(slow, abs=1e-9)


def test_a_latent_matches_itself_and_a_shuffled_copy_is_found(sae):
    latent = int(sae.table.sort("density", descending=True)["latent"][2])
    itself = matches(sae, latent, sae)
    assert itself.best() == (latent, pytest.approx(1), pytest.approx(1), pytest.approx(1))
    assert itself.best(but=latent).latent != latent
    assert itself.best(but=latent).score == pytest.approx(np.delete(itself.scores, latent).max())


def test_the_score_is_the_mean_and_either_part_may_be_missing(sae, joint):
    latent = int(joint.table.sort("density", descending=True)["latent"][0])
    found = matches(joint, latent, sae)
    best = found.best()
    assert best.score == pytest.approx((best.cosine + best.correlation) / 2)
    assert best.latent == int(((found.cosines + found.correlations) / 2).argmax())
    alone = Matches(None, found.correlations).best()
    assert (alone.cosine, alone.score) == (None, pytest.approx(found.correlations.max()))


def test_models_of_other_width_on_other_tokens_cannot_be_matched(sae, tmp_path):
    half = dataclasses.replace(
        sae.dictionary,
        W_enc=sae.dictionary.W_enc[:, :8],
        W_dec=sae.dictionary.W_dec[..., :8],
        b_dec=torch.zeros(1, 8),
    )
    other = dataclasses.replace(sae, name="narrow")
    other.__dict__["dictionary"] = half  # cached parts of another model
    assert matches(sae, 3, other).cosines is None
    other.__dict__["token_set"] = dataclasses.replace(sae.token_set, folder=tmp_path)
    with pytest.raises(Misuse, match="choose a latent by its number"):
        matches(sae, 3, other)


def test_twins_are_the_same_dictionary_of_other_checkpoints(sae, joint):
    twin = dataclasses.replace(sae, name="sae-base", checkpoints=("base",))
    seed = dataclasses.replace(sae, name="sae-sft-again")
    deeper = dataclasses.replace(twin, name="deeper", layer=3)
    assert [t.name for t in twins([joint, sae, seed, deeper, twin], sae)] == ["sae-base"]
