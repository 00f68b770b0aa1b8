"""A circuit's edges patched one by one (`workbench.circuits.check_build`), read.

CircuitCheck.of(lab, "capitals-base-sft-grpo").sentences()
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.circuits.circuit_history import how_to_ask
from workbench.circuits.found_circuits import FoundCircuits
from workbench.errors import Misuse
from workbench.intervals import bracketed
from workbench.lab import Lab
from workbench.part_tables import Tables
from workbench.plan import Plan, check_name

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "scores": ("checkpoint", "sender", "receiver", "exact", "low", "high", "eap_ig", "eap"),
    "agreement": ("checkpoint", "method", "measure", "value", "low", "high", "n_edges", "n_pairs"),
}


@dataclasses.dataclass(frozen=True)
class CircuitCheck(Tables):
    """One artefact: `figures` of its manifest, its tables, and the circuit whose scores are held against it."""

    TABLES = COLUMNS
    remedy = "ask for the circuit with --check again"

    found: FoundCircuits
    figures: Mapping[str, Any]
    path: Path

    @classmethod
    def of(cls, lab: Lab, name: str) -> CircuitCheck:
        """`Misuse`, with the command, where the edges of circuit `name` have not been patched."""
        found = FoundCircuits.of(lab, name)
        step = Plan.of(lab).steps.get(f"circuit/{check_name(name)}")
        artefact = None if step is None else lab.artefact(step.kind, step.name, step.id)
        if artefact is None:
            command, n = how_to_ask(lab.name, found.config, "--check"), found.graph.n_edges
            raise Misuse(
                f"how nearly the scores of circuit {name!r} are what each edge does by itself has not been "
                f"measured: `{command}` does that, with a pass of every pair for each of {n:,} edges in each "
                "checkpoint that does the task"
            )
        return cls(found, artefact.figures, artefact.path)

    @property
    def checkpoints(self) -> list[str]:
        """Those that do the task, whose edges were patched."""
        return list(self.figures["checkpoints"])

    def sentences(self) -> list[str]:
        """One a checkpoint and method."""
        if not self.checkpoints:
            return ["No checkpoint does the task, so no edge was patched for itself"]
        rows, found = self.table("agreement"), []
        for name, method in rows.select("checkpoint", "method").unique(maintain_order=True).iter_rows():
            part = rows.filter(checkpoint=name, method=method)
            told = ", ".join(
                f"{measure} {bracketed(value, low, high, 2)}"
                for measure, value, low, high in part.select("measure", "value", "low", "high").iter_rows()
            )
            n_edges, n_pairs = part.select("n_edges", "n_pairs").row(0)
            found.append(
                f"{name}: {method} beside {n_edges} edges patched one by one on {n_pairs} pairs: {told}"
            )
        return found

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {**self.figures, "agreement": self.table("agreement").to_dicts()}
