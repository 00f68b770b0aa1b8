"""A stage among the checkpoints asked about, and its controls where the lab has them: what goes on without it.

    sham       the parent trained on, on its own data, for as many steps
    sibling    the same stage from the same parent with another seed

A figure of a stage is after − before by case, held against the sham's: p is of (after − sham) with signs drawn at
random by case, and without a sham of (after − before). Snapshots are held against the sham's of the same step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from probes.kit.finding import Figure, Null
from probes.kit.nulls import mean_of
from probes.kit.running import LackingError
from probes.kit.subjects import one_family
from workbench.checkpoint import Checkpoint
from workbench.errors import MarbleError
from workbench.lab import Lab
from workbench.plan import Plan
from workbench.recipe import SHAM, SIBLING

RL = ("grpo", "ppo", "dpo")  # stages of reinforcement
FLIPPED = "signs at random"
DRAWS = 4_999  # so that many figures held to the level together can still pass


class Change(NamedTuple):
    """A checkpoint, what it is held to, and its controls (None where the lab has not grown them)."""

    before: Checkpoint
    after: Checkpoint
    sham: Checkpoint | None
    sibling: Checkpoint | None

    @property
    def everyone(self) -> list[Checkpoint]:
        return [each for each in self if each is not None]

    @property
    def arrow(self) -> str:
        return f"{self.before.address} → {self.after.address}"

    @property
    def of_its_parent(self) -> bool:
        """What it is held to is what it was trained from: only then its sham did all else alike."""
        return self.before.address == self.after.parent

    @property
    def otherwise(self) -> str:
        """What its changes were tested against, behind a verb: without a sham nothing is added."""
        return "" if self.sham is None else " otherwise than its sham"

    @property
    def null(self) -> str:
        """What figures are held against, in words."""
        if self.sham is None:
            why = (
                f"no sham of {self.after.address} is grown"
                if self.of_its_parent
                else f"{self.after.address} was not trained from {self.before.address}, so no sham stands beside it"
            )
            return f"the sign of each case's change drawn at random; {why}"
        return (
            f"the sham {self.sham.address} ({self.before.name} trained on for as many steps): the sign of each "
            f"case's {self.after.address} − {self.sham.address} drawn at random"
        )


def beside_sham(pair: Change, figure: Figure) -> str:
    """A figure of `held` in words, and its sham's, which it was tested against."""
    went_on = "" if pair.sham is None else f" (sham {figure.null.value:+.2f})"
    return f"{figure.value:+.2f}{went_on}"


def control(of: Checkpoint, kind: str) -> Checkpoint | None:
    """The sham or sibling of a checkpoint at the same step; None where there is none."""
    with contextlib.suppress(MarbleError):
        for branch in Plan.of(of.lab).recipe.branches:
            if (branch.kind, branch.of, branch.parent) == (kind, of.name, of.parent):
                return Checkpoint.of(of.lab, branch.name if of.step is None else f"{branch.name}@{of.step}")
    return None


def change(lab: Lab, checkpoints: Sequence[Checkpoint], stages: Sequence[str]) -> Change:
    """The first checkpoint of one of `stages`, beside its parent where that is named, else the first other one; of
    a checkpoint alone its parent. Without such a stage the second of the list beside the first."""
    after = next((each for each in checkpoints if each.stage in stages and each.parent), None)
    after = after or (checkpoints[1] if len(checkpoints) > 1 else checkpoints[0])
    others = [each for each in checkpoints if each.address != after.address]
    before = next((each for each in others if each.name == after.parent), None)
    if before is None and others:
        before = others[0]
    if before is None:
        if after.parent is None:
            raise LackingError(
                f"{after.address!r} descends from no checkpoint of the lab: name two, such as "
                f"`--checkpoints base,{after.address}`"
            )
        before = Checkpoint.of(lab, after.parent)
    one_family(lab, [before, after])
    pair = Change(before, after, None, None)
    if not pair.of_its_parent:
        return pair
    return pair._replace(sham=control(after, SHAM), sibling=control(after, SIBLING))


def held(
    name: str,
    before: Any,
    after: Any,
    sham: Any | None,
    of: str,
    seed: int = 0,
    side: str = "either",
    **placed: Any,
) -> Figure:
    """Mean of after − before over cases, beside the sham's mean of sham − before with its interval."""
    moved = np.asarray(after, float) - np.asarray(before, float)
    value, low, high, null = mean_of(moved, FLIPPED, seed, side, draws=DRAWS)
    if sham is not None:
        went_on = np.asarray(sham, float) - np.asarray(before, float)
        null = of_control(went_on, moved - went_on, "sham", seed, side)
    return Figure(name, value, low, high, len(moved), of, null, **placed)


def of_control(
    control: Float[np.ndarray, " case"],
    beyond: Float[np.ndarray, " case"],
    what: str,
    seed: int = 0,
    side: str = "either",
) -> Null:
    """A control's own mean with its interval; p of what the figure has beyond it, case by case."""
    value, low, high, _ = mean_of(control, what, seed)
    return Null(value, low, high, len(control), what, mean_of(beyond, what, seed, side, draws=DRAWS)[3].p)
