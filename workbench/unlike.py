"""Checkpoints that cannot be laid side by side token by token, and what can be said of them all the same, read.

what cannot    KL per token, crosscoders, differences of weights, lives and gains (`workbench.likeness`)
what can       bits per byte on the same characters, answers in each one's own chat form, linear CKA where
               words end; KL and loss where the tokens are shared; which parameters agree in shape
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.intervals import bracketed
from workbench.lab import Lab
from workbench.part_tables import read_part
from workbench.plan import Plan

if TYPE_CHECKING:
    import polars as pl

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "bits": ("checkpoint", "domain", "bits", "low", "high", "n", "bytes"),
    "gaps": ("before", "after", "domain", "gap", "low", "high", "n", "bytes"),
    "answers": ("checkpoint", "task", "question", "result", "said", "states", "form"),
    "cka": ("before", "after", "layer_before", "layer_after", "cka", "low", "high", "null", "null_high", "n"),
    "kl": ("p", "q", "domain", "kl", "low", "high", "n"),
    "loss": ("before", "after", "checkpoint", "domain", "loss", "low", "high", "n"),
}


def names_of(lab: Lab) -> list[str]:
    """Those of the recipe that are finished, in its order."""
    plan = Plan.of(lab)
    steps = [plan.step("evaluation", config.name) for config in plan.recipe.unlike]
    return [step.name for step in steps if lab.artefact("evaluation", step.name, step.id) is not None]


@dataclasses.dataclass(frozen=True)
class Unlike:
    """A finished comparison of unlike checkpoints. `figures`: headline, cannot, notes, contexts (tokens read at
    once), accuracy, weights, documents, bytes."""

    name: str
    checkpoints: tuple[str, ...]
    figures: Mapping[str, Any]
    path: Path

    @classmethod
    def of(cls, lab: Lab, name: str) -> Unlike:
        """`Misuse` where there is none, or not yet."""
        found = lab.find("evaluation", name)
        return cls(name, tuple(found.config["checkpoints"]), found.figures, found.path)

    @property
    def headline(self) -> str:
        """What cannot be compared and why, in one sentence."""
        return str(self.figures["headline"])

    @cached_property
    def bits(self) -> pl.DataFrame:
        """checkpoint, domain, bits (per byte), low, high, n (documents), bytes."""
        return read_part(self.path, "bits", COLUMNS["bits"])

    @cached_property
    def gaps(self) -> pl.DataFrame:
        """before, after, domain, gap (bits per byte of the later less the earlier's), low, high, n, bytes."""
        return read_part(self.path, "gaps", COLUMNS["gaps"])

    @cached_property
    def answers(self) -> pl.DataFrame:
        """checkpoint, task, question, result, said, states, form (`workbench.unlike_scores`)."""
        return read_part(self.path, "answers", COLUMNS["answers"])

    @cached_property
    def cka(self) -> pl.DataFrame:
        """before, after, layer_before, layer_after, cka, low, high, null, null_high, n (words)."""
        return read_part(self.path, "cka", COLUMNS["cka"])

    @cached_property
    def kl(self) -> pl.DataFrame | None:
        """p, q, domain, kl (nats per token), low, high, n; None where no two share tokens."""
        return read_part(self.path, "kl", COLUMNS["kl"]) if (self.path / "kl.parquet").exists() else None

    @cached_property
    def loss(self) -> pl.DataFrame | None:
        """before, after, checkpoint, domain, loss (nats per token), low, high, n; None as of `kl`."""
        return read_part(self.path, "loss", COLUMNS["loss"]) if (self.path / "loss.parquet").exists() else None

    def accuracy(self, rule: str = "states") -> pl.DataFrame:
        """checkpoint, task, accuracy, low, high, n: answers that state the result, or have the lab's `form` too."""
        import polars as pl

        rows = [
            {"checkpoint": name, "task": task.replace("_", " ")}
            | {("accuracy" if key == "mean" else key): value for key, value in told[rule].items()}
            for name, tasks in self.figures["accuracy"].items()
            for task, told in tasks.items()
        ]
        columns = ("accuracy", "low", "high")
        return pl.DataFrame(
            rows,
            schema={
                "checkpoint": pl.String, "task": pl.String, **dict.fromkeys(columns, pl.Float64), "n": pl.Int64
            },
        )  # fmt: skip

    def commonest(self) -> dict[str, float]:
        """By task, what one would reach who always gave the commonest result."""
        found: dict[str, float] = {}
        for tasks in self.figures["accuracy"].values():
            found |= {task.replace("_", " "): told["commonest"] for task, told in tasks.items()}
        return found

    def describe(self) -> str:
        """For people; the first line says what cannot be compared."""
        lines = [self.headline, *(f"    {sentence}" for sentence in self.figures["cannot"])]
        return "\n".join([*lines, *self._lines()])

    def _lines(self) -> Iterator[str]:
        told = self.figures
        yield f"bits per byte on the same {told['documents']:,} held-out documents ({told['bytes']:,} bytes)"
        for (name,), rows in self.bits.group_by("checkpoint", maintain_order=True):
            each = "; ".join(
                f"{r['domain']} {_interval(r, 'bits')} n {r['n']}" for r in rows.iter_rows(named=True)
            )
            yield f"    {name} (context {told['contexts'][str(name)]:,}): {each}"
        for r in self.gaps.filter(domain="all").iter_rows(named=True):
            yield f"    {r['after']} less {r['before']}: {_interval(r, 'gap')} over all"
        yield "answers that state the result, in each one's own chat form"
        for (name,), rows in self.accuracy().group_by("checkpoint", maintain_order=True):
            each = "; ".join(
                f"{r['task']} {_interval(r, 'accuracy')} n {r['n']}" for r in rows.iter_rows(named=True)
            )
            yield f"    {name}: {each}"
        always = "; ".join(f"{task} {share:.3f}" for task, share in self.commonest().items())
        yield f"    the commonest result, always given: {always}"
        if self.kl is not None:
            for r in self.kl.filter(domain="all").iter_rows(named=True):
                yield f"KL({r['p']}‖{r['q']}) {_interval(r, 'kl')} nats a token, n {r['n']:,}"
        yield from told["notes"]

    def told(self) -> dict[str, Any]:
        """For machines: plain values, one document."""
        tables = {
            "bits_per_byte": self.bits,
            "gaps": self.gaps,
            "cka": self.cka,
            "kl": self.kl,
            "loss": self.loss,
        }
        rows = {name: table.to_dicts() for name, table in tables.items() if table is not None}
        return {"checkpoints": list(self.checkpoints), **self.figures, **rows}


def _interval(row: Mapping[str, Any], value: str) -> str:
    return bracketed(row[value], row["low"], row["high"])
