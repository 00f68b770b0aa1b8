"""Superposition in a lab's models: is there more in a layer than it has dimensions, and do neurons show it?

For each checkpoint with an SAE, three readings, each beside its control:

    alive latents / d_model                beside an SAE trained equally on Gaussian activations of equal mean
                                           and covariance: the ratio alone mostly measures the chosen width
    max_{j ≠ i} cos(d_i, d_j), alive ones  beside that of the Gaussian SAE and of as many random directions
    factors a unit follows                 of neurons of the layer's MLP beside latents: polysemanticity

A unit follows a factor if its AUROC is at least `BOUND` (or at most 1 − `BOUND`: neurons carry in either sign)
on one half of the documents and, in the same direction, on the other. What a stage changes is `stage_changes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import Misuse
from workbench.grow import Build
from workbench.lab import Lab
from workbench.part_tables import read_part
from workbench.plan import STUDY, plan
from workbench.recipe import STAGES, read_recipe, write_recipe

if TYPE_CHECKING:
    import polars as pl

    from workbench.stage_changes import Stage
    from workbench.widths import Crowded

BOUND = 0.9  # AUROC
SHOWN = 8  # units of each kind whose texts are kept, those that follow most factors
TEXTS = 4  # of each
NEURON, LATENT = "neuron", "latent"
TABLES = {
    "cosines": ("checkpoint", "of", "cosine"),
    "units": ("checkpoint", "kind", "unit", "factors", "names"),
    "shares": ("checkpoint", "kind", "factors", "units", "share"),
    "examples": ("checkpoint", "kind", "unit", "rank", "value", "text"),
}
COLUMNS = TABLES | {
    "changes": ("figure", "earlier", "later", "change", "low", "high", "floor", "clear", "over", "n")
}


@dataclasses.dataclass(frozen=True)
class Study:
    """A finished study, read. `figures[checkpoint]` are the manifest's."""

    figures: Mapping[str, Mapping[str, Any]]
    path: Path

    @classmethod
    def of(cls, lab: Lab) -> Study:
        """The study of a lab; `Misuse` where there is none yet."""
        artefact = lab.find("evaluation", STUDY)
        return cls(artefact.figures["checkpoints"], artefact.path)

    @cached_property
    def cosines(self) -> pl.DataFrame:
        """checkpoint, of (dictionary, gaussian, random), cosine."""
        return self._table("cosines")

    @cached_property
    def shares(self) -> pl.DataFrame:
        """checkpoint, kind (neuron, latent), factors, units, share."""
        return self._table("shares")

    @cached_property
    def examples(self) -> pl.DataFrame:
        """checkpoint, kind, unit, rank, value, text, with the unit's factors and their names."""
        on = ["checkpoint", "kind", "unit"]
        return self._table("examples").join(self._table("units"), on=on, how="left", maintain_order="left")

    @cached_property
    def changes(self) -> pl.DataFrame:
        """What each stage changes, beside a noise floor: see `stage_changes.changes`."""
        return self._table("changes")

    def _table(self, name: str) -> pl.DataFrame:
        return read_part(self.path, name, COLUMNS[name], "remove it and study again")


def request(lab: Lab) -> tuple[str, ...]:
    """Enter the study in the recipe: the first SAE of each stage. Returns their names."""
    with lab.writing("superposition"):
        recipe = read_recipe(lab.path / "recipe.toml")
        saes = [d for d in recipe.dictionaries if d.kind == "sae"]
        chosen = [next((d.name for d in saes if d.checkpoints == (stage,)), None) for stage in STAGES]
        names = tuple(name for name in chosen if name is not None)
        if not names:
            raise Misuse(
                f"lab {lab.name!r} has no SAE of {', '.join(STAGES)} to study: "
                f"`python -m workbench sae {lab.name} --checkpoint sft` trains one"
            )
        changed = dataclasses.replace(recipe, superposition=names)
        plan(changed)  # refuses what cannot be built before anything is written
        if changed != recipe:
            write_recipe(lab.path / "recipe.toml", changed)
    return names


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/superposition`."""
    import polars as pl

    from workbench.polysemy import measure
    from workbench.stage_changes import changes
    from workbench.widths import widths

    tables: dict[str, list[pl.DataFrame]] = {name: [] for name in TABLES}
    figures, stages, reseeded = {}, {}, {}
    for name in build.config["dictionaries"]:
        config = build.plan.recipe.dictionary(name)
        (checkpoint,) = config.checkpoints
        width = widths(build, config)
        build.progress.start(1, "checkpoints", label=f"neurons of {checkpoint}")
        units, examples, latents = measure(build, config, width.reseeded_index)
        build.progress.advance()
        counts = units.group_by("kind", "factors").agg(pl.len().alias("units")).sort("kind", "factors")
        shares = counts.with_columns(share=pl.col("units") / pl.col("units").sum().over("kind"))
        figures[checkpoint] = {"dictionary": name, **width.figures, **_unit_figures(units)}
        neurons, own = (units.filter(units["kind"] == k)["factors"].to_numpy() for k in (NEURON, LATENT))
        d_model = width.figures["d_model"]
        stages[checkpoint] = _stage(neurons, own, width.own, d_model)
        reseeded[checkpoint] = _stage(neurons, latents, width.reseeded, d_model)
        for table, rows in (
            ("cosines", width.cosines),
            ("units", units),
            ("shares", shares),
            ("examples", examples),
        ):
            tables[table].append(rows.select(pl.lit(checkpoint).alias("checkpoint"), pl.all()))
    for table, parts in tables.items():
        pl.concat(parts).write_parquet(build.draft.path / f"{table}.parquet")
    changes(stages, reseeded).write_parquet(build.draft.path / "changes.parquet")
    return {"checkpoints": figures, "bound": BOUND}


def _stage(
    neurons: Int[np.ndarray, "neuron"], latents: Int[np.ndarray, "latent"], crowded: Crowded, d_model: int
) -> Stage:
    from workbench.stage_changes import Stage

    sums = crowded.sums
    return Stage(neurons, latents, crowded.nearest.astype(float), sums.alive, sums.fvu(0), d_model)


def _unit_figures(units: pl.DataFrame) -> dict[str, Any]:
    """Of each kind: how many units, the share that follows a factor, the share of those that follow several."""
    found = {}
    for kind in (NEURON, LATENT):
        factors = units.filter(units["kind"] == kind)["factors"].to_numpy()
        following = int((factors > 0).sum())
        found[f"{kind}s"] = {
            "units": len(factors),
            "following": following / len(factors),
            "polysemantic": int((factors > 1).sum()) / following if following else None,
            "factors_each": int(factors.sum()) / following if following else None,
        }
    return found


def followed(
    first: Float[np.ndarray, "unit factor"], second: Float[np.ndarray, "unit factor"]
) -> Int[np.ndarray, "unit factor"]:
    """1 where a unit follows a factor on both halves, −1 where it does so by its absence, else 0."""
    up = (first >= BOUND) & (second >= BOUND)
    down = (first <= 1 - BOUND) & (second <= 1 - BOUND)
    return up.astype(int) - down.astype(int)
