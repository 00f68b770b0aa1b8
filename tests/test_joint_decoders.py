"""Patterns planted in streams are found again: how strong, in which direction, from which model to which."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse import random as sparse_random

from workbench.joint_decoders import NULL_QUANTILE, Patterns, Reading, readable, shuffled_within, standardised
from workbench.latent_lives import lifetimes, resampled

TOKENS, LATENTS, D, BLOCKS = 4_000, 40, 32, 10
APPEARS, DIES, TURNS, STAYS = range(4)
MODELS, EVENT, ANGLE = 6, 3, 75.0  # the event is between the models 2 and 3
END = np.where(np.arange(LATENTS) == DIES, EVENT - 1, MODELS - 1)


def planted_patterns(n: int, seed: int) -> csr_matrix:
    rng = np.random.default_rng(seed)
    return sparse_random(
        TOKENS, n, density=0.05, random_state=rng, data_rvs=lambda k: 1 + rng.random(k), format="csr"
    )


def planted_streams(f: csr_matrix) -> tuple[np.ndarray, list[np.ndarray]]:
    """Decoders, and a stream a model: one pattern appears, one dies, one turns by `ANGLE`, all others stay."""
    rng = np.random.default_rng(1)
    decoders = rng.standard_normal((LATENTS, D)) / np.sqrt(D)
    aside = rng.standard_normal(D)
    unit = decoders[TURNS] / np.linalg.norm(decoders[TURNS])
    aside -= unit * (aside @ unit)
    aside *= np.linalg.norm(decoders[TURNS]) / np.linalg.norm(aside)
    turned = np.cos(np.radians(ANGLE)) * decoders[TURNS] + np.sin(np.radians(ANGLE)) * aside
    streams = []
    for model in range(MODELS):
        here = decoders.copy()
        if model < EVENT:
            here[APPEARS], here[TURNS] = 0, turned
        else:
            here[DIES] = 0
        streams.append((f @ here + 0.1 * rng.standard_normal((TOKENS, D))).astype(np.float32))
    return decoders, streams


@pytest.fixture(scope="module")
def blocks() -> np.ndarray:
    return np.repeat(np.arange(BLOCKS), TOKENS // BLOCKS)


@pytest.fixture(scope="module")
def planted(blocks: np.ndarray) -> tuple[Patterns, list[np.ndarray]]:
    f = planted_patterns(LATENTS, 0)
    decoders, streams = planted_streams(f)
    size = [np.sqrt(streams[end].var(axis=0).mean()) for end in END]
    own = decoders / np.array(size)[:, None]
    return Patterns.of(f, own, blocks, np.zeros(TOKENS, dtype=int)), streams


@pytest.fixture(scope="module")
def readings(planted: tuple[Patterns, list[np.ndarray]]) -> list[Reading]:
    patterns, streams = planted
    return [patterns.read(a) for a in streams]


def over(readings: list[Reading], name: str) -> np.ndarray:
    return np.stack([getattr(r, name) for r in readings], axis=-1)


def test_planted_births_and_deaths_are_dated(readings: list[Reading]) -> None:
    strength, floor = over(readings, "strength"), over(readings, "floor")
    found = lifetimes(strength, floor, END)
    assert found.born[APPEARS] == EVENT
    assert found.born[TURNS] == EVENT
    assert found.died[DIES] == EVENT
    assert (found.born[[DIES, *range(STAYS, LATENTS)]] == 0).all()
    assert (np.delete(found.died, DIES) == -1).all()
    samples = lifetimes(resampled(strength, over(readings, "strength_influence")), floor, END)
    assert (samples.born == found.born).all()  # the planted ones are far from every bound
    assert (samples.died == found.died).all()


def test_planted_strengths_lengths_and_angles_are_recovered(readings: list[Reading]) -> None:
    strength, cosine, length = (over(readings, name) for name in ("strength", "cosine", "length"))
    assert strength[STAYS:] == pytest.approx(np.ones((LATENTS - STAYS, MODELS)), abs=0.1)
    assert strength[APPEARS, :EVENT] == pytest.approx(np.zeros(EVENT), abs=0.05)
    assert np.isnan(cosine[APPEARS, :EVENT]).all()  # what is not there has no direction
    angle = np.degrees(np.arccos(cosine[TURNS]))
    assert angle[:EVENT] == pytest.approx(np.full(EVENT, ANGLE), abs=2)
    assert angle[EVENT:] == pytest.approx(
        np.zeros(MODELS - EVENT), abs=8
    )  # noise has no length left, to a rest
    assert length[TURNS] / length[TURNS, -1] == pytest.approx(np.ones(MODELS), abs=0.06)


def test_patterns_of_nothing_pass_the_floor_at_its_rate(blocks: np.ndarray) -> None:
    f, nothing = planted_patterns(LATENTS, 0), planted_patterns(300, 7)
    decoders, streams = planted_streams(f)
    own = np.concatenate([decoders, np.random.default_rng(2).standard_normal((300, D)) / np.sqrt(D)])
    both = csr_matrix(np.hstack([f.toarray(), nothing.toarray()]))
    found = Patterns.of(both, own, blocks, np.zeros(TOKENS, dtype=int)).read(streams[-1])
    above = found.strength > found.floor
    assert above[STAYS:LATENTS].all()
    rate = above[LATENTS:].mean()
    assert rate == pytest.approx(1 - NULL_QUANTILE, abs=3 * np.sqrt(0.05 * 0.95 / 300))
    born = lifetimes(found.strength[:, None], found.floor[:, None], np.zeros(len(own), dtype=int)).born
    assert ((born >= 0) == above).all()


def test_influence_is_what_a_block_left_out_takes_with_it(
    planted: tuple[Patterns, list[np.ndarray]], blocks: np.ndarray
) -> None:
    patterns, streams = planted
    a = standardised(
        streams[-1] + np.random.default_rng(3).standard_normal((TOKENS, D))
    )  # noise says what moves
    kept = blocks != 4
    f = csr_matrix(patterns.f.multiply(patterns.size))
    fewer = Patterns.of(f[kept], patterns.own, blocks[kept], np.zeros(kept.sum(), dtype=int)).read(a[kept])
    whole = patterns.read(a)
    left_out = whole.strength - fewer.strength
    assert np.corrcoef(left_out, whole.strength_influence[4])[0, 1] > 0.95


def test_readable_is_the_r2_of_plain_regression(blocks: np.ndarray) -> None:
    f = planted_patterns(3, 5)
    rng = np.random.default_rng(0)
    a = standardised(f @ rng.standard_normal((3, 6)) + rng.standard_normal((TOKENS, 6)))
    found = readable(f, a, np.flatnonzero(np.diff(blocks, prepend=-1)), ridge=0.0)
    fit, test = blocks % 2 == 0, blocks % 2 == 1
    x, y = np.column_stack([a, np.ones(TOKENS)]), f.toarray()
    wrong = y[test] - x[test] @ np.linalg.lstsq(x[fit], y[fit], rcond=None)[0]
    expected = 1 - (wrong**2).sum(axis=0) / ((y[test] - y[test].mean(axis=0)) ** 2).sum(axis=0)
    assert found == pytest.approx(expected, abs=1e-4)
    assert np.isnan(readable(f, a, np.array([0]))).all()  # one block: nothing is held out


def test_a_stream_s_size_and_place_do_not_matter(planted: tuple[Patterns, list[np.ndarray]]) -> None:
    patterns, streams = planted
    one, other = patterns.read(streams[0]), patterns.read(7 * streams[0] + 3)
    assert other.strength == pytest.approx(one.strength, abs=1e-4)
    assert (standardised(np.ones((5, 2), dtype=np.float32)) == 0).all()


def test_a_shuffle_stays_within_its_group() -> None:
    group = np.array([0, 1, 0, 1, 1, 0])
    order = shuffled_within(group, np.random.default_rng(0))
    assert sorted(order) == list(range(6))
    assert (group[order] == group).all()
