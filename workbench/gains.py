"""What carries the gains of a comparison's stages, read: for each task that a stage improved, the set of latents
and what switching it on and off does.

A set carries a gain where, switched on in the parent, accuracy rises above the parent's and above that with as many
matched latents, intervals and all; switched off in the stage, it falls below the stage's and theirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.intervals import newcombe
from workbench.lab import Lab
from workbench.part_tables import Part, read_part
from workbench.plan import Plan
from workbench.recipe import stage_of

if TYPE_CHECKING:
    import polars as pl

PARENT, STAGE, WHOLE, ALL, SET, MATCHED = "parent", "stage", "whole stream", "all latents", "set", "matched"
ON, OFF = "on", "off"
MATCHED_MEANS = (
    "Matched latents are as many others, each drawn from the ten that write nearest as much as one of the set: "
    "activation times decoder length, summed over the answers, so that both how often and how much it fires count."
)
SAID = {
    "swap": "the stage's decoder in place of the parent's",
    "amplify": "more (or none) of it by each checkpoint's own decoder",
    "difference": "an SAE of the streams' difference",
}


class Gap(NamedTuple):
    """A task that a stage does better than its parent: accuracies on all held-out questions, and the gain with its
    95 % interval [Newcombe 1998]."""

    stage: str
    parent: str
    task: str
    before: float
    after: float
    low: float
    high: float
    n: int


def accuracies(lab: Lab, checkpoint: str) -> Mapping[str, Mapping[str, Any]]:
    """task → mean, low, high, n of its greedy answers to all held-out questions; empty where it was never asked, as
    snapshots are not."""
    if stage_of(checkpoint) != checkpoint:
        return {}
    return (lab.find("checkpoint", checkpoint).figures.get("metrics") or {}).get("accuracy") or {}


def gaps_between(lab: Lab, parent: str, stage: str) -> list[Gap]:
    """Every task that both were asked, better or not."""
    scores = accuracies(lab, parent), accuracies(lab, stage)
    found = []
    for task in (t for t in scores[1] if t in scores[0]):
        before, after = ((round(each[task]["mean"] * each[task]["n"]), each[task]["n"]) for each in scores)
        share = before[0] / before[1], after[0] / after[1]
        found.append(Gap(stage, parent, task, *share, *newcombe(before, after), after[1]))
    return found


def improved(lab: Lab, plan: Plan, names: Sequence[str]) -> list[Gap]:
    """The gaps above zero between checkpoints among `names` and their parents."""
    parents = {stage: plan.parent_checkpoint(stage) for stage in names}
    return [
        gap
        for stage, parent in parents.items()
        if parent is not None and parent in names
        for gap in gaps_between(lab, parent, stage)
        if gap.low > 0
    ]


SAID_DOSES = (1.0, 3.0)  # in a sentence; the tables have more


class Effect(NamedTuple):
    """A set switched one way at one dose: accuracy before, with it, and with as many matched latents."""

    way: str
    dose: float
    size: int
    before: float
    accuracy: float
    low: float
    high: float
    n: int
    matched: float
    matched_low: float
    matched_high: float

    @property
    def carries(self) -> bool:
        """Beyond what stands there unmoved, and beyond the control, intervals and all."""
        if self.way == ON:
            return self.low > max(self.before, self.matched_high)
        return self.high < min(self.before, self.matched_low)


@dataclasses.dataclass(frozen=True)
class Gains(Part):
    """The tables of `workbench.gain_build`."""

    PART = "gains"

    @cached_property
    def gaps(self) -> list[Gap]:
        return [Gap(**gap) for gap in self.figures["gaps"]]

    @cached_property
    def carriers(self) -> pl.DataFrame:
        """stage, task, mover, rank, latent, nats (a held-out answer gains), chosen (is of the set)."""
        return read_part(self.path, "carriers", ("stage", "task", "mover", "rank", "latent", "nats", "chosen"))

    @cached_property
    def curve(self) -> pl.DataFrame:
        """stage, task, mover, way, latents (set or matched), size, recovered (share of the gap in log p), low, …"""
        return read_part(self.path, "curve", ("stage", "task", "mover", "way", "latents", "size", "recovered"))

    @cached_property
    def answers(self) -> pl.DataFrame:
        """stage, task, mover, way, latents, size, dose, accuracy, low, high, n, well_formed."""
        return read_part(self.path, "answers", ("stage", "task", "mover", "way", "latents", "dose", "accuracy"))

    @cached_property
    def spill(self) -> pl.DataFrame:
        """stage, task, mover, way, dose, on (another task, or `all` prose), before, after, low, high, n."""
        return read_part(self.path, "spill", ("stage", "task", "mover", "way", "dose", "on", "before", "after"))

    def of_gap(self, table: pl.DataFrame, gap: Gap, mover: str | None = None) -> pl.DataFrame:
        """The rows of one gap (and mover)."""
        import polars as pl

        rows = table.filter((pl.col("stage") == gap.stage) & (pl.col("task") == gap.task))
        return rows if mover is None else rows.filter(pl.col("mover") == mover)

    def movers(self, gap: Gap) -> list[str]:
        return self.of_gap(self.carriers, gap)["mover"].unique(maintain_order=True).to_list()

    def set_of(self, gap: Gap, mover: str) -> list[int]:
        """The latents of the set, foremost first."""
        import polars as pl

        return self.of_gap(self.carriers, gap, mover).filter(pl.col("chosen"))["latent"].to_list()

    def unmoved(self, gap: Gap) -> dict[tuple[str, str], dict[str, Any]]:
        """(way, parent or stage or whole stream) → its row of `answers`."""
        rows = self.of_gap(self.answers, gap, "")
        return {(row["way"], row["latents"]): row for row in rows.iter_rows(named=True)}

    def effects(self, gap: Gap, mover: str) -> Iterator[Effect]:
        """The set at the doses at which its control was tried."""
        import polars as pl

        rows = self.of_gap(self.answers, gap, mover)
        plain = self.unmoved(gap)
        for row in rows.filter(pl.col("latents") == SET).iter_rows(named=True):
            control = rows.filter(latents=MATCHED, way=row["way"], dose=row["dose"])
            if control.is_empty():
                continue
            before = plain[row["way"], PARENT if row["way"] == ON else STAGE]["accuracy"]
            likewise = control.row(0, named=True)
            yield Effect(
                row["way"], row["dose"], row["size"], before, row["accuracy"], row["low"], row["high"], row["n"],
                likewise["accuracy"], likewise["low"], likewise["high"],
            )  # fmt: skip

    def sentences(self) -> list[str]:
        """What a person reads: one a gap and way of switching."""
        if not self.gaps:
            return ["no task that was asked of both a stage and its parent got better"]
        return [self.sentence(gap, mover) for gap in self.gaps for mover in self.movers(gap)]

    def sentence(self, gap: Gap, mover: str) -> str:
        """One gap, one mover: both directions beside their control."""
        n = len(self.set_of(gap, mover))
        told = [_said(gap, effect) for effect in self.effects(gap, mover) if effect.dose in SAID_DOSES]
        task = gap.task.replace("_", " ")
        head = f"{gap.stage}, {task} ({gap.before:.3f} → {gap.after:.3f}): {n} latent{'s'[: n != 1]}, {SAID[mover]}"
        return f"{head}: {'; '.join(told)}"

    def summary(self) -> list[dict[str, Any]]:
        """Every effect as JSON."""
        return [
            {"stage": gap.stage, "task": gap.task, "mover": mover, "latents": self.set_of(gap, mover)}
            | effect._asdict()
            | {"carries": effect.carries}
            for gap in self.gaps
            for mover in self.movers(gap)
            for effect in self.effects(gap, mover)
        ]


def _said(gap: Gap, effect: Effect) -> str:
    where = f"on in {gap.parent}" if effect.way == ON else f"off in {gap.stage}"
    verdict = "carries" if effect.carries else "does not carry"
    return (
        f"{where} ×{effect.dose:g} {effect.before:.3f} → {effect.accuracy:.3f} "
        f"[{effect.low:.3f}, {effect.high:.3f}] (matched latents {effect.matched:.3f}): {verdict}"
    )
