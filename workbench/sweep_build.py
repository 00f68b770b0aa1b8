"""Builds a sweep: every dictionary trained over one pass, each scored on held-out tokens and in the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saes import folder
from saes.arrays import ActivationArrays
from saes.config import TrainConfig
from saes.controls import pca_dictionary
from saes.dictionary import Dictionary
from saes.pca import PCA as Components
from saes.pca import fit_pca
from saes.sweep import grid
from workbench.device import best_device
from workbench.dictionaries import STATE_EVERY, train_together
from workbench.dictionary_folder import dictionary_sentences
from workbench.grow import Build
from workbench.judging import Source, divided, judge_all, splice_all
from workbench.part_steps import activations_name
from workbench.points import Site
from workbench.quality_scores import Row, Subject, heldout_rows
from workbench.recipe import SweepConfig
from workbench.sweeps import PCA, PLAIN, WITH_INTERVAL
from workbench.tokens import SETS, TokenSet


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/<sweep>`."""
    config = build.plan.recipe.sweep(build.step.name)
    tokens = next(key for key in build.parents if key.startswith("activations/tokens-"))
    sets = {name: TokenSet(build.parents[tokens].path, name) for name in SETS}
    stored = build.parents[f"activations/{activations_name(config.checkpoint, config.layer)}"]
    arrays = {name: ActivationArrays([stored.path / f"{name}.npy"]) for name in SETS}
    with dictionary_sentences(config.name):
        configs = grid(_shared(config), config.archs, config.widths, config.ks)
        real = divided(arrays, sets)
        found = train_together(
            build,
            config.name,
            list(configs.values()),
            real.training,
            real.calibration,
            build.draft.path / "resume",
            names=(config.checkpoint,),
            site=stored.figures["site"],
        )
        trained = dict(zip(configs, found, strict=True))
        for name, dictionary in trained.items():
            folder.save(dictionary, build.draft.path / "dictionaries" / name, {"arch": configs[name].arch})
        pca = fit_pca(real.training, min(max(config.ks), real.d_model))
        dictionaries = trained | _pcas(pca, config)
        rows = _rows(build, config, dictionaries, real, sets["heldout"], pca.mean.numpy())
    about = {
        name: {"dictionary": name, "arch": configs[name].arch if name in configs else PCA}
        | {"width": d.n_latents, "k": d.k}
        for name, d in dictionaries.items()
    }
    wide(about, rows).write_parquet(build.draft.path / "sweep.parquet")
    counted = int((~np.asarray(sets["heldout"].special)).sum())
    site = {name: stored.figures[name] for name in ("site", "layer")}
    return {"dictionaries": len(trained), "tokens": counted, **site}


def _shared(config: SweepConfig) -> TrainConfig:
    """What all dictionaries of a sweep have in common."""
    return TrainConfig(
        n_steps=config.steps,
        batch_size=config.batch_size,
        lr=config.lr,
        seed=config.seed,
        device=best_device(),
        state_every=STATE_EVERY,
    )


def _pcas(largest: Components, config: SweepConfig) -> dict[str, Dictionary]:
    """PCA with as many components as there are latents on, for each k that it can have."""
    ks = dict.fromkeys(min(k, largest.basis.shape[2]) for k in config.ks)
    fewer = {k: dataclasses.replace(largest, basis=largest.basis[:, :, :k]) for k in ks}
    return {f"{PCA}-k{k}": pca_dictionary(pca, (config.checkpoint,)) for k, pca in fewer.items()}


def _rows(
    build: Build,
    config: SweepConfig,
    dictionaries: Mapping[str, Dictionary],
    real: Source,
    heldout: TokenSet,
    mean: Float[np.ndarray, "model d"],
) -> list[Row]:
    """All figures of all dictionaries, a row a figure."""
    device = best_device()
    subjects = [Subject(name, d.to(device), real.heldout, True) for name, d in dictionaries.items()]
    judged = judge_all(build, config.name, subjects, heldout)
    rows = [row for each in judged for row in heldout_rows(each, real.d_model)]
    stored = build.parents[f"activations/{activations_name(config.checkpoint, config.layer)}"]
    return rows + splice_all(build, config.name, subjects, mean, heldout, Site(stored.figures["layer"]))


def wide(about: Mapping[str, Row], rows: Sequence[Row]) -> pl.DataFrame:
    """One row a dictionary, from a row a figure."""
    table: dict[str, Row] = {name: dict(row) for name, row in about.items()}
    for row in rows:
        figure, into = row["figure"], table[row["control"]]
        if figure in WITH_INTERVAL:
            into |= {figure: row["value"], f"{figure}_low": row["low"], f"{figure}_high": row["high"]}
        elif figure in PLAIN:
            into[figure] = row["value"]
    return pl.DataFrame(list(table.values()), infer_schema_length=None)
