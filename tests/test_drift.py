"""Laws of drift: nothing moved is exactly nothing, and what is planted is read off."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from workbench.errors import Misuse
from workbench.representation_drift import PairedSums, cka, moved, with_intervals
from workbench.weight_drift import apart, place, total_moved, weight_drift

W = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))


def drift_of(before: torch.Tensor, after: torch.Tensor) -> dict:
    (row,) = weight_drift({"w.weight": before}, {"w.weight": after}).iter_rows(named=True)
    return row


def test_a_matrix_and_its_copy_are_exactly_the_same() -> None:
    row = drift_of(W, W.clone())
    assert row["moved"] == 0.0
    assert row["cosine"] == pytest.approx(1.0, abs=1e-12)
    assert row["unchanged"] == row["unchanged_bfloat16"] == 1.0
    assert row["effective_rank"] is None  # an update that is none has no rank


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_effective_rank_of_equal_directions_is_their_number(rank: int) -> None:
    left = torch.linalg.qr(torch.randn(20, rank)).Q
    right = torch.linalg.qr(torch.randn(12, rank)).Q
    row = drift_of(W, W + 0.1 * left @ right.T)
    assert row["effective_rank"] == pytest.approx(rank, abs=0.05)
    assert row["top_energy"] == pytest.approx(1.0, abs=1e-4)
    assert row["largest_rank"] == 12


def test_moved_and_cosine_by_hand() -> None:
    row = drift_of(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 0.0]]))
    assert row["moved"] == pytest.approx(4 / 5)
    assert row["cosine"] == pytest.approx(3 / 5)
    assert row["unchanged"] == 0.5


def test_a_change_below_bfloat16_is_seen_in_float32_alone() -> None:
    row = drift_of(torch.ones(4, 4), torch.ones(4, 4) * (1 + 1e-4))
    assert row["unchanged"] == 0.0
    assert row["unchanged_bfloat16"] == 1.0


def test_parameters_that_cannot_be_compared_are_named() -> None:
    before = {"a.weight": W, "b.weight": W, "only.weight": W}
    after = {"a.weight": W + 1, "b.weight": W[:3]}
    assert weight_drift(before, after)["parameter"].to_list() == ["a.weight"]
    assert apart(before, after) == ["b.weight", "only.weight"]
    with pytest.raises(Misuse, match="no parameter of one name and shape"):
        weight_drift({"a": W}, {"b": W})


def test_total_is_over_all_numbers_together() -> None:
    table = weight_drift(
        {"a": torch.ones(2, 2), "b": torch.ones(3)}, {"a": torch.ones(2, 2), "b": torch.zeros(3)}
    )
    assert total_moved(table) == pytest.approx(math.sqrt(3 / 7))


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.layers.3.mlp.up_proj.weight", 3, "mlp.up_proj"),
        ("gpt_neox.layers.11.attention.query_key_value.bias", 11, "attention.query_key_value.bias"),
        ("transformer.wte.weight", None, "wte"),
        ("model.norm.weight", None, "norm"),
        ("lm_head.bias", None, "lm_head.bias"),
    ],
)
def test_a_parameters_place(name: str, layer: int | None, kind: str) -> None:
    assert place(name) == (layer, kind)


def paired(x: np.ndarray, y: np.ndarray, blocks: int = 8) -> PairedSums:
    sums = PairedSums(x.shape[1], y.shape[1], blocks)
    for at in range(0, len(x), 100):
        here = slice(at, at + 100)
        sums.add(x[here], y[here], np.arange(len(x))[here] % blocks)
    return sums


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((800, 16)).astype(np.float32) + 3


def test_activations_and_their_copy(x: np.ndarray) -> None:
    found = with_intervals(paired(x, x.copy()).sums)
    assert abs(found["cka"].value - 1) < 1e-12
    assert found["moved"] == (0.0, 0.0, 0.0)


def test_cka_does_not_see_a_rotation_a_shift_or_a_scale_and_moved_does(x: np.ndarray) -> None:
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((16, 16)))[0]
    for y in (x @ turn, x + 2, 5 * x):
        sums = paired(x, y).sums.weighted(np.ones(8))
        assert cka(sums) == pytest.approx(1.0, abs=1e-6)
        assert moved(sums) > 0.3
    assert moved(paired(x, 5 * x).sums.weighted(np.ones(8))) == pytest.approx(4.0)


def test_cka_equals_its_definition(x: np.ndarray) -> None:
    y = x[:, :10] + np.random.default_rng(2).standard_normal((800, 10))
    a, b = (each.astype(np.float64) - each.mean(axis=0, dtype=np.float64) for each in (x, y))
    kernels = a @ a.T, b @ b.T
    hsic = (kernels[0] * kernels[1]).sum() / np.linalg.norm(kernels[0]) / np.linalg.norm(kernels[1])
    assert cka(paired(x, y).sums.weighted(np.ones(8))) == pytest.approx(hsic, rel=1e-9)
    assert math.isnan(moved(paired(x, y).sums.weighted(np.ones(8))))


def test_intervals_hold_the_figure_and_unrelated_activations_are_far_apart(x: np.ndarray) -> None:
    other = np.random.default_rng(3).standard_normal(x.shape)
    found = with_intervals(paired(x, other).sums)
    for figure in found.values():
        assert figure.low <= figure.high
        assert math.isfinite(figure.low)
    assert found["cka"].value < 0.1
