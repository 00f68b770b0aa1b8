"""Matching latents: itself at 1, an order that was shuffled is found, random ones at what chance gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import saes
from saes import DictionaryError, TensorActivations, TrainConfig, stability
from saes.controls import random_directions
from saes.stability import NOBODY, match, match_directions, mean_cosines, random_matching
from tests.saes.planted import planted, random_dictionary

SMALL = TrainConfig(n_latents=48, k=3, n_steps=500, batch_size=256, k_start=12)


@pytest.fixture(scope="module")
def seeds():
    """Three runs together: two with the same seed."""
    x = TensorActivations(planted(12_000, 32, 32)[0])
    return saes.fit_together(x, [replace(SMALL, seed=s) for s in (0, 0, 1)])


def test_equal_seeds_match_at_one_and_planted_directions_are_found_again(seeds):
    one, twin, other = seeds
    everything = np.ones(48, dtype=bool)
    same = match(one, twin)
    assert same.partner.tolist() == list(range(48))
    assert same.mean(everything) == pytest.approx(1)
    between = match(one, other)
    assert len(set(between.partner.tolist())) == 48  # one to one
    by_chance = random_matching(48, 48, 32)
    assert by_chance.mean(everything) + 0.2 < between.mean(everything) < 1
    # 32 of the 48 were planted: most of them both runs found
    assert between.share(0.9, everything) > 0.4 > by_chance.share(0.9, everything)
    assert mean_cosines([same, between]) == pytest.approx((same.cosine + between.cosine) / 2)


def test_a_shuffled_dictionary_is_matched_back():
    dictionary = random_dictionary(n_models=2, n_latents=30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    shuffled = replace(dictionary, W_dec=3 * dictionary.W_dec[order])
    found = match(dictionary, shuffled)
    assert found.cosine == pytest.approx(np.ones(30), abs=1e-6)
    assert order[found.partner].tolist() == list(range(30))


def test_only_those_among_take_part():
    dictionary = random_dictionary(n_latents=20)
    among, others = np.arange(20) < 15, np.arange(20) >= 5
    found = match(dictionary, dictionary, among, others)
    assert (found.partner[15:] == NOBODY).all()
    assert set(found.partner[:15]) <= set(range(5, 20))
    fewer = match(dictionary, dictionary, among, np.arange(20) < 4)
    assert (fewer.partner != NOBODY).sum() == 4
    assert fewer.mean(among) == pytest.approx(4 / 15, abs=1e-6)  # without a partner: 0


def test_mutual_nearest_is_the_optimum_where_directions_return(monkeypatch):
    a = random_directions(200, 16, 0)
    b = a[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    best = match_directions(a, b)
    monkeypatch.setattr(stability, "OPTIMAL_LATENTS", 100)
    quick = match_directions(a, b)
    assert best.optimal
    assert not quick.optimal
    assert (quick.partner == best.partner).all()
    chance = random_matching(200, 200, 16)
    assert (chance.partner == NOBODY).any()
    assert (chance.cosine[chance.partner == NOBODY] == 0).all()


def test_random_directions_match_near_the_expectation():
    """Optimal pairs cannot be nearer than each direction's nearest, whose mean is known, nor much farther."""
    n, width = 400, 32
    found = random_matching(n, n, width, seed=7)
    a, b = random_directions(n, width, 15), random_directions(n, width, 16)
    nearest = float((a @ b.T).max(dim=1).values.mean())
    mean = found.mean(np.ones(n, dtype=bool))
    assert 0.8 * nearest < mean < nearest


def test_unlike_decoders_cannot_be_matched():
    with pytest.raises(DictionaryError, match=r"\[1, 8\] and \[2, 8\]"):
        match(random_dictionary(), random_dictionary(n_models=2))
