"""Which latents of a comparison are one checkpoint's alone: by the norms of their decoders, and by latent scaling.

    by norm      relative norm at least `exclusive` (`workbench.comparison`): what training left in the decoders
    specific     ν^error < 0.2 and ν^reconstruction < 0.5 for every other checkpoint (`saes.latent_scaling`)

A latent that is exclusive by norm and not specific has its feature in another checkpoint as well: a false
positive of the norm. As many random shared latents are asked the same; the share of those called specific is
the false-positive rate of the scaling [Minder 2025].
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from saes.latent_scaling import ERROR_BOUND, RECONSTRUCTION_BOUND
from workbench.comparison import SHARED, Comparison
from workbench.intervals import wilson
from workbench.lab import Lab
from workbench.part_tables import read_part
from workbench.parts import part_name

if TYPE_CHECKING:
    import polars as pl

FEWEST = 50  # shared latents that are asked at least


class Share(NamedTuple):
    """`hits` of `n`, with a 95 % Wilson interval; None of none."""

    hits: int
    n: int
    low: float | None
    high: float | None

    @classmethod
    def of(cls, hits: int, n: int) -> Share:
        return cls(hits, n, *(wilson(hits, n) if n else (None, None)))

    @property
    def value(self) -> float | None:
        return self.hits / self.n if self.n else None


class Exclusive(NamedTuple):
    """One checkpoint's own latents. `by_norm`: of all that fire; `confirmed`: of those by norm, the specific ones;
    `specific`: of all that fire; `shared`: of random shared latents, those called specific."""

    checkpoint: str
    by_norm: Share
    confirmed: Share
    specific: Share
    shared: Share


@dataclasses.dataclass(frozen=True)
class Specificity:
    """Latent scaling of a finished comparison, beside its kinds by norm."""

    comparison: Comparison
    path: Path

    @classmethod
    def of(cls, lab: Lab, comparison: str) -> Specificity:
        """`Misuse` where the comparison has not been taken apart."""
        artefact = lab.find("evaluation", part_name("scaling", comparison))
        return cls(Comparison.of(lab, comparison), artefact.path)

    @cached_property
    def table(self) -> pl.DataFrame:
        """latent, own, other, error, error_low, error_high, reconstruction, …, n (tokens it fires on)."""
        return read_scaling(self.path)

    def worst(self, own: str) -> pl.DataFrame:
        """latent, error, reconstruction: the largest ν over the other checkpoints; a row a latent that fires."""
        return worst(self.table, own)

    def specific(self, own: str) -> list[int]:
        """Latents under both bounds for every other checkpoint."""
        return specific(self.table, own)

    def exclusive(self, own: str, seed: int = 0) -> Exclusive:
        """Both readings of what is `own`'s alone, and what the scaling says of shared latents."""
        import polars as pl

        fire = set(self.table["latent"].to_list())
        latents = self.comparison.latents.filter(pl.col("latent").is_in(fire))
        named = {k: set(latents.filter(pl.col("kind") == k)["latent"]) for k in (f"exclusive:{own}", SHARED)}
        mine, shared = named[f"exclusive:{own}"], sorted(named[SHARED])
        specific = set(self.specific(own))
        n = min(len(shared), max(len(mine), FEWEST))
        asked = set(np.random.default_rng(seed).choice(shared, n, replace=False).tolist()) if n else set()
        return Exclusive(
            own,
            Share.of(len(mine), len(fire)),
            Share.of(len(mine & specific), len(mine)),
            Share.of(len(specific), len(fire)),
            Share.of(len(asked & specific), len(asked)),
        )

    def figures(self) -> dict[str, Any]:
        """`exclusive` of every checkpoint, as JSON."""
        told = {name: self.exclusive(name) for name in self.comparison.checkpoints}
        return {
            name: {part: share._asdict() for part, share in each._asdict().items() if isinstance(share, Share)}
            for name, each in told.items()
        }

    def sentences(self) -> list[str]:
        """What a person reads."""
        return [sentence(self.exclusive(name)) for name in self.comparison.checkpoints]


def read_scaling(folder: Path) -> pl.DataFrame:
    """The table of `workbench.scaling_build`."""
    columns = ("latent", "own", "other", "error", "error_low", "error_high", "reconstruction", "n")
    return read_part(folder, "scaling", columns)


def worst(table: pl.DataFrame, own: str) -> pl.DataFrame:
    """latent, error, reconstruction: of `own`'s rows the largest ν over the others; a row a latent that fires."""
    import polars as pl

    # a ν that cannot be taken (β^own ≤ 0) is no evidence of being specific
    largest = (pl.col(n).fill_null(float("inf")).max() for n in ("error", "reconstruction"))
    return table.filter(pl.col("own") == own).group_by("latent").agg(*largest).sort("latent")


def specific(table: pl.DataFrame, own: str) -> list[int]:
    """Latents under both bounds for every other checkpoint in the table."""
    import polars as pl

    under = (pl.col("error") < ERROR_BOUND) & (pl.col("reconstruction") < RECONSTRUCTION_BOUND)
    return worst(table, own).filter(under)["latent"].to_list()


def sentence(found: Exclusive) -> str:
    """Both readings of one checkpoint's own latents, in words."""
    norm, kept, shared = found.by_norm, found.confirmed, found.shared
    asked = f"of {shared.n} random shared latents it passes {shared.hits}"
    if not norm.n or not norm.hits:
        return (
            f"{found.checkpoint}: no latent is its own by norm; latent scaling: {found.specific.hits} ({asked})"
        )
    return (
        f"{found.checkpoint}: {norm.hits} of {norm.n} latents are its own by norm; "
        f"latent scaling confirms {kept.hits} ({asked})"
    )
