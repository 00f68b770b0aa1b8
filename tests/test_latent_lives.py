"""Births, deaths and the axis of steps, worked by hand."""

from __future__ import annotations

import math

import numpy as np

from workbench.latent_lives import GONE, NEW, START, TURNED, UNCLEAR, Lifetimes, birth_bounds, lifetimes, manner
from workbench.parents import lineage
from workbench.step_axis import Stage, moments, place

FLOOR = np.full((1, 5), 0.1)
PARENTS = {"base": None, "sft": "base", "sibling": "base", "grpo": "sft"}


def of(strength: list[float], end: int, floor: np.ndarray = FLOOR) -> tuple[int, int]:
    found = lifetimes(np.array([strength]), floor, np.array([end]))
    return int(found.born[0]), int(found.died[0])


def test_lives_by_hand() -> None:
    assert of([0, 0, 0.6, 0.9, 1], 4) == (2, -1)
    assert of([0.7, 0.2, 0.6, 0.9, 1], 4) == (2, -1)  # born where it stays
    assert of([0.5, 0.5, 0.5, 0.9, 1], 4) == (0, -1)  # half is enough
    assert of([0, 1, 1, 0.2, 0.3], 2) == (1, 3)
    assert of([0, 1, 1, 0.2, 0.6], 2) == (1, -1)  # it came back
    assert of([0, 0, 0, 0.05, 0.09], 4) == (-1, -1)  # under the floor: nothing is claimed
    assert of([0, 0.6, 0.6, 0.9, 1], 4, np.array([[0.1, 0.1, 0.7, 0.1, 0.1]])) == (3, -1)
    assert of([1.0, -1, -1, -1, -1], 0) == (0, 1)


def test_bounds_by_hand() -> None:
    stage = np.array([0, 0, 1, 1])
    samples = np.array([[2, -1, 0], [2, -1, 0], [1, -1, 1], [3, -1, 0]])
    found = birth_bounds(np.array([2, -1, 0]), samples, stage)
    assert found.low.tolist() == [1, -1, 0]
    assert found.high.tolist() == [3, -1, 1]
    assert found.sure[[0, 2]].tolist() == [0.75, 0.75]  # born in the first stage is not there from the start
    assert np.isnan(found.sure[1])


def test_manners_by_hand() -> None:
    born, died = np.array([0, 1, 1, 1, -1, 0]), np.array([-1, -1, -1, -1, -1, 2])
    length = np.array([[1, 1, 1], [0.4, 1, 1], [0.6, 1, 1], [0.6, 1, 1], [1, 1, 1], [1, 1, 0.1]])
    known = np.ones((6, 3), dtype=bool)
    known[3, 0] = False
    end = np.array([2, 2, 2, 2, 2, 1])
    came, went = manner(Lifetimes(born, died), length, known, end)
    assert came == [START, NEW, TURNED, UNCLEAR, None, START]
    assert went == [None, None, None, None, None, GONE]


def test_a_stage_s_step_0_is_its_parent_s_end() -> None:
    found = moments([Stage("base", (0, 4, 8), 8), Stage("sft", (0, 1, 3), 3), Stage("mine", (), 1)])
    assert [(m.address, m.axis) for m in found] == [
        ("base@0", 0),
        ("base@4", 4),
        ("base", 8),
        ("sft@1", 9),
        ("sft", 11),
        ("mine", 12),
    ]
    assert [m.place for m in found if m.end] == [1, 2, 3]
    assert place(1, 0, 3) == 1  # where the stage before ended
    assert place(1, 1, 3) == 1 + math.log(2) / math.log(4)
    assert [m.address for m in moments([Stage("sft", (0, 2), 2)])] == ["sft@0", "sft"]


def test_the_line_runs_to_the_deepest_and_leaves_out_what_is_beside_it() -> None:
    def line(*names: str) -> tuple[str, ...]:
        return lineage(names, PARENTS.__getitem__)

    assert line("base", "sft", "grpo") == ("base", "sft", "grpo")
    assert line("grpo", "base") == ("base", "sft", "grpo")  # with what lies between
    assert line("sft", "grpo") == ("sft", "grpo")
    assert line("sft", "sibling") == ("sibling",)
    assert line("base", "sibling", "sft") == ("base", "sft")
