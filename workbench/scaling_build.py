"""Builds latent scaling for a comparison: which latents are one checkpoint's alone, and which only look so.

`scaling.parquet`: a row for each latent, own and other checkpoint, with ν of both kinds (`saes.latent_scaling`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from saes.arrays import ActivationArrays
from saes.latent_scaling import LatentScaling, latent_scaling
from workbench.device import best_device
from workbench.dictionaries import stored_sources, token_sets
from workbench.dictionary_folder import dictionary_sentences, open_dictionary
from workbench.grow import Build

SCHEMA: Mapping[str, Any] = {
    "latent": pl.Int64, "own": pl.String, "other": pl.String, "error": pl.Float64, "error_low": pl.Float64,
    "error_high": pl.Float64, "reconstruction": pl.Float64, "reconstruction_low": pl.Float64,
    "reconstruction_high": pl.Float64, "n": pl.Int64,
}  # fmt: skip


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/scaling-<comparison>`."""
    recipe = build.plan.recipe
    comparison = recipe.comparison(build.config["comparison"])
    used = recipe.dictionary(comparison.dictionary)
    tokens = token_sets(build)["heldout"]
    stored = [source.path / "heldout.npy" for source in stored_sources(build, used, used.point)]
    counted = ~np.asarray(tokens.special)
    build.progress.start(int(counted.sum()), "tokens", label=f"latent scaling of {used.name}")
    with dictionary_sentences(used.name):
        crosscoder = open_dictionary(build.parents[f"dictionary/{used.name}"].path, used.name)
        found = latent_scaling(
            crosscoder.to(best_device()),
            ActivationArrays(stored),
            np.asarray(tokens.document),
            counted,
            report=build.progress.advance,
        )
    table(found).write_parquet(build.draft.path / "scaling.parquet")
    return {"specific": {name: int(found.specific(name).sum()) for name in comparison.checkpoints}}


def table(found: LatentScaling) -> pl.DataFrame:
    """A row for each latent that fires and each pair of own and other (columns: `SCHEMA`)."""
    alive = np.flatnonzero(found.fires)
    parts = []
    for o, own in enumerate(found.names[: found.n_models]):
        for m, other in enumerate(found.names):
            if own == other:
                continue
            columns: dict[str, Any] = {"latent": alive, "own": own, "other": other, "n": found.fires[alive]}
            columns["error"] = found.error.ratio[alive, o, m]
            columns |= {f"error_{end}": getattr(found.error, end)[alive, o, m] for end in ("low", "high")}
            read = m < found.n_models
            for name, values in (
                ("", found.reconstruction.ratio),
                ("_low", found.reconstruction.low),
                ("_high", found.reconstruction.high),
            ):
                columns[f"reconstruction{name}"] = values[alive, o, m] if read else np.nan
            parts.append(pl.DataFrame(columns).select(pl.col(n).cast(t) for n, t in SCHEMA.items()))
    return pl.concat(parts).with_columns(pl.col(pl.Float64).fill_nan(None))
