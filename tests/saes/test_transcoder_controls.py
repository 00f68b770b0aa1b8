"""A transcoder's controls are what they say: the least-squares map and its best low rank, the largest neurons."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

import saes
from saes import DictionaryError, TensorActivations
from saes.heldout import heldout_sums
from saes.transcoder_controls import RIDGE, largest_neurons, linear_maps, random_transcoder


@pytest.fixture(scope="module")
def pairs():
    """Inputs with unequal scales and a mean; outputs with a linear part of falling strength and one that is not."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(6_000, 10, generator=rng) * torch.linspace(0.5, 3, 10) + 2
    W = torch.randn(10, 7, generator=rng) * torch.linspace(2, 0.1, 7)
    y = x @ W + torch.relu(x @ torch.randn(10, 7, generator=rng)) - 4
    return TensorActivations(x[:, None]), TensorActivations(y[:, None])


def fvu(dictionary, x, y=None):
    return heldout_sums(dictionary, x, targets=y).fvu(0).value


def test_the_full_map_is_ridge_regression(pairs):
    x, y = pairs
    (full,) = linear_maps(x, y, (7,), ("m",))
    X, Y = x.tensor[:, 0].double().numpy(), y.tensor[:, 0].double().numpy()
    alpha = RIDGE * X.var(axis=0).mean() * len(X)
    expected = Ridge(alpha=alpha).fit(X, Y).predict(X)
    np.testing.assert_allclose(full.reconstruct(x.tensor)[:, 0].numpy(), expected, atol=2e-4)
    assert fvu(full, x, y) == pytest.approx(
        ((Y - expected) ** 2).sum() / ((Y - Y.mean(0)) ** 2).sum(), rel=1e-4
    )


def test_no_map_of_its_rank_does_better(pairs):
    """Reduced-rank regression against the truncated map through PCA of the output, and gradient descent from it."""
    x, y = pairs
    full, low, everything = linear_maps(x, y, (7, 2, 50), ("m",))
    assert torch.linalg.matrix_rank(low.W_enc[0] @ low.W_dec[:, 0]) == 2
    assert heldout_sums(low, x, targets=y).l0().value == 2
    assert everything.n_latents == 7
    assert fvu(full, x, y) < fvu(low, x, y)
    best = fvu(low, x, y)
    pca = saes.fit_pca(y, 2).basis[0]
    B = full.W_enc[0] @ full.W_dec[:, 0]
    through_pca = (x.tensor[:, 0] - x.tensor[:, 0].mean(0)) @ B @ pca @ pca.T
    away = y.tensor[:, 0] - y.tensor[:, 0].mean(0)
    assert best < float((away - through_pca).square().sum() / away.square().sum())
    left, right = low.W_enc[0].clone().requires_grad_(), low.W_dec[:, 0].clone().requires_grad_()
    loss = (
        away - (x.tensor[:, 0] - x.tensor[:, 0].mean(0)) @ left @ right
    ).square().sum() / away.square().sum()
    loss.backward()
    assert loss.item() == pytest.approx(best, rel=1e-4)
    assert max(left.grad.abs().max(), right.grad.abs().max()) < 2e-4  # a stationary point


def test_the_neurons_that_write_most_are_kept_by_hand():
    """h − mean = (3, −2) and writes of length 1 and 2: the second writes more, and with k = 1 it alone is kept."""
    h = torch.tensor([[4.0, 1.0], [-2.0, 5.0]])
    W_out = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    y = h @ W_out.T + torch.tensor([0.0, 0.0, 5.0])
    made = largest_neurons(TensorActivations(h[:, None]), TensorActivations(y[:, None]), W_out, 1, ("m",))
    torch.testing.assert_close(
        made.reconstruct(h[:, None])[:, 0], torch.tensor([[1.0, 2.0, 5.0], [1.0, 10.0, 5.0]])
    )
    both = largest_neurons(TensorActivations(h[:, None]), TensorActivations(y[:, None]), W_out, 9, ("m",))
    torch.testing.assert_close(both.reconstruct(h[:, None])[:, 0], y)


def test_random_directions_fire_as_often_and_explain_next_to_nothing(pairs):
    x, y = pairs
    made = random_transcoder(x, y, 64, 5, ("m",), seed=1)
    sums = heldout_sums(made, x, targets=y)
    assert sums.l0().value == pytest.approx(5, rel=0.02)
    assert 0.5 < sums.fvu(0).value < 1
    encoders = made.W_enc[0].T * x.tensor[:, 0].std(dim=0).square().mean().sqrt()
    torch.testing.assert_close(encoders.norm(dim=1), torch.ones(64), rtol=1e-3, atol=1e-3)


def test_what_cannot_be_is_refused(pairs, tmp_path):
    x, y = pairs
    with pytest.raises(DictionaryError, match="6000 rows of inputs need as many of targets, found 5"):
        linear_maps(x, TensorActivations(y.tensor[:5]), (2,), ("m",))
    (low,) = linear_maps(x, y, (2,), ("m",))
    with pytest.raises(DictionaryError, match="no transcoder of 'abstopk' latents"):
        saes.folder.save(low, tmp_path / "low")
    assert not (tmp_path / "low").exists()
