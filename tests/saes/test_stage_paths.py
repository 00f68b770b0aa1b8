"""Two paths from a parent to its child tell a direction that the child turned from one that new text brought."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import saes
from saes import TensorActivations, TrainConfig
from saes.dictionary import Dictionary
from saes.stage_paths import (
    ALL,
    BOTH,
    CHILD,
    DATA,
    LEGS,
    MODEL,
    MODEL_STEPS,
    NEITHER,
    OWN,
    PARENT,
    SHAM,
    SHAM_LEGS,
    SHAM_PAIR,
    Bounds,
    Leg,
    Turns,
    walked,
)
from tests.saes.planted import random_dictionary

D, FEATURES, TOKENS = 32, 24, 12_000
TURNED, NEW = 0, 1  # the feature that the child has in another direction, and the one of the new text alone
CONFIG = TrainConfig(n_latents=28, k=3, n_steps=1_000, batch_size=256, k_start=12)
FINE = replace(CONFIG, n_steps=500, lr=3e-3, k_start=CONFIG.k)


def directions() -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(D, D, generator=rng))[0][: FEATURES + 1]


def activations(model: str, text: str) -> TensorActivations:
    """Sparse sums of orthogonal directions; the child's feature `TURNED` is halfway to the last direction, which
    nothing else has; `NEW` is on in the new half of all text only."""
    rng = torch.Generator().manual_seed(1)
    on = torch.rand(TOKENS, FEATURES, generator=rng) < 3 / FEATURES
    f = on * (1 + 0.3 * torch.rand(TOKENS, FEATURES, generator=rng))
    f[: TOKENS // 2 if text == ALL else TOKENS, NEW] = 0
    d = directions()
    own = d[:FEATURES].clone()
    if model == CHILD:
        own[TURNED] = torch.nn.functional.normalize(d[TURNED] + d[FEATURES], dim=0)
    return TensorActivations((f @ own)[:, None])


@pytest.fixture(scope="module")
def found() -> dict[str, Dictionary]:
    def fit(name: str, leg: Leg, start: Dictionary | None) -> Dictionary:
        model = PARENT if leg.model == SHAM else leg.model
        config = CONFIG if start is None else replace(FINE, data_seed=1 if name == "X" else 0)
        return saes.fit(activations(model, leg.text), config, start=start)

    return walked(fit, sham=True)


def nearest(dictionary: Dictionary, direction: torch.Tensor) -> int:
    return int((saes.stability.directions(dictionary) @ direction).argmax())


def test_what_the_child_turned_and_what_the_text_brought_are_told_apart(found: dict[str, Dictionary]) -> None:
    near = saes.stability.directions(found["S"]) @ directions()[:FEATURES].T
    known = (near.max(dim=1).values > 0.99).numpy()  # the others are to spare
    assert known.sum() >= FEATURES - 2  # of those that its text has
    turns, d = Turns.of(found, known), directions()
    by = turns.turned_by()
    turned = nearest(found["S"], d[TURNED])
    assert by[turned] == MODEL
    halfway = torch.nn.functional.normalize(d[TURNED] + d[FEATURES], dim=0)
    brought = nearest(found["D"], d[NEW])
    assert not known[brought]
    assert by[brought] == DATA
    for end in ("F_D", "F_M"):
        assert nearest(found[end], halfway) == turned
        assert nearest(found[end], d[NEW]) == brought
    rest = known & (np.arange(CONFIG.n_latents) != turned)
    assert set(by[rest]) == {NEITHER}
    assert turns.cosine["data first"][turned] == pytest.approx(0.5**0.5, abs=0.02)  # from d to halfway
    assert not turns.turned(SHAM_PAIR)[turned]


def test_legs_follow_what_they_start_from() -> None:
    seen: list[tuple[str, str | None]] = []
    made: dict[int, str] = {}

    def fit(name: str, leg: Leg, start: Dictionary | None) -> Dictionary:
        seen.append((name, None if start is None else made[id(start)]))
        dictionary = random_dictionary(seed=len(seen))
        made[id(dictionary)] = name
        return dictionary

    kept = walked(fit)
    assert seen == [(name, leg.start) for name, leg in LEGS.items()]
    assert set(walked(fit, sham=True)) == {*LEGS, *SHAM_LEGS}
    assert {leg.text for leg in LEGS.values()} == {OWN, ALL}
    assert len(kept) == len(LEGS)


def test_kinds_by_hand() -> None:
    """Four latents, bounds 0.5 and 0.6: the model alone, the data alone, both, and one on one path only."""
    steps = {
        "data first, data step": [0.9, 0.1, 0.1, 0.1],
        "data first, model step": [0.1, 0.9, 0.1, 0.9],
        "model first, model step": [0.2, 0.9, 0.2, 0.1],
        "model first, data step": [0.9, 0.3, 0.3, 0.9],
    }
    turns = Turns({name: np.array(values) for name, values in steps.items()}, Bounds(0.5, 0.6))
    assert turns.turned_by().tolist() == [MODEL, DATA, BOTH, NEITHER]
    assert turns.beyond(MODEL_STEPS) == pytest.approx([-0.3, 0.4, -0.3, 0.3])


def test_nothing_turns_where_nothing_is_trained() -> None:
    one = random_dictionary()
    turns = Turns.of(walked(lambda name, leg, start: one), np.ones(20, dtype=bool))
    assert all(cosine == pytest.approx(np.ones(20)) for cosine in turns.cosine.values())
