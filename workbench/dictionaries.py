"""Builds a lab's dictionaries: trains an SAE, a crosscoder or a transcoder on stored activations, scores it.

The artefact is a SAELens folder. Training goes on after an interruption from `resume/`, bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from saes import folder
from saes.arrays import ActivationArrays, Activations, Part
from saes.config import ARCHITECTURES, SPARSE, TrainConfig
from saes.dictionary import Dictionary
from saes.errors import DictionaryError, StateError
from saes.pca import fit_pca
from saes.state import FILE as STATE
from saes.trainer import Step, fit_together
from saes.transcoder import Transcoder
from workbench.checkpoint import Checkpoint
from workbench.device import best_device
from workbench.dictionary_folder import dictionary_sentences
from workbench.dictionary_scores import SPLICED_TOKENS, scores
from workbench.errors import unknown
from workbench.grow import Build
from workbench.lab import Artefact
from workbench.part_steps import read_names
from workbench.points import Site
from workbench.recipe import DIFFERENCE, SAE, DictionaryConfig, Recipe
from workbench.site import with_fast_attention
from workbench.tokens import TokenSet

HELD_BACK = 0.08  # share of the dictionary set's windows that only thresholds see
STATE_EVERY = 250  # steps between training states on disk


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `dictionary/<name>`."""
    config = DictionaryConfig(**{**build.config, "checkpoints": tuple(build.config["checkpoints"])})
    if config.arch not in ARCHITECTURES:
        raise unknown("dictionary architecture", config.arch, ARCHITECTURES)
    sets = token_sets(build)
    sources, written = stored_sources(build, config, config.point), stored_sources(build, config, config.target)
    with dictionary_sentences(config.name):
        arrays = {name: ActivationArrays([s.path / f"{name}.npy" for s in sources]) for name in sets}
        targets = {
            name: ActivationArrays([s.path / f"{name}.npy" for s in written or sources]) for name in sets
        }
        fitted, back = split_rows(sets["dictionary"])
        training, to_write = Part(arrays["dictionary"], fitted), Part(targets["dictionary"], fitted)
        about = {"names": config.checkpoints, "site": sources[0].figures["site"]}
        if written:
            about |= {"targets": to_write, "target_site": written[0].figures["site"]}
        held_back = Part(arrays["dictionary"], back)
        if not (own := trained_folder(build.draft.path)).is_dir():
            others = same_pass(build, config)
            settings = [train_settings(c) for c in (config, *others)]
            label = f"{config.name} and {len(others)} beside it" if others else config.name
            states, folders = build.draft.path / "resume", [*others.values(), own]
            found = train_together(build, label, settings, training, held_back, states, **about)
            for path, made in zip(folders, (*found[1:], found[0]), strict=True):
                save_whole(made, path)
        dictionary = folder.load(own).to(best_device())
        return save_and_score(build, config, dictionary, sources, written)


def trained_folder(draft: Path) -> Path:
    """Where a dictionary lies between its training and its scores."""
    return draft / "resume" / "trained"


def save_whole(dictionary: Dictionary, path: Path) -> None:
    """Write a dictionary's folder so that it is there whole or not at all; one that is there stays."""
    partial = path.with_name(f".{path.name}")
    folder.save(dictionary, partial)
    if not path.is_dir():
        partial.rename(path)


def same_pass(build: Build, config: DictionaryConfig) -> dict[DictionaryConfig, Path]:
    """Dictionaries that later steps of this run want trained on the same batches, and where each is put: they
    train beside this one and end as they would alone, and their turn comes with only the scores to do."""
    found = {}
    for step in build.todo:
        if step.builder != build.step.builder or step.parents != build.step.parents:
            continue
        other = DictionaryConfig(**{**step.config, "checkpoints": tuple(step.config["checkpoints"])})
        shared = ("checkpoints", "minus", "point", "target", "steps", "batch_size")
        if any(getattr(other, name) != getattr(config, name) for name in shared) or not _trains(other):
            continue
        draft = build.lab.begin(step.kind, step.name, step.config, step.parents, step.builder.version)
        place = trained_folder(draft.path)
        if not place.is_dir():
            place.parent.mkdir(exist_ok=True)
            found[other] = place
    return found


def _trains(config: DictionaryConfig) -> bool:
    """Whether its settings can be: those that cannot are refused when their own turn comes."""
    try:
        train_settings(config)
    except DictionaryError:
        return False
    return config.kind in (SAE, DIFFERENCE) or config.arch in SPARSE


def save_and_score(
    build: Build,
    config: DictionaryConfig,
    dictionary: Dictionary,
    sources: Sequence[Artefact],
    written: Sequence[Artefact],
) -> Mapping[str, Any]:
    """Write the dictionary in the draft's folder; its figures on held-out tokens, beside PCA with k components."""
    told = {"arch": config.arch, "checkpoints": list(config.checkpoints)}
    folder.save(dictionary, build.draft.path, told | ({"minus": config.minus} if config.minus else {}))
    sets = token_sets(build)
    read, targets = (
        {name: ActivationArrays([s.path / f"{name}.npy" for s in some]) for name in sets}
        for some in (sources, written or sources)
    )
    to_write = Part(targets["dictionary"], split_rows(sets["dictionary"])[0])
    pca = fit_pca(to_write, min(dictionary.k, targets["heldout"].shape[2]))
    heldout = sets["heldout"]
    spliced = min(SPLICED_TOKENS, len(heldout)) * len(config.checkpoints)
    counted = int((~np.asarray(heldout.special)).sum())
    build.progress.start(counted + spliced, "tokens", label=f"evaluate {config.name}")
    figures = scores(
        dictionary,
        pca,
        read["heldout"],
        heldout,
        lambda name: with_fast_attention(Checkpoint.of(build.lab, name).model(best_device())),
        Site(sources[0].figures["layer"], config.target or config.point),
        build.progress.advance,
        targets["heldout"] if written else None,
        bool(config.minus),
    )
    described = {
        "kind": config.kind,
        "arch": config.arch,
        "site": dictionary.site,
        "d_sae": config.d_sae,
        "k": dictionary.k,
    }
    if isinstance(dictionary, Transcoder):
        described |= {"target_site": dictionary.target_site, "skip": config.skip}
    if config.minus:
        described["minus"] = config.minus
    drift = {"scales": dict(zip(dictionary.names, dictionary.scales.tolist(), strict=True))}
    return {**described, **figures, **drift}


def token_sets(build: Build) -> dict[str, TokenSet]:
    """The two token sets that a dictionary stands on."""
    tokens_key = next(key for key in build.parents if key.startswith("activations/tokens-"))
    return {name: TokenSet(build.parents[tokens_key].path, name) for name in ("dictionary", "heldout")}


def stored_sources(build: Build, config: DictionaryConfig, point: str) -> list[Artefact]:
    """The stored activations of the dictionary's checkpoints at a point of its layer; none for no point."""
    return [build.parents[f"activations/{name}"] for name in read_names(config, point)] if point else []


def split_rows(token_set: TokenSet) -> tuple[Int[np.ndarray, "fitted"], Int[np.ndarray, "held_back"]]:
    """Rows to train on, and rows of whole windows kept back for the thresholds."""
    back = np.random.default_rng(0).random(len(token_set.starts)) < HELD_BACK
    if not back.any() or back.all():
        everything = np.arange(len(token_set))
        return everything, everything
    kept = np.repeat(back, token_set.stops - token_set.starts)
    return np.flatnonzero(~kept), np.flatnonzero(kept)


def trainable(config: DictionaryConfig, recipe: Recipe, k: int) -> DictionaryConfig:
    """`config`, such that others can be trained as it was. How an imported dictionary was trained nobody knows:
    its like is trained with the k that it has here, as the first of the lab's own are (or by default)."""
    if not config.source:
        return config
    own = next((d for d in recipe.dictionaries if not d.source), DictionaryConfig(config.name, ()))
    return dataclasses.replace(
        config, k=k, steps=own.steps, batch_size=own.batch_size, lr=own.lr, seed=own.seed
    )


def train_settings(config: DictionaryConfig) -> TrainConfig:
    """How a dictionary of the recipe is trained."""
    return TrainConfig(
        arch=config.arch,
        n_latents=config.d_sae,
        k=config.k,
        n_steps=config.steps,
        batch_size=config.batch_size,
        lr=config.lr,
        seed=config.seed,
        skip=config.skip,
        dedicated=config.dedicated,
        device=best_device(),
        state_every=STATE_EVERY,
    )


def train_together(
    build: Build,
    label: str,
    settings: Sequence[TrainConfig],
    training: Activations,
    calibration: Activations,
    states: Path,
    **about: Any,
) -> tuple[Dictionary, ...]:
    """Train to the end over one pass, from the last state in `states` if there is one.

    `about`: names, site, and a transcoder's targets and theirs. Progress shows the figures of the first.
    """
    build.progress.start(settings[0].n_steps, "steps", label=f"train {label}")
    done = 0

    def on_step(steps: tuple[Step, ...]) -> None:
        nonlocal done
        step = steps[0]
        figures = {"loss": step.loss, "fvu": step.fvu, "l0": step.l0, "dead": step.dead_share}
        build.progress.advance(step.step - done, **figures)
        done = step.step

    def run(resume: Path | None) -> tuple[Dictionary, ...]:
        return fit_together(
            training,
            settings,
            on_step=on_step,
            calibration=calibration,
            state_dir=states,
            resume=resume,
            **about,
        )

    try:
        return run(states if (states / STATE).is_file() else None)
    except StateError:  # of an older version, or cut off while written: nothing is lost but time
        return run(None)
