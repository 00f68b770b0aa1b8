"""What a stage changed beside what its sham and its sibling changed, figure by figure.

    stage     parent → stage                 what is claimed
    sham      parent → sham                  going on with the parent's data, as many steps
    sibling   stage → sibling                the same stage, another seed: the noise floor

Each is a comparison of its own, with a crosscoder of its own trained alike. A change is credible where it is beyond
both: `floor` is the larger of the two. For shares of latents that floor is the false-positive rate of "this stage
added X" [METHODS 2]. Base has neither: two base models from two seeds share no basis.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.branches import control_of
from workbench.comparison import Comparison
from workbench.drift import Drift
from workbench.errors import Misuse
from workbench.gains import gaps_between
from workbench.lab import Lab
from workbench.plan import Plan
from workbench.recipe import SHAM, SIBLING, STAGES, ComparisonConfig, Recipe
from workbench.specificity import Specificity

if TYPE_CHECKING:
    import polars as pl

STAGE = "stage"
DOMAINS = ("prose", "world", "chat")  # of the texts that every checkpoint reads
KINDS = (STAGE, SHAM, SIBLING)
SCHEMA_NAMES = ("stage", "kind", "before", "after", "figure", "value", "low", "high", "n")


class Pair(NamedTuple):
    """One of a stage's three comparisons."""

    stage: str
    kind: str
    before: str
    after: str


def pairs_of(checkpoints: tuple[str, ...]) -> list[Pair]:
    """The comparisons that tell the stages among `checkpoints` from their controls."""
    found = []
    for parent, stage in itertools.pairwise(STAGES):
        if stage in checkpoints:
            sham, sibling = control_of(stage, SHAM), control_of(stage, SIBLING)
            found += [Pair(stage, STAGE, parent, stage), Pair(stage, SHAM, parent, sham)]
            found.append(Pair(stage, SIBLING, stage, sibling))
    if not found:
        raise Misuse(
            f"only {' and '.join(STAGES[1:])} have controls; found {', '.join(checkpoints)}: "
            "compare without --controls"
        )
    return found


def comparison_of(recipe: Recipe, pair: Pair) -> ComparisonConfig | None:
    """The recipe's comparison of a pair, if it was taken apart."""
    wanted = (pair.before, pair.after)
    apart = (c for c in recipe.comparisons if c.checkpoints == wanted and c.name in recipe.compared)
    return next((c for c in apart if recipe.dictionary(c.dictionary).usual), None)


@dataclasses.dataclass(frozen=True)
class Controls:
    """The finished comparisons of the stages among some checkpoints, read."""

    lab: Lab
    comparisons: Mapping[Pair, str]

    @classmethod
    def of(cls, lab: Lab, checkpoints: tuple[str, ...]) -> Controls:
        """`Misuse` where a control has not been compared yet."""
        recipe = Plan.of(lab).recipe
        found = {}
        for pair in pairs_of(checkpoints):
            config = comparison_of(recipe, pair)
            if config is None:
                raise Misuse(
                    f"{pair.before} and {pair.after} have not been compared: "
                    f"`python -m workbench compare {lab.name} {' '.join(checkpoints)} --controls` does it"
                )
            found[pair] = config.name
        return cls(lab, found)

    @cached_property
    def table(self) -> pl.DataFrame:
        """stage, kind, before, after, figure, value, low, high (null where a figure has no interval), n."""
        import polars as pl

        rows = [
            (*pair, *figure) for pair, name in self.comparisons.items() for figure in self._figures(pair, name)
        ]
        table = pl.DataFrame(rows, schema=list(SCHEMA_NAMES), orient="row", infer_schema_length=None)
        # a task that a parent was not asked has no gain to hold against its controls
        return table.filter(pl.len().over("stage", "figure") == len(KINDS))

    def _figures(self, pair: Pair, name: str) -> Iterator[tuple[str, float, float | None, float | None, int]]:
        found = Specificity.of(self.lab, name).exclusive(pair.after)
        for figure, share in (("own by norm", found.by_norm), ("specific by scaling", found.specific)):
            if share.value is not None:
                yield figure, share.value, share.low, share.high, share.n
        drift, comparison = Drift.of(self.lab, name), Comparison.of(self.lab, name)
        n = int(drift.weights["n"].sum())
        yield "weights moved", drift.figures["moved"][f"{pair.before}|{pair.after}"], None, None, n
        yield from self._deepest(drift)
        kl = comparison.kl.row(by_predicate=_everywhere(pair), named=True)
        yield "KL from the parent", kl["kl"], kl["low"], kl["high"], kl["n"]
        for row in comparison.excess_loss.iter_rows(named=True):
            if row["domain"] in DOMAINS:
                yield f"excess loss on {row['domain']}", row["excess"], row["low"], row["high"], row["n"]
        yield from self._gains(pair)

    def _gains(self, pair: Pair) -> Iterator[tuple[str, float, float | None, float | None, int]]:
        """Accuracy after less before, by task, where both were asked."""
        for gap in gaps_between(self.lab, pair.before, pair.after):
            yield f"gain on {gap.task.replace('_', ' ')}", gap.after - gap.before, gap.low, gap.high, gap.n

    @staticmethod
    def _deepest(drift: Drift) -> Iterator[tuple[str, float, float | None, float | None, int]]:
        """Of the last layer: all that the model says passes there."""
        import polars as pl

        rows = drift.layers.filter(pl.col("layer") == pl.col("layer").max())
        for figure, said in (("moved", "activations moved"), ("cka", "1 − CKA")):
            row = rows.filter(pl.col("figure") == figure).row(0, named=True)
            value, low, high = row["value"], row["low"], row["high"]
            if figure == "cka":
                value, low, high = 1 - value, 1 - high, 1 - low
            yield said, value, low, high, row["n"]

    def verdicts(self) -> list[dict[str, Any]]:
        """For each stage and figure: its value, both controls', the floor, and whether it is beyond it, intervals
        and all."""

        found = []
        for (stage, figure), part in self.table.group_by("stage", "figure", maintain_order=True):
            by_kind = {row["kind"]: row for row in part.iter_rows(named=True)}
            mine, *theirs = (by_kind[kind] for kind in KINDS)
            falls = mine["value"] < 0  # an excess loss below zero: beyond is further below
            near, far = ("high", "low") if falls else ("low", "high")
            ends = [row[far] if row[far] is not None else row["value"] for row in theirs]
            least = mine[near] if mine[near] is not None else mine["value"]
            pick = min if falls else max
            found.append(
                {
                    "stage": stage, "figure": figure, "value": mine["value"], SHAM: by_kind[SHAM]["value"],
                    SIBLING: by_kind[SIBLING]["value"], "floor": pick(row["value"] for row in theirs),
                    "credible": bool(least < pick(ends) if falls else least > pick(ends)), "n": mine["n"],
                }
            )  # fmt: skip
        return found

    def describe(self) -> str:
        """For people: a line a stage and figure."""
        lines = []
        for v in self.verdicts():
            said = "beyond both" if v["credible"] else "not beyond them"
            lines.append(
                f"{v['stage']}: {v['figure']} {v['value']:.4g} "
                f"(sham {v[SHAM]:.4g}, sibling {v[SIBLING]:.4g}: {said})"
            )
        return "\n".join(lines)


def _everywhere(pair: Pair) -> Any:
    """KL(after ‖ before) over all domains."""
    import polars as pl

    return (pl.col("p") == pair.after) & (pl.col("q") == pair.before) & (pl.col("domain") == "all")
