"""Sums over held-out tokens: exact where the answer is known, the same however they are grouped."""

import numpy as np
import pytest
import torch

import saes
from saes import Dictionary, DictionaryError, TensorActivations
from saes.heldout import heldout_sums
from saes.metrics import nearest_cosine
from tests.saes.planted import random_dictionary


def identity(d: int) -> Dictionary:
    """x̂ = x: every coordinate a latent, all kept."""
    eye = torch.eye(d)
    return Dictionary(
        W_enc=eye[None], b_enc=torch.zeros(d), W_dec=eye[:, None], b_dec=torch.zeros(1, d),
        threshold=torch.zeros(d), scales=torch.ones(1), names=("m0",), k=d, activation="abstopk",
    )  # fmt: skip


def test_identity_leaves_nothing_unexplained():
    sums = heldout_sums(identity(6), TensorActivations(torch.randn(500, 1, 6)))
    assert sums.fvu(0).value == 0
    assert sums.shrinkage(0).value == pytest.approx(1)
    assert sums.l0().value == 6
    assert sums.dead_share == 0


def test_sums_are_the_dense_computation_whatever_the_groups():
    dictionary, x = random_dictionary(2), torch.randn(5000, 2, 8)
    group = np.random.default_rng(0).integers(0, 37, size=5000)
    sums = heldout_sums(dictionary, TensorActivations(x), group)
    scores = saes.evaluate(dictionary, TensorActivations(x))
    assert [sums.fvu(m).value for m in range(2)] == pytest.approx(list(scores.fvu.values()), rel=1e-5)
    found = [sums.shrinkage(m).value for m in range(2)]
    assert found == pytest.approx(list(scores.shrinkage.values()), rel=1e-5)
    assert (sums.l0().value, sums.dead_share) == pytest.approx((scores.l0, scores.dead_share))
    latents = dictionary.encode(x)
    assert sums.fires.tolist() == (latents > 0).sum(dim=0).tolist()
    assert sums.entries[3] == int((latents[group == 3] > 0).sum())


def test_tokens_that_do_not_count_are_as_if_they_were_not_there():
    dictionary, x = random_dictionary(), torch.randn(900, 1, 8)
    counted = np.arange(900) % 3 > 0
    x[~counted] *= 1e4
    some = heldout_sums(dictionary, TensorActivations(x), counted=counted)
    alone = heldout_sums(dictionary, TensorActivations(x[counted]))
    assert some.n_tokens == alone.n_tokens == 600
    assert some.fvu(0).value == pytest.approx(alone.fvu(0).value)
    assert (some.fires == alone.fires).all()
    with pytest.raises(DictionaryError, match="found 1"):
        heldout_sums(dictionary, TensorActivations(x), counted=np.arange(900) == 5)


def test_nearest_cosine_among_some_is_that_of_a_dictionary_of_them():
    dictionary = random_dictionary()
    among = np.arange(dictionary.n_latents) % 2 == 0
    found = nearest_cosine(dictionary, among)
    assert torch.isnan(found[1::2]).all()
    rows = torch.nn.functional.normalize(dictionary.W_dec[::2, 0], dim=1)
    expected = (rows @ rows.T - 2 * torch.eye(len(rows))).max(dim=1).values
    torch.testing.assert_close(found[::2], expected)
