"""A verdict sheet: its lines, and how they are said.

A line is a figure of a stage beside its parent's, sorted by whether their 95 % intervals part:

    added         the parent had next to none of it (under `NONE`)
    strengthened  the stage's interval lies above the parent's
    silenced      it lies below
    otherwise     its answers are of another length, entropy or variety
    left alone    the intervals meet, or no more moved than in the stage's sham and sibling

How far weights, activations and predictions moved, where it is beyond both controls, comes first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from workbench.recipe import SHAM, SIBLING

MOVED, ADDED, STRENGTHENED, SILENCED, OTHERWISE, ALONE = SORTS = (
    "moved",
    "added",
    "strengthened",
    "silenced",
    "answers otherwise",
    "left alone",
)
UNCHANGED, SILENT, CHANGED = "unchanged", "silent", "changed"
NONE = 0.05  # a share under which the parent cannot do a thing at all


class Line(NamedTuple):
    """One statement. `before` is the parent's figure; `sham` and `sibling` are the same figure in the controls."""

    stage: str
    sort: str
    said: str
    value: float
    low: float | None
    high: float | None
    n: int
    before: float | None
    sham: float | None
    sibling: float | None
    credible: bool | None
    page: str


class StageSheet(NamedTuple):
    """A stage's lines, its verdict, and what to know of it in a sentence or two."""

    stage: str
    parent: str
    verdict: str
    notes: list[str]
    lines: list[Line]


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The sheet of a finished comparison."""

    lab: str
    comparison: str
    stages: list[StageSheet]
    missing: list[str]

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "lab": self.lab,
            "comparison": self.comparison,
            "missing": self.missing,
            "stages": [
                {**stage._asdict(), "lines": [line._asdict() for line in stage.lines]} for stage in self.stages
            ],
        }

    def describe(self) -> str:
        """For people."""
        told = []
        for stage in self.stages:
            told.append(f"{stage.stage}, from {stage.parent}: {stage.verdict}")
            for sort in SORTS:
                lines = [line for line in stage.lines if line.sort == sort]
                told += [f"  {sort}:", *(f"    {sentence(line)}" for line in lines)] if lines else []
            told += [f"  {note}" for note in stage.notes]
        return "\n".join([*told, *self.missing])


def figures(line: Line) -> str:
    """The parent's figure, the stage's with its interval, n."""
    interval = "" if line.low is None or line.high is None else f" [{line.low:.3g}, {line.high:.3g}]"
    before = "" if line.before is None else f"{line.before:.3g} → "
    return f"{before}{line.value:.3g}{interval}, n = {line.n:,}"


def controls_of(line: Line) -> list[str]:
    """The same figure in the controls that were asked."""
    known = ((SHAM, line.sham), (SIBLING, line.sibling))
    return [f"{name} {value:.3g}" for name, value in known if value is not None]


def sentence(line: Line) -> str:
    """A line with its figures."""
    controls = controls_of(line)
    said = {True: "beyond both", False: "not beyond both", None: ""}[line.credible]
    tail = f"; {', '.join(controls)}: {said}" if controls else ""
    return f"{line.said}: {figures(line)}{tail}"


def verdict_of(weights_moved: float, kl: float, largest: float, silent_under: float) -> str:
    """Unchanged: not a weight moved and not a prediction. Silent: weights did, predictions nowhere by more than
    rounding."""
    if weights_moved == 0 and kl == 0:
        return UNCHANGED
    return SILENT if largest < silent_under else CHANGED


def sorted_by(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Which of `SORTS` two shares with intervals make."""
    if after["low"] > before["high"]:
        return ADDED if before["value"] < NONE else STRENGTHENED
    return SILENCED if after["high"] < before["low"] else ALONE
