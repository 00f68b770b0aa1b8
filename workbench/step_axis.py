"""One axis of steps through the stages of a lineage: a stage's step 0 is its parent's end.

Steps count on from stage to stage (`axis`). For drawing, every stage has a width of 1 with its steps on a log
scale, since snapshots are log-spaced and a short stage would vanish beside a long one:

    place = number of the stage + log(1 + step) / log(1 + last step of the stage)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from workbench.checkpoint import Checkpoint
from workbench.lab import Lab
from workbench.plan import Plan


class Stage(NamedTuple):
    """One stage: the steps at which it was kept, and its last step (its finished model)."""

    name: str
    snapshots: tuple[int, ...]
    length: int


class Moment(NamedTuple):
    """A model on the axis. `end`: the finished model of its stage."""

    stage: str
    step: int
    axis: int
    place: float
    end: bool

    @property
    def address(self) -> str:
        """What `Checkpoint.of` finds it by."""
        return self.stage if self.end else f"{self.stage}@{self.step}"


def place(number: int, step: int, length: int) -> float:
    """Where a step of stage `number` (from 0) is drawn."""
    return number + math.log1p(step) / math.log1p(length)


def moments(stages: Sequence[Stage]) -> list[Moment]:
    """Every model of the stages, in order. The snapshot of a stage's last step is its finished model, and that of
    step 0 its parent's, where the parent is on the axis."""
    found, before = [], 0
    for number, stage in enumerate(stages):
        kept = [s for s in sorted(stage.snapshots) if s < stage.length and (s > 0 or number == 0)]
        for step in (*kept, stage.length):
            at = place(number, step, stage.length)
            found.append(Moment(stage.name, step, before + step, at, step == stage.length))
        before += stage.length
    return found


def stages_of(lab: Lab, plan: Plan, names: Sequence[str]) -> list[Stage]:
    """The stages with what is kept of them. How long one from outside was trained nobody knows: it has length 1."""
    found = []
    for name in names:
        kept = Checkpoint.of(lab, name).snapshots()
        length = plan.step("checkpoint", name).config.get("steps") or max(kept, default=1)
        found.append(Stage(name, tuple(kept), max(1, int(length))))
    return found
