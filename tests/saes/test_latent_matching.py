"""Latents are matched by where they point and fire: a permutation is recovered, chance gives what chance gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from saes.arrays import TensorActivations
from saes.index import FeatureIndex
from saes.latent_matching import (
    CORRELATION,
    COSINE,
    CRITERIA,
    MEAN,
    AllPairs,
    Codes,
    Resampler,
    random_rotation,
    resampled_correlation,
)
from saes.matching import Matching
from tests.saes.planted import planted, random_dictionary


def index_of(f: np.ndarray) -> FeatureIndex:
    """From dense latents [token latent]."""
    rows, latents = f.nonzero()
    return FeatureIndex.from_entries(rows, latents, f[rows, latents], n_latents=f.shape[1], n_tokens=len(f))


def sparse_code(n_tokens: int, n_latents: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((n_tokens, n_latents)) < 0.1) * (1 + rng.random((n_tokens, n_latents)))


def test_two_latents_by_hand() -> None:
    """f = (1, 0, 0, 1), g = (2, 0, 0, 0): covariance 2/4 − 1/2·1/2 = 1/4, spreads 1/2 and √3/2."""
    f, g = np.array([[1.0, 0, 0, 1]]).T, np.array([[2.0, 0, 0, 0]]).T
    everything = np.ones(4, dtype=bool)
    own, other = Codes.of(index_of(f), everything), Codes.of(index_of(g), everything)
    assert own.correlations(other).item() == pytest.approx(1 / 4 / (1 / 2 * np.sqrt(3) / 2))
    without_first = Codes.of(index_of(f), np.array([False, True, True, True]))
    assert without_first.mean.item() == pytest.approx(1 / 3)
    assert without_first.f.toarray().tolist() == [[0, 0, 1]]


def test_correlations_are_numpys() -> None:
    f, g = sparse_code(300, 12), sparse_code(300, 9, seed=1)
    counted = np.random.default_rng(2).random(300) < 0.8
    found = Codes.of(index_of(f), counted).correlations(Codes.of(index_of(g), counted))
    slow = np.corrcoef(f[counted].T, g[counted].T)[:12, 12:]
    assert found == pytest.approx(slow, abs=1e-6)


def test_latents_that_fire_rarely_or_beyond_the_most_are_left_out() -> None:
    f = np.zeros((50, 4))
    for latent, fires in enumerate((3, 0, 20, 10)):
        f[:fires, latent] = 1.0
    everything = np.ones(50, dtype=bool)
    assert Codes.of(index_of(f), everything).latent.tolist() == [0, 2, 3]
    assert Codes.of(index_of(f), everything, fewest=10).latent.tolist() == [2, 3]
    assert Codes.of(index_of(f), everything, most=1).latent.tolist() == [2]


def test_a_permuted_and_rotated_copy_is_recovered() -> None:
    """The dictionary of a rotated stream, its latents in another order: it fires alike, and its decoders rotated
    back are the same."""
    own = random_dictionary(n_latents=30, d=8)
    x = planted(3_000, 16, 8)[0]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    q = torch.from_numpy(random_rotation(8, seed=3)).float()
    copy = replace(
        own,
        W_enc=torch.einsum("mdf,de->mef", own.W_enc, q)[:, :, order],
        W_dec=(own.W_dec @ q)[order],
        b_enc=own.b_enc[order],
        threshold=own.threshold[order],
        b_dec=own.b_dec @ q,
    )
    everything = np.ones(3_000, dtype=bool)
    here, there = (
        Codes.of(FeatureIndex.build(d, TensorActivations(a)), everything) for d, a in ((own, x), (copy, x @ q))
    )
    assert len(here.latent) == len(there.latent) > 10
    decoders = own.W_dec[here.latent, 0].numpy(), copy.W_dec[there.latent, 0].numpy()
    found = AllPairs.of(*decoders, here, there)
    pairs = found.matched(CORRELATION)
    assert found.correlation[pairs] == pytest.approx(np.ones(len(pairs.rows)), abs=1e-4)
    assert (order.numpy()[there.latent[pairs.columns]] == here.latent[pairs.rows]).all()
    back = AllPairs.of(decoders[0], decoders[1] @ q.numpy().T, here, there)
    for criterion in CRITERIA:
        again = back.matched(criterion)
        assert (order.numpy()[there.latent[again.columns]] == here.latent[again.rows]).all()
        assert back.cosine[again] == pytest.approx(np.ones(len(again.rows)), abs=1e-5)


def test_a_rotation_keeps_lengths_and_forgets_directions() -> None:
    q = random_rotation(40, seed=5)
    assert q @ q.T == pytest.approx(np.eye(40), abs=1e-12)
    rng = np.random.default_rng(0)
    d = rng.normal(size=(200, 40))
    cosines = np.einsum("jd,jd->j", d, d @ q) / np.einsum("jd,jd->j", d, d)
    assert abs(cosines.mean()) < 0.05  # a random direction's: 0 with a spread of 1/√40
    assert cosines.std() == pytest.approx(1 / np.sqrt(40), rel=0.3)


def test_shuffled_tokens_leave_only_what_independence_gives() -> None:
    f = sparse_code(4_000, 20)
    own = Codes.of(index_of(f), np.ones(4_000, dtype=bool))
    assert np.diag(own.correlations(own)) == pytest.approx(np.ones(20))
    order = np.random.default_rng(1).permutation(4_000)
    moved = own.shuffled(order)
    assert moved.f.toarray()[:, order] == pytest.approx(own.f.toarray())
    assert moved.fires.tolist() == own.fires.tolist()
    null = own.correlations(moved)
    assert null.std() == pytest.approx(1 / np.sqrt(4_000), rel=0.2)
    assert abs(null.mean()) < 3 / np.sqrt(4_000 * 400)


def test_the_nearest_need_not_be_the_partner() -> None:
    """Both of the other side come nearest to the first; one to one, only one of them has it."""
    similarity = np.array([[0.9, 0.8], [0.1, 0.0]])
    found = AllPairs(similarity, np.zeros((2, 2)))
    assert found.best(COSINE).latent.tolist() == [0, 0]
    assert found.best(COSINE, of_own=True).value.tolist() == [0.9, 0.1]
    pairs = found.matched(COSINE)
    assert found.cosine[pairs].sum() == pytest.approx(0.9)
    assert found.by(MEAN) == pytest.approx(similarity / 2)


def test_all_blocks_drawn_once_give_the_figure_itself() -> None:
    f, g = sparse_code(500, 6), sparse_code(500, 6, seed=3)
    g[:, 0] = f[:, 0]
    everything = np.ones(500, dtype=bool)
    own, other = Codes.of(index_of(f), everything), Codes.of(index_of(g), everything)
    pairs = Matching(np.arange(6), np.arange(6))
    block = np.repeat(np.arange(5), 100)
    whole = _resampled(own, other, pairs, Resampler(block, np.ones((1, 5))))
    assert whole.item() == pytest.approx(np.diag(own.correlations(other)).mean())
    two = _resampled(own, other, pairs, Resampler(block, np.array([[2.0, 0, 1, 0, 0]])))
    rows = np.concatenate([np.arange(100), np.arange(100), np.arange(200, 300)])
    slow = [np.corrcoef(f[rows, j], g[rows, j])[0, 1] for j in range(6)]
    assert two.item() == pytest.approx(np.mean(slow))
    drawn = Resampler.of(block, n=50).drawn
    assert drawn.shape == (50, 5)
    assert (drawn.sum(axis=1) == 5).all()


def _resampled(own: Codes, other: Codes, pairs: Matching, resampler: Resampler) -> np.ndarray:
    sides = ((codes, resampler.moments(codes)) for codes in (own, other))
    return resampled_correlation(*sides, pairs, resampler)
