"""A circuit's way along the snapshots (`workbench.circuits.history_build`), read.

    CircuitHistory.of(lab, "capitals-base-sft-grpo").sentences()

A moment at which the task is not done has no f and nothing in common with anything: its rows are null, so that a
line breaks there. Circuits of moments are found on at most 32 pairs, the last checkpoint's often on more, which
alone keeps them apart: what the last checkpoint's own moment has in common with it (`at_home`) is what the others
are read against.
"""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.circuit_config import ACDC, EAP_IG, CircuitConfig
from workbench.circuits.found_circuits import FoundCircuits
from workbench.errors import Misuse
from workbench.intervals import bracketed
from workbench.lab import Lab
from workbench.part_tables import Tables
from workbench.plan import Plan, history_name

if TYPE_CHECKING:
    import polars as pl

TOLD_APART, LAST_HERE, OWN = "told_apart", "last here", "own"
MOMENT = ("stage", "step", "axis", "place")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "history": (*MOMENT, "figure", "value", "low", "high", "n"),
    "heads": (*MOMENT, "kind", "layer", "head", "score", "low", "high", "null", "attending", "n"),
    "copying": (*MOMENT, "first", "second", "copying", "low", "high", "n"),
}


def how_to_ask(lab: str, config: Mapping[str, Any], *options: str) -> str:
    """The command that asks for a circuit as it was asked for, with `options` more."""
    words = ["circuit", lab, "--task", config["source"] or config["task"]]
    words += ["--checkpoints", ",".join(config["checkpoints"])]
    asked = CircuitConfig.of(config)
    for setting, name in (("--pairs", "n_pairs"), ("--seed", "seed"), ("--finder", "finder")):
        if getattr(asked, name) != getattr(CircuitConfig, name):
            words += [setting, str(getattr(asked, name))]
    words += ["--tau", str(asked.tau)] if asked.finder == ACDC else []
    return shlex.join(["python", "-m", "workbench", *words, *options])


@dataclasses.dataclass(frozen=True)
class CircuitHistory(Tables):
    """One artefact: `figures` of its manifest, its tables, and the circuits that it follows."""

    TABLES = COLUMNS

    found: FoundCircuits
    figures: Mapping[str, Any]
    path: Path

    @classmethod
    def of(cls, lab: Lab, name: str) -> CircuitHistory:
        """`Misuse`, with the command, where circuit `name` has not been followed."""
        found = FoundCircuits.of(lab, name)
        step = Plan.of(lab).steps.get(f"circuit/{history_name(name)}")
        if found.finder != EAP_IG:
            raise Misuse(
                f"circuit {name!r} was found by {found.finder}: along the snapshots only circuits that {EAP_IG} "
                "finds are followed"
            )
        artefact = None if step is None else lab.artefact(step.kind, step.name, step.id)
        if artefact is None:
            raise Misuse(
                f"circuit {name!r} has not been followed along the snapshots of {', '.join(found.checkpoints)}: "
                f"`{how_to_ask(lab.name, found.config, '--snapshots')}` does that, and takes minutes"
            )
        return cls(found, artefact.figures, artefact.path)

    @property
    def remedy(self) -> str:
        return f"follow circuit {self.found.name!r} again"

    @property
    def last(self) -> str:
        """The checkpoint whose circuit is followed."""
        return self.found.checkpoints[-1]

    @property
    def claimed(self) -> bool:
        """It does the task: else it has no circuit that could be followed."""
        return self.last in self.found.able

    @functools.cached_property
    def moments(self) -> pl.DataFrame:
        """Every model on the axis: stage, step, axis, place, `end` of its stage, address, and whether it does the
        task."""
        import polars as pl

        rows = self.table("history")
        done = rows.filter(figure=OWN)["axis"].implode()
        address = pl.when("end").then("stage").otherwise(pl.format("{}@{}", "stage", "step"))
        return (
            rows.filter(figure=TOLD_APART)
            .select(*MOMENT, end=pl.col("step") == pl.col("step").max().over("stage"))
            .with_columns(address=address, done=pl.col("axis").is_in(done))
        )

    def curve(self, figure: str) -> pl.DataFrame:
        """A row a moment: where on the axis, value, low, high, n; null where the task is not done."""
        rows = self.table("history").filter(figure=figure).select("axis", "value", "low", "high", "n")
        return self.moments.join(rows, on="axis", how="left", maintain_order="left")

    def strongest(self, kind: str, n: int = 3) -> list[tuple[int, int]]:
        """Layer and head of those that score highest of one kind at any moment, the highest first."""
        import polars as pl

        largest = self.table("heads").filter(kind=kind).group_by("layer", "head").agg(pl.col("score").max())
        best = largest.sort("score", "layer", "head", descending=[True, False, False])
        return best.select("layer", "head").head(n).rows()

    def head_curves(self, kind: str, n: int = 3) -> pl.DataFrame:
        """The rows of the strongest heads of one kind, with `name`; null is uniform attention's score."""
        import polars as pl

        rows = self.table("heads").filter(kind=kind)
        some = [rows.filter(layer=layer, head=head) for layer, head in self.strongest(kind, n)]
        return pl.concat(some).with_columns(name=pl.format("head {}.{}", "layer", "head"))

    def at_home(self, figure: str) -> float | None:
        """What the last checkpoint's own moment has, None where it is not on the axis or does not do the task."""
        rows = self.curve(figure).filter(address=self.last)
        return rows["value"].item() if len(rows) else None

    def sentences(self) -> list[str]:
        """What a person reads of the task and of its circuit."""
        done = self.moments.filter("done")
        if done.is_empty():
            return [
                f"At none of {len(self.moments)} moments is the task done: no circuit is claimed on the way"
            ]
        last_without = self.moments.filter(~self.moments["done"])["axis"].max()
        kept = done if last_without is None else done.filter(done["axis"] > last_without)
        before = list(done["address"][: len(done) - len(kept)])
        alone = (
            f"{len(before)} of {len(self.moments)} moments ({', '.join(before[:3])}{' …' * (len(before) > 3)})"
        )
        if kept.is_empty():
            lost = f"The task is done at {alone}, and not in the end"
            return [lost] if self.claimed else [lost, self._not_followed()]
        first, end = kept["address"][0], kept["address"][-1]
        told = [f"The task is done from {first} on, told apart {self._told(TOLD_APART, first)} there"]
        if before:
            told.append(f"Before that it is done at {alone} and lost again: by chance, or in another way")
        if not self.claimed:
            return [*told, self._not_followed()]
        told.append(
            f"{self.last}'s circuit does f = {self._told(LAST_HERE, first)} of the task at {first} and "
            f"{self._told(LAST_HERE, end)} at {end}, one found there {self._told(OWN, first)} and "
            f"{self._told(OWN, end)}"
        )
        told.append(
            "One found at a moment has as many edges as the last one, so it may do less there than that one does"
        )
        told.append(f"The two share {self._told('edges', first)} of their edges at {first}{self._beside()}")
        return told

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {**self.figures, "sentences": self.all_sentences(), "rows": self.table("history").to_dicts()}

    def all_sentences(self) -> list[str]:
        """Of the task, of its circuit, and of heads and copying."""
        return [*self.sentences(), *self.figures["sentences"]]

    def _not_followed(self) -> str:
        return f"{self.last} does not do the task: it has no circuit that could be followed"

    def _told(self, figure: str, address: str) -> str:
        ((value, low, high),) = (
            self.curve(figure).filter(address=address).select("value", "low", "high").iter_rows()
        )
        return bracketed(value, low, high, 2)

    def _beside(self) -> str:
        """What the overlap is read against."""
        home = self.at_home("edges")
        if home is None:
            return ""
        fewer, pairs = self.table("history").filter(figure="edges")["n"][0], self.found.n_search
        return f"; {self.last}'s, found on {fewer} pairs and on {pairs}, share {bracketed(home, None, None, 2)}"
