"""Controls are what they say: PCA's residual, the largest coordinates, L0 = k, equal moments."""

import numpy as np
import pytest
import torch
from scipy.special import betainc

import saes
from saes import DictionaryError, TensorActivations
from saes.arrays import in_order
from saes.controls import GaussianLike, neurons, pca_dictionary, random_directions, random_like
from saes.heldout import heldout_sums
from saes.metrics import nearest_cosine
from tests.saes.planted import planted


@pytest.fixture(scope="module")
def skewed():
    """Activations of two models whose coordinates hang together, in unequal units."""
    x = planted(20_000, 40, 12, n_models=2, seed=3)[0]
    return TensorActivations(x * torch.tensor([1.0, 4.0]).view(1, 2, 1))


def test_gaussian_has_the_mean_and_covariance_of_what_it_is_like(skewed):
    n = 60_000
    gaussian = GaussianLike(skewed, n)
    x = torch.cat([part.x for part in in_order(gaussian)]).flatten(1).double()
    real = skewed.tensor.flatten(1).double()
    covariance = torch.cov(real.T, correction=0)
    deviation = covariance.diagonal().sqrt()
    # Standard errors: σ/√n of a mean, √((Σ_ii Σ_jj + Σ_ij²)/n) of a covariance.
    assert ((x.mean(0) - real.mean(0)).abs() < 5 * deviation / n**0.5).all()
    error = ((deviation[:, None] * deviation).square() + covariance.square()).div(n).sqrt()
    assert ((torch.cov(x.T) - covariance).abs() < 5 * error).all()
    kurtosis = ((x - x.mean(0)) / x.std(0)).pow(4).mean(0)
    assert kurtosis.tolist() == pytest.approx([3.0] * 24, abs=0.15)


def test_a_gaussian_row_is_the_same_in_any_order(skewed):
    gaussian = GaussianLike(skewed, 1000, seed=4)
    everything = gaussian[np.arange(1000)]
    rows = np.random.default_rng(0).permutation(1000)[:300]
    torch.testing.assert_close(gaussian[rows], everything[rows])
    other = gaussian.another(1000, seed=5)
    assert not torch.allclose(other[rows], everything[rows])
    with pytest.raises(DictionaryError, match="these very rows"):
        gaussian.another(10, seed=4)
    with pytest.raises(DictionaryError, match="1000 rows"):
        gaussian[np.array([1000])]


def test_pca_as_a_dictionary_is_pca(skewed):
    pca = saes.fit_pca(skewed, 3)
    sums = heldout_sums(pca_dictionary(pca, ("a", "b")), skewed)
    assert [sums.fvu(m).value for m in range(2)] == pytest.approx(pca.evaluate(skewed).tolist(), rel=1e-4)
    assert sums.l0().value == 6  # k in each of two models


def test_neurons_keep_the_coordinates_farthest_from_their_mean():
    """By hand: with k = 1, x − mean = (3, −5) keeps −5 and leaves 3² of 3² + 5²."""
    x = torch.tensor([[3.0, -5.0], [-3.0, 5.0]])[:, None] + torch.tensor([10.0, 20.0])
    dictionary = neurons(TensorActivations(x), 1, ("a",))
    torch.testing.assert_close(dictionary.reconstruct(x)[0, 0], torch.tensor([10.0, 15.0]))
    assert heldout_sums(dictionary, TensorActivations(x)).fvu(0).value == pytest.approx(9 / 34)
    everything = neurons(TensorActivations(x), 9, ("a",))
    assert heldout_sums(everything, TensorActivations(x)).fvu(0).value == pytest.approx(0, abs=1e-10)


def test_a_random_dictionary_has_the_l0_and_the_scale_it_should(skewed):
    dictionary = random_like(skewed, 64, 5, ("a", "b"))
    sums = heldout_sums(dictionary, skewed)
    assert sums.l0().value == pytest.approx(5, abs=0.01)
    for m in range(2):
        x = skewed.tensor[:, m].double()
        y = dictionary.reconstruct(skewed.tensor)[:, m].double() - dictionary.b_dec[m]
        scales = torch.linspace(0.8, 1.2, 5)
        errors = [float((x - x.mean(0) - s * (y - y.mean(0))).square().sum()) for s in scales]
        assert errors.index(min(errors)) == 2  # no other scale does better
        assert 0 < sums.fvu(m).value < 1


def test_random_directions_are_as_near_to_each_other_as_chance_has_it():
    """The cosine of two random directions in d dimensions has P(c ≤ t) = 1 − I_{1−t²}((d−1)/2, 1/2)/2."""
    n, d = 1500, 24
    t = np.linspace(0, 1, 20_001)
    below = 1 - 0.5 * betainc((d - 1) / 2, 0.5, 1 - t**2)
    expected = float(np.trapezoid(1 - below ** (n - 1), t))
    x = TensorActivations(torch.randn(4000, 1, d, generator=torch.Generator().manual_seed(0)))
    found = float(nearest_cosine(random_like(x, n, 4, ("a",))).mean())
    assert found == pytest.approx(expected, rel=0.01)
    assert random_directions(n, d, 0).norm(dim=1).tolist() == pytest.approx([1.0] * n)
