"""Sweeps of one checkpoint: dictionaries of several architectures, widths and k, trained over one pass.

`sweep.parquet` has a row a dictionary: dictionary, arch, width, k; L0, FVU, CE score, CE score over mean
ablation and KL, each with its interval by bootstrap over documents; dead_share, shrinkage, nearest_cosine
(median over latents that fire). PCA with as many components is in it as `arch` = `pca`. Chat markers are left
out. The dictionaries themselves are SAELens folders below `dictionaries/`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import Misuse, unknown
from workbench.lab import Lab, canonical, checked_name
from workbench.part_tables import read_part
from workbench.plan import Plan, plan
from workbench.points import parse_site
from workbench.quality import dead_on_few
from workbench.recipe import Recipe, SweepConfig, read_recipe, write_recipe

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl

PCA = "pca"
WITH_INTERVAL = ("l0", "fvu", "ce_score", "ce_score_mean", "kl")
PLAIN = ("dead_share", "shrinkage", "nearest_cosine")
COLUMNS = ("dictionary", "arch", "width", "k", *WITH_INTERVAL, *PLAIN)
LONGEST_NAME = 60


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A finished sweep, read."""

    name: str
    checkpoint: str
    path: Path
    figures: Mapping[str, Any]

    @classmethod
    def of(cls, lab: Lab, name: str) -> Sweep:
        """The sweep called `name`; `Misuse` where it is not there, or not yet."""
        artefact = lab.find("evaluation", name)
        return cls(name, artefact.config["checkpoint"], artefact.path, artefact.figures)

    @cached_property
    def table(self) -> pl.DataFrame:
        """One row a dictionary (see the module's head), PCA's rows last."""
        return read_part(self.path, "sweep", COLUMNS, "sweep again")

    def pareto(self, figure: str, title: str, **look: Any) -> go.Figure:
        """L0 against `figure` (`fvu`, `ce_score`, …), PCA dotted."""
        from saes.sweep_plot import pareto_figure

        rows = self.table.to_dicts()
        return pareto_figure(
            [r for r in rows if r["arch"] != PCA],
            figure,
            title,
            more_is_better=figure.startswith("ce_score"),
            baseline=[r for r in rows if r["arch"] == PCA],
            **look,
        )

    def describe(self) -> str:
        """The table for a terminal."""
        lines = [f"{self.name} ({self.checkpoint}): L0, FVU, CE score, share of silent latents"]
        for r in self.table.iter_rows(named=True):
            figures = f"{r['l0']:8.2f}{r['fvu']:9.4f}{r['ce_score']:9.4f}{r['dead_share']:8.1%}"
            lines.append(f"  {r['dictionary']:32}{figures}")
        if said := dead_on_few(self.figures["tokens"]):
            lines.append(f"note: {said}")
        return "\n".join(lines)

    def write_html(self, path: Path) -> None:
        """Both plots as one page that opens without a network."""
        from saes.sweep_plot import write_html

        plots = [self.pareto(figure, title) for figure, title in TITLES.items()]
        write_html(path, plots, f"Sweep {self.name}")


TITLES = {"fvu": "variance unexplained (FVU)", "ce_score": "loss recovered (CE score)"}


def request_sweep(
    lab: Lab,
    checkpoint: str,
    layer: int | None,
    archs: Sequence[str],
    widths: Sequence[int],
    ks: Sequence[int],
    name: str | None = None,
) -> str:
    """Append a sweep to the recipe unless an equal one is there; returns its name.

    Steps, batch, learning rate and seed are those of the recipe's first dictionary on the checkpoint, if any.
    """
    from saes.config import ARCHITECTURES
    from workbench.dictionary_requests import known_checkpoint

    for arch in archs:
        if arch not in ARCHITECTURES:
            raise unknown("architecture", arch, ARCHITECTURES)
    if not archs or not widths or not ks:
        raise Misuse("a sweep needs at least one architecture, one width and one k: give --k 4,8 --width 1024")
    if min(widths) < 1 or min(ks) < 1 or max(ks) > min(widths):
        raise Misuse(f"width {min(widths)} with k {max(ks)} cannot be: k lies between 1 and the smallest width")
    with lab.writing("sweep"):
        recipe = read_recipe(lab.path / "recipe.toml")
        n_layers = known_checkpoint(lab, checkpoint).n_layers
        if layer is not None:
            parse_site(str(layer), n_layers)
        config = _like_a_dictionary(recipe, checkpoint)
        grid = tuple(dict.fromkeys(archs)), tuple(sorted(set(widths))), tuple(sorted(set(ks)))
        config = dataclasses.replace(config, archs=grid[0], widths=grid[1], ks=grid[2], layer=layer)
        chosen = checked_name(name or _sweep_name(config), "sweep name")
        config = dataclasses.replace(config, name=chosen)
        for known in recipe.sweeps:
            if dataclasses.replace(known, name=chosen) == config and name in (None, known.name):
                return known.name
        if f"evaluation/{chosen}" in Plan.of(lab).steps:
            raise Misuse(f"evaluation {chosen!r} is in the recipe with other settings: give another --name")
        recipe = dataclasses.replace(recipe, sweeps=(*recipe.sweeps, config))
        plan(recipe)
        write_recipe(lab.path / "recipe.toml", recipe)
    return chosen


def _like_a_dictionary(recipe: Recipe, checkpoint: str) -> SweepConfig:
    """A sweep trained as the recipe's first dictionary on the checkpoint is."""
    model = next((d for d in recipe.dictionaries if d.kind == "sae" and d.checkpoints == (checkpoint,)), None)
    if model is None:
        return SweepConfig("", checkpoint)
    return SweepConfig(
        "", checkpoint, steps=model.steps, batch_size=model.batch_size, lr=model.lr, seed=model.seed
    )


def _sweep_name(config: SweepConfig) -> str:
    """`sweep-base-batchtopk-w1024.2048-k4.8`; a digest instead of lists that are too long for a folder."""
    place = "" if config.layer is None else f"-layer{config.layer}"
    lists = f"{'.'.join(config.archs)}-w{_dotted(config.widths)}-k{_dotted(config.ks)}"
    named = f"sweep-{config.checkpoint}{place}-{lists}"
    if len(named) <= LONGEST_NAME:
        return named
    digest = hashlib.sha256(canonical([config.archs, config.widths, config.ks]).encode()).hexdigest()[:8]
    return f"sweep-{config.checkpoint}{place}-{digest}"


def _dotted(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers))
