"""The drift of a comparison, read: how weights and activations moved between each pair of its checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.lab import Lab
from workbench.part_tables import read_part
from workbench.parts import part_name

if TYPE_CHECKING:
    import polars as pl


@dataclasses.dataclass(frozen=True)
class Drift:
    """`figures`: `moved` (‖ΔW‖/‖W‖ over all weights) and `apart` (parameters that cannot be compared), by pair."""

    comparison: str
    figures: Mapping[str, Any]
    path: Path

    @classmethod
    def of(cls, lab: Lab, comparison: str) -> Drift:
        """The drift of a finished comparison; `Misuse` where it has not been taken apart."""
        artefact = lab.find("evaluation", part_name("drift", comparison))
        return cls(comparison, artefact.figures, artefact.path)

    @cached_property
    def weights(self) -> pl.DataFrame:
        """before, after, parameter, layer, kind, moved, cosine, effective_rank, top_energy, unchanged…"""
        columns = (
            "before",
            "after",
            "parameter",
            "layer",
            "kind",
            "moved",
            "effective_rank",
            "unchanged_bfloat16",
        )
        return read_part(self.path, "weights", columns)

    @cached_property
    def layers(self) -> pl.DataFrame:
        """before, after, layer, figure (cka, moved), value, low, high, n (tokens)."""
        return read_part(
            self.path, "layers", ("before", "after", "layer", "figure", "value", "low", "high", "n")
        )

    @cached_property
    def cka(self) -> pl.DataFrame:
        """before, after, layer_before, layer_after, cka, n (tokens)."""
        return read_part(self.path, "cka", ("before", "after", "layer_before", "layer_after", "cka", "n"))
