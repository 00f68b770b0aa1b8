"""The drift of a comparison, read: how weights and activations moved between each pair of its checkpoints."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING

from workbench.part_tables import Part, read_part

if TYPE_CHECKING:
    import polars as pl


@dataclasses.dataclass(frozen=True)
class Drift(Part):
    """`figures`: `moved` (‖ΔW‖/‖W‖ over all weights) and `apart` (parameters that cannot be compared), by pair."""

    PART = "drift"

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
