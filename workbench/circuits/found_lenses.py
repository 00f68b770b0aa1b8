"""A finished tuned lens of a lab, read: the lens, and KL by layer through it beside others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.intervals import bracketed
from workbench.lab import Lab
from workbench.part_tables import Tables
from workbench.plan import lens_name

if TYPE_CHECKING:
    from workbench.circuits.tuned_lens import TunedLens

OWN, ROOT = "own", "root"
_KL = ("lens", "layer", "row", "kl", "low", "high", "tokens", "documents")
COLUMNS: Mapping[str, tuple[str, ...]] = {"kl": _KL, "above": (*_KL, "other")}


@dataclasses.dataclass(frozen=True)
class FoundLens(Tables):
    """One artefact. `name`: the checkpoint's."""

    TABLES = COLUMNS
    remedy = "ask for the lens again"

    name: str
    figures: Mapping[str, Any]
    path: Path

    @classmethod
    def of(cls, lab: Lab, name: str) -> FoundLens:
        """`Misuse` where the checkpoint has no lens in the recipe or it has not been fitted."""
        artefact = lab.find("evaluation", lens_name(name))
        return cls(name, artefact.figures, artefact.path)

    @property
    def root(self) -> str:
        """The root of the lineage, whose lens is read on this checkpoint too."""
        return str(self.figures["root"])

    def lens(self) -> TunedLens:
        """The maps themselves."""
        from workbench.circuits.tuned_lens import TunedLens

        return TunedLens.load(self.path)

    def lenses(self, lab: Lab) -> Mapping[str, TunedLens]:
        """Its own and, of all but the root, the root's, called as in the tables."""
        own = {OWN: self.lens()}
        return own if self.root == self.name else own | {ROOT: FoundLens.of(lab, self.root).lens()}

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {**self.figures, **{name: self.table(name).to_dicts() for name in COLUMNS}}

    def describe(self) -> str:
        """A table for people: rows of the model, a column a lens, then the differences."""
        columns = [(_said(lens, self.root), rows) for lens, rows in self._columns("kl", ["lens"])]
        columns += [
            (f"{_said(lens, self.root)} above {_said(other, self.root)}", rows)
            for (lens, other), rows in self._columns("above", ["lens", "other"])
        ]
        names = (
            self.table("kl").filter(self.table("kl")["lens"] == self.table("kl")["lens"][0])["row"].to_list()
        )
        grid = [["", *names], *([head, *cells] for head, cells in columns)]
        widths = [max(map(len, column)) for column in grid]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in zip(*grid, strict=True)
        ]
        counts = f"{self.figures['tokens']:,} held-out tokens of {self.figures['documents']:,} documents"
        return "\n".join([f"{self.name}: KL from the model's own prediction, nats a token ({counts})", *lines])

    def _columns(self, name: str, keys: list[str]) -> list[tuple[Any, list[str]]]:
        found = []
        for key, rows in self.table(name).group_by(keys, maintain_order=True):
            cells = [bracketed(*each) for each in rows.sort("layer").select("kl", "low", "high").rows()]
            found.append((key if len(key) > 1 else key[0], cells))
        return found


def _said(lens: str, root: str) -> str:
    return {OWN: "own lens", ROOT: f"{root}'s lens"}.get(lens, lens)
