"""The verdict on a comparison: for each stage what it added, strengthened, silenced and left alone.

Gathered from the parts that the comparison was taken apart into; what is missing is said. Every line has n, an
interval, its controls where they were compared, and the page that shows its evidence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from workbench.changed import Changed
from workbench.comparison import Comparison
from workbench.controls import DOMAINS, SHAM, SIBLING, Controls
from workbench.drift import Drift
from workbench.errors import MarbleError
from workbench.gains import ON, SAID_DOSES, Gains, accuracies, gaps_between
from workbench.lab import Lab
from workbench.lives import Lives
from workbench.plan import Plan
from workbench.samples import QUESTIONS, Samples
from workbench.specificity import Share, Specificity
from workbench.verdict_sheet import (
    ADDED,
    ALONE,
    CARRIED,
    CHANGED,
    FORGOT,
    LEAST,
    MOVED,
    OTHERWISE,
    SILENCED,
    STRENGTHENED,
    Line,
    Sheet,
    StageSheet,
    sorted_by,
    verdict_of,
)

SAID = {
    "ended": "ends its answers by itself",
    "length": "length of an answer, tokens",
    "entropy": "entropy of the next token in answers, nats",
    "distinct_answers": "share of answers that differ",
}


class _Gatherer:
    """The parts of a comparison that are there, and the lines that they give."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.comparison = lab, Comparison.of(lab, name)
        self.plan, self.missing = Plan.of(lab), []
        self.controls: Controls | None = None
        try:
            self.controls = Controls.of(lab, self.comparison.checkpoints)
        except MarbleError as error:
            self.missing.append(f"without controls: {error}")
        self.beside = {(v["stage"], v["figure"]): v for v in self.controls.verdicts()} if self.controls else {}

    def part(self, kind: Any) -> Any:
        """A part, or None where it was not made; what it says of that goes into `missing`."""
        try:
            return kind.of(self.lab, self.comparison.name)
        except MarbleError as error:
            self.missing.append(str(error))
            return None

    def page(self, page: str, **more: str) -> str:
        """The address of a page about this comparison, or about another that `more` names."""
        return f"{page}?{urlencode({'lab': self.lab.name, 'comparison': self.comparison.name} | more)}"

    def line(self, stage: str, sort: str, said: str, row: Mapping[str, Any], page: str, **more: Any) -> Line:
        held = self.beside.get((stage, more.pop("figure", "")))
        sham, sibling, credible = (held[SHAM], held[SIBLING], held["credible"]) if held else (None, None, None)
        return Line(
            stage, sort, said, row["value"], row["low"], row["high"], row["n"], more.get("before"), sham, sibling,
            credible, page,
        )  # fmt: skip


def sheet(lab: Lab, name: str) -> Sheet:
    """The sheet of the comparison called `name`; `Misuse` where there is none. Parts that are missing are said."""
    found = _Gatherer(lab, name)
    parts = {kind: found.part(kind) for kind in (Drift, Specificity, Samples, Changed, Lives, Gains)}
    stages = []
    for stage in found.comparison.checkpoints:
        parent = found.plan.parent_checkpoint(stage)
        if parent not in found.comparison.checkpoints:
            continue
        lines = [
            *_moved(found, stage),
            *_answers(found, parts[Samples], str(parent), stage),
            *_carried(found, parts[Gains], stage),
            *_forgotten(found, str(parent), stage),
            *_latents(found, parts[Specificity], parts[Lives], stage),
        ]
        notes, verdict = _notes(found, parts[Changed], parts[Drift], str(parent), stage)
        stages.append(StageSheet(stage, str(parent), verdict, notes, lines))
    if not stages:
        found.missing.append(
            f"none of {', '.join(found.comparison.checkpoints)} descends from another of them: there is no stage"
        )
    return Sheet(lab.name, name, stages, list(dict.fromkeys(found.missing)))


def _answers(found: _Gatherer, samples: Samples | None, parent: str, stage: str) -> Iterator[Line]:
    """How it answers: accuracy (greedy on all held-out questions where both were asked, else sampled), form."""
    told = [accuracies(found.lab, name) for name in (parent, stage)]
    gaps = gaps_between(found.lab, parent, stage)
    for gap in gaps:
        before, after = ({**each[gap.task], "value": each[gap.task]["mean"]} for each in told)
        named = gap.task.replace("_", " ")
        gain = {"value": gap.after - gap.before, "low": gap.low, "high": gap.high, "n": gap.n}
        said = f"gain on {named}, {gap.before:.3f} → {gap.after:.3f} right (greedy)"
        page = found.page("compare", view="Gains")
        yield found.line(stage, sorted_by(before, after), said, gain, page, figure=f"gain on {named}")
    if samples is None:
        return
    evidence = found.page("drift", view="Samples")
    asked = samples.said.filter(figure="accuracy")["kind"].unique(maintain_order=True).to_list()
    for kind in (k for k in asked if k not in {QUESTIONS, *(gap.task for gap in gaps)}):
        was, now = (samples.figure(name, kind, "accuracy") for name in (parent, stage))
        if was and now:
            said = f"right on {kind.replace('_', ' ')} (sampled)"
            yield found.line(stage, sorted_by(was, now), said, now, evidence, before=was["value"])
    for figure, said in SAID.items():
        was, now = (samples.figure(name, QUESTIONS, figure) for name in (parent, stage))
        if was and now:
            sort = sorted_by(was, now)
            if figure != "ended" and sort != ALONE:
                sort = OTHERWISE
            yield found.line(stage, sort, said, now, evidence, before=was["value"])


def _carried(found: _Gatherer, gains: Gains | None, stage: str) -> Iterator[Line]:
    """What the set of latents does to each gain, both ways, at each dose that is told, also if that is nothing."""
    if gains is None:
        return
    for gap in (g for g in gains.gaps if g.stage == stage):
        mover = gains.movers(gap)[0]
        latents, task = gains.set_of(gap, mover), gap.task.replace("_", " ")
        page = found.page("compare", view="Gains", gain=f"{stage}: {task}")
        for effect in gains.effects(gap, mover):
            if effect.dose not in SAID_DOSES:
                continue
            where = f"on in {gap.parent}" if effect.way == ON else f"off in {gap.stage}"
            named = f"{len(latents)} latent{'s'[: len(latents) != 1]} switched {where}"
            said = f"right on {task} with {named} (dose ×{effect.dose:g})"
            yield Line(
                stage, CARRIED, said, effect.accuracy, effect.low, effect.high, effect.n, effect.before, None, None,
                effect.carries, page, effect.matched,
            )  # fmt: skip


def _forgotten(found: _Gatherer, parent: str, stage: str) -> Iterator[Line]:
    """Loss by domain less the parent's, paired by document."""
    import polars as pl

    comparison = _with_first(found, parent)
    if comparison is None or stage not in comparison.checkpoints:
        return
    page = found.page("drift", comparison=comparison.name, view="Forgetting")
    rows = comparison.excess_loss.filter(pl.col("checkpoint") == stage)
    for row in rows.iter_rows(named=True):
        if row["domain"] not in DOMAINS:
            continue
        sort = FORGOT if row["low"] > 0 else STRENGTHENED if row["high"] < 0 else ALONE
        yield found.line(
            stage, sort, f"loss on {row['domain']} less {parent}'s, nats a token", {**row, "value": row["excess"]},
            page, figure=f"excess loss on {row['domain']}",
        )  # fmt: skip


def _with_first(found: _Gatherer, parent: str) -> Comparison | None:
    """A finished comparison whose excess loss is over `parent`: this one, or that of the parent and its child."""
    if found.comparison.checkpoints[0] == parent:
        return found.comparison
    for config in found.plan.recipe.comparisons:
        if config.checkpoints[0] == parent and set(config.checkpoints) <= set(found.comparison.checkpoints):
            with contextlib.suppress(MarbleError):
                return Comparison.of(found.lab, config.name)
    return None


def _latents(
    found: _Gatherer, specificity: Specificity | None, lives: Lives | None, stage: str
) -> Iterator[Line]:
    """Latents of its own, and those born in it."""
    if specificity is not None:
        own = specificity.exclusive(stage)
        sort = ADDED if own.specific.hits else ALONE
        said = f"share of latents that are its own (by norm {own.by_norm.hits}, by scaling {own.specific.hits})"
        if own.specific.value is not None:
            yield found.line(
                stage,
                sort,
                said,
                _figures(own.specific),
                found.page("compare", view="Latents"),
                figure="specific by scaling",
            )
    if lives is not None and lives.known and stage in lives.born_in().born:
        born = lives.born_in()
        for sort, share, said in (
            (ADDED, born.born[stage], "share of latents born in it"),
            (SILENCED, born.died[stage], "share of latents that died in it"),
        ):
            if share.value is not None:
                some = share.low is not None and share.low > LEAST
                page = found.page("compare", view="Lives")
                yield found.line(stage, sort if some else ALONE, said, _figures(share), page)


def _figures(share: Share) -> dict[str, Any]:
    """A share as a line's figures."""
    return {"value": share.value, "low": share.low, "high": share.high, "n": share.n}


def _moved(found: _Gatherer, stage: str) -> Iterator[Line]:
    """How far weights, activations and predictions moved; no more than in both controls is left alone."""
    import polars as pl

    if found.controls is None:
        return
    mine = found.controls.table.filter(pl.col("stage") == stage, pl.col("kind") == "stage")
    for figure in ("weights moved", "activations moved", "KL from the parent"):
        for row in mine.filter(pl.col("figure") == figure).iter_rows(named=True):
            credible = found.beside[stage, figure]["credible"]
            sort = MOVED if credible else ALONE
            yield found.line(stage, sort, figure, row, found.page("drift", view="Controls"), figure=figure)


def _notes(
    found: _Gatherer, changed: Changed | None, drift: Drift | None, parent: str, stage: str
) -> tuple[list[str], str]:
    """What changed first, and the verdict."""
    from workbench.changes import SILENT as ROUNDING

    if changed is None or drift is None or (parent, stage) not in changed.pairs:
        return [], CHANGED
    told = changed.figures["pairs"][f"{parent}|{stage}"]
    verdict = verdict_of(drift.figures["moved"][f"{parent}|{stage}"], told["kl"], told["largest"], ROUNDING)
    if verdict != CHANGED:
        return [changed.sentence(parent, stage)], verdict
    return changed.first(parent, stage, 5), verdict
