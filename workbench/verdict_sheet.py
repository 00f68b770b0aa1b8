"""A verdict sheet: its lines, and how they are said.

A line is a figure of a stage beside its parent's, sorted by whether their 95 % intervals part (`RULE`); what puts a
line under each heading is in `RULES`. Both stand on every sheet, so that nobody has to look here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from workbench.recipe import SHAM, SIBLING

MOVED, ADDED, STRENGTHENED, CARRIED, SILENCED, FORGOT, OTHERWISE, ALONE = SORTS = (
    "moved",
    "added",
    "strengthened",
    "carried by few latents",
    "silenced",
    "forgot",
    "answers otherwise",
    "left alone",
)
UNCHANGED, SILENT, CHANGED = "unchanged", "silent", "changed"
NONE = 0.05  # a share under which the parent cannot do a thing at all
LEAST = 0.001  # share of latents under which births and deaths are noise
RULE = (
    "A line is sorted by the 95 % intervals of the stage and its parent alone: where they meet, the stage left it "
    "alone. Whether sham and sibling show as much is said beside it and moves no line, but those under Moved."
)
RULES = {
    MOVED: "further than in sham and in sibling, intervals included",
    ADDED: f"better than the parent, which had less than {NONE:g} of it; latents of its own, or born in it (more "
    f"than {LEAST:.1%})",
    STRENGTHENED: "more right or ended answers than the parent, or a loss that fell",
    CARRIED: "these latents alone switched, on in the parent or off in the stage, at their own size and at three "
    "times it; what is not beyond matched latents carries nothing that way",
    SILENCED: f"fewer right or ended answers than the parent; latents that died in it (more than {LEAST:.1%})",
    FORGOT: "a loss on held-out text that rose: worse predicted than by the parent",
    OTHERWISE: "of another length, entropy or variety, which is neither better nor worse",
    ALONE: "intervals meet, or it moved no further than in sham and sibling",
}


class Line(NamedTuple):
    """One statement. `before` is the parent's figure; `sham` and `sibling` are the same figure in the controls,
    `matched` that of as many matched latents; `credible`: beyond both controls, or beyond the matched latents."""

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
    matched: float | None = None


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
            "rule": RULE,
            "rules": RULES,
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
                head = f"  {sort} ({RULES[sort]}):"
                told += [head, *(f"    {sentence(line)}" for line in lines)] if lines else []
            told += ["  what changed first:", *(f"    {note}" for note in stage.notes)] if stage.notes else []
        return "\n".join([RULE, *told, *self.missing])


def figures(line: Line) -> str:
    """The parent's figure, the stage's with its interval, n."""
    interval = "" if line.low is None or line.high is None else f" [{line.low:.3g}, {line.high:.3g}]"
    before = "" if line.before is None else f"{line.before:.3g} → "
    return f"{before}{line.value:.3g}{interval}, n = {line.n:,}"


def controls_of(line: Line) -> list[str]:
    """The same figure in the controls that were asked."""
    known = ((SHAM, line.sham), (SIBLING, line.sibling), ("matched latents", line.matched))
    return [f"{name} {value:.3g}" for name, value in known if value is not None]


def judged(line: Line) -> str:
    """Whether the figure is beyond its controls, and which those are."""
    if line.credible is None:
        return "no control"
    beyond = "both" if line.matched is None else "matched latents"
    return f"{'' if line.credible else 'not '}beyond {beyond}"


def sentence(line: Line) -> str:
    """A line with its figures."""
    controls = controls_of(line)
    tail = f"; {', '.join(controls)}: {judged(line)}" if controls else ""
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
