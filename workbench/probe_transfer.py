"""The probe transfer of a comparison, read: how well probes fitted on one checkpoint tell the world's factors in
another.

    gap(i → j) = AUROC(i → j) − AUROC(j → j)      below zero: i's probe tells less than the one fitted on j itself

(The stored table calls its column `loss`, which reads as the opposite sign: it is `gap` from here on.)

A probe that tells a factor in i and not in j, where j's own probe does, says that the factor is there and written
in other directions.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any

from workbench.intervals import bracketed
from workbench.part_tables import Part, read_part

if TYPE_CHECKING:
    import polars as pl

FACTOR, CONTROL = "factor", "control"  # tasks
MEAN = "mean over factors"
ENDS = ("", "_low", "_high")


def _ended(*names: str) -> dict[str, type]:
    """Figures with the ends of their intervals."""
    return {f"{name}{end}": float for name in names for end in ENDS}


TRANSFER: dict[str, Any] = {
    "fitted": str, "scored": str, "factor": str, "task": str, **_ended("auroc", "ap", "loss"),
    "n": int, "positives": int, "documents": int,
}  # fmt: skip
PROBES: dict[str, Any] = {
    "checkpoint": str, "factor": str, "penalty": float, **_ended("accuracy", "control", "selectivity"), "n": int,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ProbeTransfer(Part):
    """`figures`: `checkpoints`, `site`, `factors` (names, most frequent first), `shares` (of tokens a factor is on
    in, least and most), `tokens` and `documents` (fitted on, C chosen on, scored on)."""

    PART = "probe_transfer"

    @cached_property
    def transfer(self) -> pl.DataFrame:
        """A row for each checkpoint fitted on, scored on, factor (or `MEAN`) and task (columns: `TRANSFER`,
        `loss` as `gap`)."""
        table = read_part(self.path, "transfer", TRANSFER)
        return table.rename({f"loss{end}": f"gap{end}" for end in ENDS})

    @cached_property
    def probes(self) -> pl.DataFrame:
        """A row for each checkpoint's own probe of a factor (or `MEAN`) (columns: `PROBES`)."""
        return read_part(self.path, "probes", PROBES)

    @property
    def known(self) -> bool:
        """Whether any factor was frequent enough."""
        return bool(self.figures["factors"])

    @property
    def means(self) -> pl.DataFrame:
        """The matrix over factors: rows of `transfer` that are means of factors."""
        return self.transfer.filter(factor=MEAN, task=FACTOR)

    def of_pair(self, fitted: str, scored: str) -> pl.DataFrame:
        """factor, by, auroc, low, high, n: probes of `fitted`, of `scored` itself and of the control task, all
        on `scored`."""
        import polars as pl

        rows = self.transfer.filter(pl.col("factor") != MEAN, pl.col("scored") == scored)
        said = {fitted: f"fitted on {fitted}"} | ({scored: f"fitted on {scored} itself"})
        factors = rows.filter(pl.col("task") == FACTOR, pl.col("fitted").is_in(list(said)))
        control = rows.filter(pl.col("task") == CONTROL, pl.col("fitted") == fitted)
        named = [
            factors.with_columns(by=pl.col("fitted").replace(said)),
            control.with_columns(by=pl.lit(f"control task, fitted on {fitted}")),
        ]
        return pl.concat(named).select("factor", "by", "auroc", low="auroc_low", high="auroc_high", n="n")

    def below_control(self, checkpoint: str) -> list[str]:
        """Factors that the checkpoint's own probes tell less well than words at random, intervals and all."""
        import polars as pl

        own = self.transfer.filter(pl.col("factor") != MEAN, fitted=checkpoint, scored=checkpoint)
        told, by_heart = (own.filter(task=task) for task in (FACTOR, CONTROL))
        both = told.join(by_heart, on="factor", suffix="_control", maintain_order="left")
        return both.filter(pl.col("auroc_high") < pl.col("auroc_low_control"))["factor"].to_list()

    def summary(self) -> dict[str, Any]:
        """For machines: the matrix, the means of accuracy and selectivity, and what they are of."""
        control = self.transfer.filter(factor=MEAN, task=CONTROL)
        return {
            **self.figures,
            "transfer": self.means.drop("factor", "task", "positives").to_dicts(),
            "control": control.drop("factor", "task", "positives").to_dicts(),
            "selectivity": self.probes.filter(factor=MEAN).drop("factor", "penalty").to_dicts(),
        }

    def sentences(self, before: str, after: str) -> list[str]:
        """What a person reads of two checkpoints."""
        if not self.known:
            return ["probes: no labelled factor is frequent enough to fit one"]
        told = [self._sentence(*pair) for pair in ((before, after), (after, before))]
        for own in self.probes.filter(checkpoint=after, factor=MEAN).iter_rows(named=True):
            told.append(
                f"probes of {after}: balanced accuracy {_interval(own, 'accuracy')}, on the control task "
                f"{_interval(own, 'control')}: selectivity {_interval(own, 'selectivity')}"
            )
        return told

    def _sentence(self, fitted: str, scored: str) -> str:
        (row,) = self.means.filter(fitted=fitted, scored=scored).to_dicts()
        (own,) = self.means.filter(fitted=scored, scored=scored).to_dicts()
        return (
            f"probes of {len(self.figures['factors'])} factors fitted on {fitted}: AUROC on {scored} "
            f"{_interval(row, 'auroc')}, {scored}'s own {_interval(own, 'auroc')}; transfer gap "
            f"{_interval(row, 'gap')} (below zero: lost), n = {row['n']:,} tokens of {row['documents']} documents"
        )


def _interval(row: dict[str, Any], name: str) -> str:
    """A figure with its interval."""
    return bracketed(*(row[f"{name}{end}"] for end in ENDS))
