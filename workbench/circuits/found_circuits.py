"""Finished circuits of a lab, read: one task in several checkpoints, with what each stage made of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from workbench.circuit_config import ACDC, CircuitConfig
from workbench.circuits.across import WITHIN
from workbench.circuits.circuit import GREEDY, Circuit, chosen
from workbench.circuits.difference_graph import DifferenceGraph, Scored, difference
from workbench.circuits.graph import Graph
from workbench.intervals import bracketed
from workbench.lab import Artefact, Lab
from workbench.part_tables import Tables

if TYPE_CHECKING:
    import polars as pl

    from workbench.circuits.pairs import Pairs

RANDOM, OTHER_TASK = "random", "other task"  # kinds of controls
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "competence": ("checkpoint", "figure", "value", "low", "high", "n"),
    "edges": ("checkpoint", "sender", "receiver", "score", "low", "high", "in_circuit"),
    "curve": ("checkpoint", "order", "share", "n_edges", "f", "low", "high"),
    "controls": ("checkpoint", "kind", "draw", "n_edges", "overlap", "f", "low", "high"),
    "transfer": ("source", "target", "n_edges", "f", "low", "high"),
    "overlap": ("before", "after", "n_edges", "measure", "value", "floor", "sibling", "sibling_name"),
    "verdicts": ("before", "after", "verdict", "why", "gap", "low", "high"),
    "prompts": ("use", "clean", "corrupt", "target", "foil"),
}


@dataclasses.dataclass(frozen=True)
class FoundCircuits(Tables):
    """One artefact: `figures` of its manifest, tables by name."""

    TABLES = COLUMNS
    remedy = "ask for the circuit again"

    name: str
    config: Mapping[str, Any]
    figures: Mapping[str, Any]
    path: Path

    @classmethod
    def of(cls, lab: Lab, name: str) -> FoundCircuits:
        """`Misuse` where no such circuit is in the recipe or it has not been built."""
        artefact: Artefact = lab.find("circuit", name)
        return cls(name, artefact.config, artefact.figures, artefact.path)

    @property
    def task(self) -> str:
        return str(self.figures["task"])

    @property
    def finder(self) -> str:
        """What found its edges."""
        return CircuitConfig.of(self.config).finder

    @property
    def checkpoints(self) -> list[str]:
        return list(self.config["checkpoints"])

    @property
    def able(self) -> list[str]:
        """The checkpoints that do the task: of the others no circuit is claimed."""
        return [name for name in self.checkpoints if self.figures["checkpoints"][name]["does_it"]]

    @functools.cached_property
    def graph(self) -> Graph:
        shape = self.figures["graph"]
        return Graph(shape["n_layers"], shape["n_heads"], shape["n_kv_heads"], shape["parallel"])

    def circuit(self, checkpoint: str) -> Circuit:
        """The circuit of one checkpoint."""
        import polars as pl

        rows = self.table("edges").filter(pl.col("checkpoint") == checkpoint)
        edges = self._over_edges(rows, "in_circuit").astype(bool)
        return Circuit(self.graph, self.task, checkpoint, edges, self._over_edges(rows, "score"))

    def scored(self, checkpoint: str) -> Scored:
        """Every edge's score in one checkpoint (siblings among them), with its interval over pairs."""
        import polars as pl

        rows = self.table("edges").filter(pl.col("checkpoint") == checkpoint)
        return Scored(*(self._over_edges(rows, column) for column in ("score", "low", "high")))

    def _over_edges(self, rows: pl.DataFrame, column: str) -> Float[np.ndarray, "sender receiver"]:
        senders = {name: at for at, name in enumerate(self.graph.senders)}
        receivers = {each.name: at for at, each in enumerate(self.graph.receivers)}
        found = np.zeros(self.graph.edges.shape)
        at = ([senders[s] for s in rows["sender"]], [receivers[r] for r in rows["receiver"]])
        found[at] = rows[column].to_numpy()
        return found

    def at_share(self, checkpoint: str, share: float) -> Circuit:
        """The circuit of that share of the edges, chosen from scores as the checkpoint's own was."""
        own = self.circuit(checkpoint)
        n = max(1, round(share * self.graph.n_edges))
        return dataclasses.replace(own, edges=chosen(self.graph, own.scores, n, GREEDY))

    def own_share(self, checkpoint: str) -> float | None:
        """The step of the ladder that chooses the checkpoint's circuit; None where ACDC found it."""
        from workbench.circuits.study import LADDER

        if self.finder == ACDC:
            return None
        own = self.circuit(checkpoint).edges
        steps = (share for share in LADDER if np.array_equal(self.at_share(checkpoint, share).edges, own))
        return next(steps, None)

    @property
    def n_search(self) -> int:
        """Pairs that found the circuits: at most as many as were asked for."""
        return int(self.figures["n_pairs"]["search"])

    def pairs(self, lab: Lab, use: str = "search", one_length: bool = False) -> Pairs:
        """The pairs that were read, or with `one_length` as many that are equally long."""
        from workbench.circuits.own_tasks import the_task
        from workbench.circuits.tasks import task_pairs

        n, seed = self.config["n_pairs"], self.config["seed"]
        return task_pairs(lab, the_task(self.config), n, use, seed, self.checkpoints[0], one_length=one_length)

    def difference(self, before: str, after: str) -> DifferenceGraph:
        """What became of the edges, the two circuits as large as the larger one is."""
        n = max(self.circuit(each).n_edges for each in (before, after))
        return difference(self.graph, self.scored(before), self.scored(after), n)

    def sentences(self) -> list[str]:
        """One a checkpoint, then one a pair."""
        found = [self._sentence(name, self.figures["checkpoints"][name]) for name in self.checkpoints]
        rows = self.table("verdicts").select("before", "after", "verdict", "why").rows()
        return found + [f"{before} -> {after}: {word}; {why}" for before, after, word, why in rows]

    def _sentence(self, name: str, figures: Mapping[str, Any]) -> str:
        if not figures["does_it"]:
            return f"{name} does not do the task: {figures['why_not']}"
        controls = self._controls(name)
        return (
            f"{name}: {figures['n_edges']} of {self.graph.n_edges} edges ({figures['share']:.1%}) do "
            f"f = {bracketed(figures['f'], figures['low'], figures['high'], 2)} of the task"
            f"{'' if figures['faithful'] else ', which is not faithful'}; {controls}; "
            f"CPR {figures['cpr']:.2f}, CMD {figures['cmd']:.2f}"
        )

    def _controls(self, name: str) -> str:
        import polars as pl

        rows = self.table("controls").filter(pl.col("checkpoint") == name)
        random = rows.filter(pl.col("kind") == RANDOM)
        f, shared = random["f"].to_numpy(), random["overlap"].to_numpy()
        low, high = np.quantile(f, (0.025, 0.975))
        told = (
            f"{len(f)} random circuits of its degrees {f.mean():.2f} on average, 95 % of them from {low:.2f} to "
            f"{high:.2f} (they share {shared.mean():.0%} of its edges on average; "
            f"{(np.abs(f - 1) <= WITHIN).sum()} of them are as faithful as is asked)"
        )
        other = rows.filter(pl.col("kind") == OTHER_TASK)
        if len(other):
            f, low, high = other.select("f", "low", "high").row(0)
            told += f", the circuit of {self.config['other']} {bracketed(f, low, high, 2)}"
        return told

    def describe(self) -> str:
        """For people."""
        missed = max(each["residual"] for each in self.figures["checkpoints"].values())
        n = self.figures["n_pairs"]
        pairs = f"{n['search']} pairs found it, {n['judge']} others judge it"
        head = f"circuit {self.name!r}: {self.figures['question']} ({self.figures['method']}; {pairs})"
        end = f"what the parts write misses the stream by at most {missed:.1g} of the effect"
        return "\n".join([head, *self.sentences(), end])

    def told(self) -> dict[str, Any]:
        """As JSON."""
        tables = ("competence", "controls", "transfer", "overlap", "verdicts")
        return {**self.figures, **{name: self.table(name).to_dicts() for name in tables}}
