"""Builds the quality of a dictionary: its figures on held-out tokens beside its controls, and between seeds.

What is trained (further seeds, the untrained model's dictionary, the Gaussian one) has the settings, the number
of steps and of tokens of the dictionary itself, beside an imported one those of the lab's own. Finished trainings
and their states are kept in `resume/` until the artefact is whole. The numbers of components, coordinates and
random latents on are the L0 that the dictionary has on held-out tokens, rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from saes.arrays import ActivationArrays
from saes.controls import GaussianLike, neurons, pca_dictionary, random_like
from saes.pca import fit_pca
from workbench import quality
from workbench.device import best_device
from workbench.dictionaries import stored_sources, train_settings, trainable
from workbench.dictionary_folder import dictionary_sentences, open_dictionary
from workbench.grow import Build
from workbench.judging import (
    OTHER_SEEDS,
    RANDOM_SEED,
    Made,
    Source,
    divided,
    judge_all,
    other_seeds,
    splice_all,
    trained,
)
from workbench.lab import Artefact
from workbench.points import Site
from workbench.quality_scores import Judged, Row, Subject, heldout_rows, stability
from workbench.recipe import DictionaryConfig
from workbench.tokens import SETS, TokenSet
from workbench.transcoder_quality import transcoder_controls
from workbench.untrained import untrained_activations, untrained_address

GAUSSIAN_SEEDS = (1, 2, 3)  # of the rows trained on, held back and scored on


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/quality-<dictionary>`."""
    config = build.plan.recipe.dictionary(build.config["dictionary"])
    tokens = next(key for key in build.parents if key.startswith("activations/tokens-"))
    sets = {name: TokenSet(build.parents[tokens].path, name) for name in SETS}
    sources = stored_sources(build, config, config.point)
    site = Site(sources[0].figures["layer"], config.target or config.point)
    with dictionary_sentences(config.name):
        real = _source(sources, sets)
        written = _source(stored_sources(build, config, config.target), sets) if config.target else None
        own = open_dictionary(build.parents[f"dictionary/{config.name}"].path, config.name).to(best_device())
        subject = Subject(quality.DICTIONARY, own, real.heldout, True, written.heldout if written else None)
        first = judge_all(build, config.name, [subject], sets["heldout"])
        k = max(1, round(first[0].counted.l0().value))
        alike = trainable(config, build.plan.recipe, own.k)
        if written is None:
            made = _controls(build, alike, real, sets, site, k)
        else:
            made = transcoder_controls(build, alike, real, written, sets, site.layer, k)
        judged = first + judge_all(build, config.name, made.subjects, sets["heldout"])
        rows = [row for each in judged for row in heldout_rows(each, own.d_out)]
        rows += splice_all(build, config.name, [subject, *made.subjects], made.mean, sets["heldout"], site)
        build.progress.start(OTHER_SEEDS, "seeds", label=f"match {config.name}")
        between = stability(judged[0], _seeds(judged), build.progress.advance)
    _write(build.draft.path, judged, rows)
    np.save(build.draft.path / "matched.npy", between.matched, allow_pickle=False)
    np.save(build.draft.path / "matched-random.npy", between.by_chance, allow_pickle=False)
    pl.DataFrame(between.rows).write_parquet(build.draft.path / "stability.parquet")
    about = {"dictionary": config.name, "k": k, "tokens": judged[0].counted.n_tokens, "missing": made.missing}
    return {
        **about,
        **_figures(rows),
        "stability": {f"{r['subject']} {r['figure']}": r["value"] for r in between.rows},
    }


def _source(stored: Sequence[Artefact], sets: Mapping[str, TokenSet]) -> Source:
    return divided({name: ActivationArrays([s.path / f"{name}.npy" for s in stored]) for name in sets}, sets)


def _controls(
    build: Build, config: DictionaryConfig, real: Source, sets: Mapping[str, TokenSet], site: Site, k: int
) -> Made:
    """Everything that stands beside the dictionary."""
    names, settings, missing = config.checkpoints, train_settings(config), {}
    pca = fit_pca(real.training, min(k, real.d_model))
    spread = random_like(
        real.training, config.d_sae, min(k, config.d_sae), names, RANDOM_SEED, calibration=real.calibration
    )
    subjects = [
        Subject(quality.PCA, pca_dictionary(pca, names), real.heldout, True),
        Subject(quality.NEURONS, neurons(real.training, k, names), real.heldout, True),
        Subject(quality.RANDOM, spread, real.heldout, True),
    ]
    seeded = trained(build, "seeds", other_seeds(settings), real, names)
    subjects += [
        Subject(f"{quality.SEED}{c.seed}", d, real.heldout, False)
        for c, d in zip(other_seeds(settings), seeded, strict=True)
    ]
    gaussian = GaussianLike(real.training, len(real.training), GAUSSIAN_SEEDS[0])
    source = Source(
        gaussian,
        gaussian.another(len(real.calibration), GAUSSIAN_SEEDS[1]),
        gaussian.another(len(real.heldout), GAUSSIAN_SEEDS[2]),
    )
    (alike,) = trained(build, quality.GAUSSIAN, [settings], source, names)
    subjects.append(Subject(quality.GAUSSIAN, alike, source.heldout, False))
    address = untrained_address(build, names[0])
    if len(names) > 1:
        missing[quality.UNTRAINED] = "before the first step all checkpoints are one model"
    elif address is None:
        missing[quality.UNTRAINED] = f"{names[0]} has no snapshot of step 0"
    else:
        place = build.draft.path / "resume" / "activations"
        before = divided(untrained_activations(build, address, site, sets, place), sets)
        (random_model,) = trained(build, quality.UNTRAINED, [settings], before, names)
        subjects.append(Subject(quality.UNTRAINED, random_model, before.heldout, False))
    device = best_device()
    return Made([s._replace(dictionary=s.dictionary.to(device)) for s in subjects], pca.mean.numpy(), missing)


def _seeds(judged: Sequence[Judged]) -> list[Judged]:
    return [each for each in judged if each.subject.name.startswith(quality.SEED)]


def _write(path: Path, judged: Sequence[Judged], rows: Sequence[Row]) -> None:
    """`controls.parquet`, and what each latent's nearest neighbour and number of firings are."""
    schema: dict[str, Any] = dict.fromkeys(("control", "checkpoint", "figure"), pl.String)
    schema |= dict.fromkeys(("value", "low", "high"), pl.Float64) | {"n": pl.Int64}
    pl.DataFrame(rows, schema=schema).write_parquet(path / "controls.parquet")
    for each in judged:
        name = each.subject.name
        np.save(path / f"fires-{name}.npy", each.counted.fires, allow_pickle=False)
        np.save(path / f"nearest-{name}.npy", each.nearest, allow_pickle=False)


def _figures(rows: Sequence[Row]) -> dict[str, Any]:
    """For the manifest: figure -> control -> value (of the first checkpoint)."""
    first = rows[0]["checkpoint"]
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["checkpoint"] == first and row["figure"] in ("fvu", "l0", "alive", "ce_score"):
            found.setdefault(row["figure"], {})[row["control"]] = row["value"]
    return found
