"""Parts of one checkpoint in another at once, direct paths of all parts, and both as choices of the Patching
view."""

from __future__ import annotations

import numpy as np
import pytest

from pages.components import circuit_grids, circuit_store, circuit_together
from tests.test_circuit_pages import DONE, circuit_lab
from tests.test_circuit_patching import pairs_of
from tests.test_pages import errors, opened, sentences
from tests.tiny_lab import on_pages
from tests.tiny_models import tiny_model
from workbench.circuits.activation_patching import DENOISE, Patching
from workbench.circuits.cross_patching import joint_and_single
from workbench.circuits.direct_patching import DIRECT, direct_grid, direct_parts, part_names
from workbench.circuits.found_circuits import FoundCircuits
from workbench.circuits.grids import HEAD, LAYER, POSITION
from workbench.circuits.node_effects import cell_of
from workbench.circuits.pattern_patching import PATTERN, pattern_grid
from workbench.circuits.places import ATTN_OUT, MLP_OUT, RESID_POST, Cell, Z
from workbench.errors import Misuse
from workbench.lab import Lab

NAMES = ("sft", "base")


@pytest.fixture(scope="module")
def two() -> tuple[Patching, Patching]:
    return tuple(Patching(tiny_model("llama", seed=seed), pairs_of()) for seed in (0, 1))  # type: ignore[return-value]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return on_pages(circuit_lab(), monkeypatch)


def test_one_part_together_is_the_part_alone_and_the_whole_stream_hides_what_is_below(
    two: tuple[Patching, Patching],
) -> None:
    a, b = two
    grid = joint_and_single(a, b, [Cell(Z, 1, 2)], NAMES)
    assert grid.m.shape[1] == 3
    np.testing.assert_allclose(grid.m, grid.m[:, :1].repeat(3, axis=1), atol=1e-5)
    whole = joint_and_single(a, b, [Cell(RESID_POST, 2), Cell(Z, 0, 0)], NAMES)
    np.testing.assert_allclose(
        whole.m[:, 0], whole.m[:, 2], atol=1e-4
    )  # behind the last block nothing else counts
    assert np.abs(whole.m[:, 0] - whole.m[:, 1]).max() > 1e-3


def test_what_single_parts_change_is_added_up_pair_by_pair(two: tuple[Patching, Patching]) -> None:
    """And parts that answer to each other do not add up: the MLP reads what the head below it writes."""
    a, b = two
    cells = [Cell(Z, 0, 1), Cell(MLP_OUT, 0), Cell(Z, 2, 3)]
    grid = joint_and_single(a, b, cells, NAMES)
    single = [
        b.replay.patched(b.run(True, [Z, MLP_OUT]), a.run(True, [Z, MLP_OUT]).value, [[c]]) for c in cells
    ]
    alone = np.stack([m[0].numpy(force=True) for m in single], axis=1)
    np.testing.assert_allclose(grid.m[:, 2:], alone, atol=1e-5)
    by_hand = grid.m_from + (alone - grid.m_from[:, None]).sum(axis=1)
    np.testing.assert_allclose(grid.m[:, 1], by_hand, atol=1e-5)
    assert np.abs(grid.m[:, 0] - grid.m[:, 1]).max() > 1e-3
    level = grid.level()
    np.testing.assert_allclose(level.value, grid.m.mean(axis=0))
    assert (level.low <= level.value).all()
    assert (level.value <= level.high).all()
    with pytest.raises(Misuse, match="no part is named"):
        joint_and_single(a, b, [], NAMES)


def test_direct_parts_are_the_direct_grids_side_by_side(two: tuple[Patching, Patching]) -> None:
    patching, _ = two
    grid = direct_parts(patching)
    assert grid.m.shape[1:] == (3, len(part_names(4)))
    np.testing.assert_array_equal(grid.m[..., :4], direct_grid(patching, Z).m)
    for column, point in ((4, ATTN_OUT), (5, MLP_OUT)):
        np.testing.assert_array_equal(grid.m[..., column], direct_grid(patching, point).m)
    assert grid.convention.startswith("direct path to the logits alone")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"point": PATTERN}, "what it finds there left as it was"),
        ({"headpoint": PATTERN}, "what it finds there left as it was"),
        ({"headpoint": DIRECT}, "no later part answering"),
    ],
)
def test_patterns_and_direct_paths_are_choices_in_the_address(
    lab: Lab, asked: dict[str, str], told: str
) -> None:
    asked = {name: circuit_grids._named(point) for name, point in asked.items()}
    app = opened("circuits", circuit=DONE, view="Patching", **asked)
    assert not app.exception
    assert errors(app) == []
    drawn = " ".join(chart.proto.id for chart in app.get("plotly_chart"))
    assert "grid-position-sft" in drawn
    assert "grid-head-base" in drawn
    assert any(told in text for text in sentences(app))


def test_what_is_drawn_is_what_the_library_patches(lab: Lab) -> None:
    of = circuit_store.of(lab, DONE)
    patching = Patching(lab.checkpoint("sft").model(), circuit_store.pairs(of, "judge", True))
    for point, axes, expected in (
        (PATTERN, (LAYER, HEAD), pattern_grid(patching, DENOISE)),
        (PATTERN, (LAYER, POSITION), pattern_grid(patching, DENOISE, (LAYER, POSITION))),
        (DIRECT, (LAYER, HEAD), direct_parts(patching)),
    ):
        np.testing.assert_allclose(
            circuit_store.grid(of, "sft", point, DENOISE, axes).grid.m, expected.m, atol=1e-4
        )
    made = circuit_store.grid(of, "sft", DIRECT, DENOISE, (LAYER, HEAD))
    value, low, high = (part.tolist() for part in made.effects)
    names = part_names(len(value[0]) - 2)
    drawn = circuit_grids.heat(value, low, high, None, names, True)
    assert list(drawn.layout.xaxis.ticktext) == names
    assert drawn.data[0].showscale is not False


def test_parts_in_the_address_are_put_in_together(lab: Lab) -> None:
    found = FoundCircuits.of(lab, DONE)
    parts = [found.graph.senders[1], found.graph.senders[-1]]
    asked = {"circuit": DONE, "view": "Patching", "put": "One checkpoint into another"}
    app = opened("circuits", **asked, parts=parts)
    assert not app.exception
    assert errors(app) == []
    assert app.multiselect(key="parts").value == parts
    of = circuit_store.of(lab, DONE)
    ways = circuit_store.together(of, "base", "sft", tuple(parts))
    cells = [cell_of(part) for part in parts]
    some = circuit_store.pairs(of, "judge", True)
    base, sft = (Patching(lab.checkpoint(name).model(), some) for name in ("base", "sft"))
    np.testing.assert_allclose(
        ways.b_into_a.m, joint_and_single(sft, base, cells, ("sft", "base")).m, atol=1e-4
    )
    said = " ".join(sentences(app))
    for way, grid in (("base into sft", ways.a_into_b), ("sft into base", ways.b_into_a)):
        assert f"{way}: {circuit_together.TOGETHER} m = {grid.level().value[0]:.2f}" in said
        rows = circuit_together._rows(way, grid, parts)
        assert [row[1] for row in rows] == [circuit_together.TOGETHER, circuit_together.ADDED, *parts]
        change = rows[0][2 + circuit_together.FIGURES.index("change")]
        assert change == pytest.approx((grid.m[:, 0] - grid.m_from).mean())
    app = opened("circuits", **asked, parts=["a9.h9"])
    assert any("no component &#x27;a9.h9&#x27;" in text or "'a9.h9'" in text for text in errors(app))
