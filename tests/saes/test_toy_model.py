"""The toy model: its definitions by hand, the arrangements it is known for, and an SAE that finds them."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import einsum

from saes.errors import DictionaryError
from saes.phase_diagram import (
    DEDICATED,
    NOT_REPRESENTED,
    PHASES,
    SUPERPOSED,
    PhaseConfig,
    pattern_probabilities,
    phase_diagram,
    quadrature,
)
from saes.recovery import match, random_mcc, recover
from saes.toy_model import (
    SHAPES,
    Toy,
    ToyConfig,
    dimensionality,
    features_per_dimension,
    fit,
    loss,
    nearest_shape,
    reconstruct,
    reconstruct_all,
    sample,
    train,
)


def to_the_end(run):
    steps = []
    while True:
        try:
            steps.append(next(run))
        except StopIteration as end:
            return steps, end.value


@cache
def trained(n: int, m: int) -> Toy:
    """Best of 16 seeds by loss, at density 0.05."""
    (toy,) = fit(ToyConfig(n=n, m=m, density=0.05))
    return toy


def polygon(corners: int) -> torch.Tensor:
    angle = 2 * math.pi * torch.arange(corners) / corners
    return torch.stack([angle.cos(), angle.sin()])


TETRAHEDRON = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])


@pytest.mark.parametrize(
    ("W", "shape"),
    [
        (torch.eye(3), "alone"),
        (torch.tensor([[1.0, -1.0]]), "antipodal pair"),
        (polygon(3), "triangle"),
        (polygon(5), "pentagon"),
        (TETRAHEDRON, "tetrahedron"),
    ],
)
def test_known_arrangements_have_their_dimensionality(W, shape):
    found = dimensionality(W)
    assert found.tolist() == pytest.approx([float(SHAPES[shape])] * W.shape[1], rel=1e-5)
    assert {nearest_shape(v) for v in found.tolist()} == {shape}
    assert dimensionality(7 * W).tolist() == pytest.approx(found.tolist())  # lengths do not matter


def test_an_absent_feature_has_no_dimension():
    W = torch.tensor([[1.0, 0.0]])
    assert dimensionality(W).tolist() == [1, 0]
    assert features_per_dimension(W) == 1


def test_loss_by_hand():
    """W = (1, −1), x = (½, 0): h = ½, pre = (½, −½), x̂ = (½, 0); x = (½, ¼) misses ¼ of each."""
    W, b = torch.tensor([[1.0, -1.0]]), torch.zeros(2)
    x = torch.tensor([[0.5, 0.0], [0.5, 0.25]])
    assert reconstruct(x, W, b).tolist() == [[0.5, 0.0], [0.25, 0.0]]
    importance = torch.tensor([1.0, 0.5])
    assert float(loss(x, reconstruct(x, W, b), importance)) == pytest.approx((1 + 0.5) / 16 / 2)


def test_every_run_of_a_batch_is_the_single_model():
    rng = torch.Generator().manual_seed(0)
    W, b = torch.randn(3, 4, 2, 5, generator=rng), torch.randn(3, 4, 5, generator=rng)
    x = sample(11, 5, torch.tensor([0.9, 0.5, 0.1]), rng)
    together = reconstruct_all(x, W, b)
    for d in range(3):
        for s in range(4):
            torch.testing.assert_close(together[d, s], reconstruct(x[d], W[d, s], b[d, s]))


def test_samples_are_as_dense_as_asked():
    densities = torch.tensor([1.0, 0.3, 0.01])
    x = sample(20_000, 5, densities, torch.Generator().manual_seed(0))
    assert (x > 0).double().mean(dim=(1, 2)).tolist() == pytest.approx(densities.tolist(), abs=0.01)
    assert float(x[0].mean()) == pytest.approx(0.5, abs=0.01)
    assert float(x.max()) <= 1


@pytest.mark.parametrize(("n", "m", "expected"), [(2, 1, 1 / 2), (6, 3, 1 / 2), (5, 2, 2 / 5)])
def test_training_reaches_the_arrangement(n, m, expected):
    toy = trained(n, m)
    assert dimensionality(toy.W).tolist() == pytest.approx([expected] * n, abs=0.02)


@pytest.mark.parametrize(("n", "m"), [(5, 2), (6, 3)])
def test_a_dictionary_recovers_the_features(n, m):
    steps, found = to_the_end(recover(trained(n, m)))
    assert found.features == list(range(n))
    assert found.matched.mcc >= 0.95
    assert found.matched.cosines.min() >= 0.95  # with their signs: a latent fires for its feature, not against
    assert found.random_mcc < found.matched.mcc - 0.03
    assert [s.step for s in steps] == sorted({s.step for s in steps})


def test_progress_ends_with_what_is_returned_and_a_seed_repeats_it():
    config = ToyConfig(n=3, m=2, steps=60, batch_size=64, n_seeds=2)
    steps, found = to_the_end(train(config, [0.5, 0.1], report_every=20))
    assert [s.step for s in steps] == [20, 40, 60]
    assert [t.density for t in found] == [0.5, 0.1]
    assert all(t.loss == s.loss for t, s in zip(found, steps[-1].toys, strict=True))
    again = fit(config, [0.5, 0.1])
    assert all(torch.equal(a.W, b.W) for a, b in zip(found, again, strict=True))


def test_a_dense_feature_of_no_importance_is_left_out():
    (toy,) = fit(ToyConfig(n=2, m=1, density=1.0, importance_decay=0.1, steps=600, n_seeds=4))
    assert features_per_dimension(toy.W) == pytest.approx(1, abs=0.1)
    assert dimensionality(toy.W).tolist() == pytest.approx([1, 0], abs=0.05)


def test_matching_is_the_best_of_all_matchings():
    rng = torch.Generator().manual_seed(0)
    truth = torch.randn(4, 3, generator=rng)
    order = [2, 0, 3, 1]
    found = match(truth, -5 * truth[order])
    assert found.mcc == pytest.approx(1)
    assert [order[j] for j in found.latents] == found.features.tolist()
    assert found.cosines.tolist() == pytest.approx([-1] * 4)
    assert random_mcc(truth[:, :1], 4) == pytest.approx(1)  # in one dimension all directions are one


def test_quadrature_is_the_expectation():
    """E x = density/2 and E x₁x₂ = density²/4 for independent features."""
    density = torch.tensor([0.3])
    x, share = quadrature(8)
    weight = einsum("dp,xp->dx", pattern_probabilities(density), share)[0]
    assert float(weight.sum()) == pytest.approx(1)
    assert (weight @ x).tolist() == pytest.approx([0.15, 0.15])
    assert float(weight @ x.prod(dim=1)) == pytest.approx(0.3**2 / 4)


def test_phases_lie_where_they_should_and_mirror_each_other():
    _, found = to_the_end(phase_diagram(PhaseConfig(size=9)))
    phase = [[PHASES[p] for p in row] for row in found.phase.tolist()]
    assert phase[-1][0] == NOT_REPRESENTED  # dense, the other feature matters more
    assert phase[-1][-1] == DEDICATED
    assert set(phase[0]) == {SUPERPOSED}  # rare features share whatever matters
    swapped = {NOT_REPRESENTED: DEDICATED, DEDICATED: NOT_REPRESENTED, SUPERPOSED: SUPERPOSED}
    for row in phase[:-1]:
        assert row[:4] == [swapped[p] for p in reversed(row[5:])]
    both = found.weights[:-1][found.phase[:-1] == PHASES.index(SUPERPOSED)]
    assert (both.prod(dim=1) < 0).all()  # an antipodal pair


@pytest.mark.parametrize(
    "settings",
    [
        {"n": 0},
        {"m": 10_000},
        {"density": 0.0},
        {"density": float("nan")},
        {"importance_decay": 2.0},
        {"lr": -1.0},
    ],
)
def test_bad_settings_are_sentences(settings):
    with pytest.raises(DictionaryError, match=r"has to (lie|be)"):
        ToyConfig(**settings)


def test_nothing_to_recover_is_a_sentence():
    with pytest.raises(DictionaryError, match="represents no feature"):
        next(recover(Toy(torch.zeros(1, 2), torch.zeros(2), 0.1, 0.0)))
