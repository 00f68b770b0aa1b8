"""Gaussian activations: the moments are the given ones exactly, the rows are Gaussian and repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest, kurtosis

from saes.arrays import TensorActivations
from saes.controls import GaussianLike, moments, standard_normal
from saes.errors import DictionaryError
from tests.saes.planted import planted


@pytest.fixture(scope="module")
def given():
    x, _ = planted(6_000, 30, 5, n_models=2)
    return TensorActivations(x)


def test_moments_are_numpys(given):
    found = moments(given)
    flat = given.tensor.flatten(1).double().numpy()
    np.testing.assert_allclose(found.mean, flat.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.covariance, np.cov(flat.T, bias=True), atol=1e-9)


@pytest.mark.parametrize("n_rows", [200, 20_000])
def test_mean_and_covariance_are_the_given_ones(given, n_rows):
    like = moments(given)
    found = moments(GaussianLike(like, n_rows))
    np.testing.assert_allclose(found.mean, like.mean, atol=1e-5)
    np.testing.assert_allclose(found.covariance, like.covariance, atol=1e-5)
    assert found.n_models == 2


def test_rows_are_gaussian_and_the_given_ones_are_not(given):
    made = GaussianLike(moments(given), 20_000)[np.arange(20_000)]
    assert made.shape == (20_000, 2, 5)
    assert abs(kurtosis(made[:, 1, 3].numpy())) < 0.15
    assert kurtosis(given.tensor[:, 1, 3].numpy()) > 0.3


def test_noise_is_standard_normal_and_independent():
    noise = standard_normal(np.arange(40_000), 7, seed=3)
    assert kstest(noise.ravel()[:100_000], "norm").pvalue > 0.001
    correlations = np.corrcoef(np.concatenate([noise[:-1], noise[1:]], axis=1).T)
    assert np.abs(correlations - np.eye(14)).max() < 0.03


def test_a_row_is_the_same_however_it_is_asked_for(given):
    like = moments(given)
    made = GaussianLike(like, 20_000)
    rows = np.array([19_999, 3, 12_345, 3])
    torch.testing.assert_close(made[rows], made[np.arange(20_000)][torch.from_numpy(rows)])
    assert not torch.allclose(made[rows], GaussianLike(like, 20_000, seed=1)[rows])


def test_too_few_rows_are_a_sentence(given):
    with pytest.raises(DictionaryError, match="more than 10"):
        GaussianLike(moments(given), 10)
