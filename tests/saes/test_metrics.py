"""Metrics and PCA against numbers computed by hand."""

import pytest
import torch

import saes
from saes import DictionaryError, TensorActivations
from saes.metrics import Firing, Scatter, nearest_cosine
from tests.saes.planted import random_dictionary


def test_fvu_by_hand():
    """x = 0, 2, 4 has variance sum 8 about its mean; a reconstruction that is 1 off on one token leaves
    1/8."""
    x = torch.tensor([0.0, 2.0, 4.0]).view(3, 1, 1)
    x_hat = torch.tensor([0.0, 3.0, 4.0]).view(3, 1, 1)
    assert saes.fvu(x, x_hat).item() == pytest.approx(1 / 8)
    assert saes.fvu(x, x).item() == 0


def test_fvu_of_the_mean_is_one_even_far_from_zero():
    x = torch.randn(1000, 2, 4) + 1000
    assert saes.fvu(x, x.mean(0).expand_as(x)).tolist() == pytest.approx([1, 1], rel=1e-4)


def test_sums_do_not_depend_on_the_batches():
    x, x_hat = torch.randn(100, 2, 3), torch.randn(100, 2, 3)
    scatter = Scatter()
    for start, end in ((0, 7), (7, 70), (70, 100)):
        scatter.add(x[start:end], x_hat[start:end])
    torch.testing.assert_close(scatter.fvu(), saes.fvu(x, x_hat))


def test_l0_and_dead_by_hand():
    latents = torch.tensor([[0.0, 1.0, 0.0], [2.0, 3.0, 0.0]])
    assert saes.l0(latents) == 1.5
    assert saes.dead_share(latents) == pytest.approx(1 / 3)
    firing = Firing(3)
    firing.add(torch.tensor([1]), 1)
    firing.add(torch.tensor([0, 1]), 1)
    assert (firing.l0(), firing.dead_share()) == (1.5, pytest.approx(1 / 3))


def test_evaluate_is_the_dense_computation():
    dictionary, x = random_dictionary(2), torch.randn(5000, 2, 8)
    scores = saes.evaluate(dictionary, TensorActivations(x))
    latents = dictionary.encode(x)
    assert scores.l0 == saes.l0(latents)
    assert scores.dead_share == saes.dead_share(latents)
    expected = saes.fvu(x, dictionary.decode(latents)).tolist()
    assert list(scores.fvu.values()) == pytest.approx(expected, rel=1e-5)


def test_pca_leaves_the_small_eigenvalues():
    x = torch.randn(4000, 2, 6) * torch.tensor([5.0, 4, 3, 2, 1, 0.5]) + 3
    pca = saes.fit_pca(TensorActivations(x), k=2)
    for m in range(2):
        values = torch.linalg.eigvalsh(torch.cov(x[:, m].double().T))
        expected = float(values[:4].sum() / values.sum())
        assert pca.evaluate(TensorActivations(x))[m].item() == pytest.approx(expected, rel=1e-4)


def test_pca_with_every_component_is_exact():
    x = torch.randn(100, 1, 5)
    assert saes.fit_pca(TensorActivations(x), 5).evaluate(TensorActivations(x)).item() < 1e-9
    with pytest.raises(DictionaryError, match="6 components of 5"):
        saes.fit_pca(TensorActivations(x), 6)


def test_nearest_cosine_of_a_repeated_row_is_one():
    dictionary = random_dictionary()
    dictionary.W_dec[3] = 2 * dictionary.W_dec[5]
    assert nearest_cosine(dictionary)[[3, 5]].tolist() == pytest.approx([1, 1])
