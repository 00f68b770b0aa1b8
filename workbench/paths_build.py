"""Builds the paths from a checkpoint to its child: an SAE fine-tuned data first and model first.

Stage-wise model diffing [Bricken et al. 2024; `saes.stage_paths`]. The parent's own text is what the parent has
trained on: prose and world for base, chats too for sft, rollouts too for grpo; all text is that of the child
(`workbench.part_steps.text_of`). The SAE of the parent is trained as the recipe's own are; each later leg takes
half as many steps at a quarter of the rate, with no annealing of k, so that what was learned is bent and not
torn up. Every finished leg is kept in `resume/` until the artefact is whole, and a leg that was cut off goes on
from its state.

`paths.parquet`: a row a latent that fires often enough in S or at the end of a path, with the cosine of its decoder
over each step, what turned it, and the tokens that it fires most on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from saes import folder
from saes.arrays import ActivationArrays, Part
from saes.config import TrainConfig
from saes.dictionary import Dictionary
from saes.index import FeatureIndex
from saes.metrics import evaluate
from saes.stage_paths import (
    ALL,
    CHILD,
    DATA_STEPS,
    MODEL_STEPS,
    NULL_STEPS,
    OWN,
    PARENT,
    SHAM,
    SHAM_PAIR,
    Leg,
    Turns,
    walked,
)
from workbench.dictionaries import save_whole, split_rows, token_sets, train_settings, train_together
from workbench.dictionary_folder import dictionary_sentences
from workbench.factor_scores import top_tokens
from workbench.grow import Build
from workbench.part_steps import activations_name
from workbench.part_tables import write_part
from workbench.recipe import DictionaryConfig
from workbench.tokens import TokenSet

STEPS_SHARE, RATE_SHARE = 0.5, 0.25  # of a leg's steps and rate in the first training's
READ_TOKENS = 60_000  # held-out tokens on which latents are said to fire
FEWEST = 20  # of these, for a latent to be told of
TOLD = 4  # tokens that a latent fires most on


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/paths-<parent>-<child>`."""
    config = build.config
    like = DictionaryConfig(**{**config["like"], "checkpoints": (config["parent"],)})
    models = {PARENT: config["parent"], CHILD: config["child"]} | (
        {SHAM: config["sham"]} if config["sham"] else {}
    )
    sets = token_sets(build)
    texts = {OWN: config[OWN], ALL: config[ALL]}
    first = train_settings(like)
    with dictionary_sentences(build.step.name):
        arrays = {
            (model, name): ActivationArrays([_source(build, like, checkpoint) / f"{name}.npy"])
            for model, checkpoint in models.items()
            for name in sets
        }

        def fit(name: str, leg: Leg, start: Dictionary | None) -> Dictionary:
            place = build.draft.path / "resume" / name
            if not place.is_dir():
                source = arrays[leg.model, "dictionary"]
                training, back = (
                    Part(source, _of_text(rows, sets["dictionary"], texts[leg.text]))
                    for rows in split_rows(sets["dictionary"])
                )
                settings = first if start is None else finer(first)
                states = build.draft.path / "resume" / f"states-{name}"
                label = f"{build.step.name}, {name}"
                (made,) = train_together(
                    build, label, [settings], training, back, states, start=start,
                    names=(models[leg.model],),
                )  # fmt: skip
                place.parent.mkdir(exist_ok=True)
                save_whole(made, place)
            return folder.load(place)

        found = walked(fit, sham=SHAM in models)
        heldout = sets["heldout"]
        table, figures = told(found, arrays, heldout, texts)
    write_part(build.draft.path, "paths", table)
    return {
        "parent": models[PARENT],
        "child": models[CHILD],
        "sham": models.get(SHAM),
        "texts": texts,
        **figures,
    }


def finer(first: TrainConfig) -> TrainConfig:
    """How a leg is trained that goes on from another."""
    return dataclasses.replace(
        first, n_steps=max(1, round(STEPS_SHARE * first.n_steps)), lr=RATE_SHARE * first.lr, k_start=first.k
    )


def _source(build: Build, like: DictionaryConfig, checkpoint: str) -> Any:
    return build.parents[f"activations/{activations_name(checkpoint, like.layer, like.point)}"].path


def _of_text(rows: np.ndarray, tokens: TokenSet, domains: Sequence[str]) -> np.ndarray:
    """The rows whose document is of one of the domains; `rollout` is what any checkpoint wrote."""
    kind = np.array([domain.partition(":")[0] for domain in tokens.domain])
    return rows[np.isin(kind[np.asarray(tokens.document)[rows]], list(domains))]


def told(
    found: Mapping[str, Dictionary],
    arrays: Mapping[tuple[str, str], ActivationArrays],
    heldout: TokenSet,
    texts: Mapping[str, Sequence[str]],
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The table of latents, and how well the SAEs at the ends do."""
    sampled = heldout.rows_of(heldout.sample_windows(READ_TOKENS, seed=7))
    sampled = sampled[~np.asarray(heldout.special)[sampled]]
    own, everything = (_of_text(sampled, heldout, texts[text]) for text in (OWN, ALL))
    begin = FeatureIndex.build(found["S"], Part(arrays[PARENT, "heldout"], own))
    end = FeatureIndex.build(found["F_D"], Part(arrays[CHILD, "heldout"], everything))
    fires, later = np.diff(begin.starts), np.diff(end.starts)
    turns = Turns.of(found, fires >= FEWEST)
    kept = np.flatnonzero((fires >= FEWEST) | (later >= FEWEST))
    tops = top_tokens(end, np.asarray(heldout.tokens)[everything], heldout.vocabulary, TOLD)
    columns: dict[str, Any] = {
        "latent": kept,
        "fires_before": fires[kept],
        "fires_after": later[kept],
        "turned_by": turns.turned_by()[kept].astype(str),
        "turned_in_null": turns.turned(NULL_STEPS)[kept],
        "turned_in_sham": turns.turned(SHAM_PAIR)[kept] if set(SHAM_PAIR) <= set(turns.cosine) else None,
        "model_beyond": turns.beyond(MODEL_STEPS)[kept],
        "data_beyond": turns.beyond(DATA_STEPS)[kept],
        **{step: cosine[kept] for step, cosine in turns.cosine.items()},
        "fires_on": [" ".join(tops[latent]) for latent in kept],
    }
    ends = dict.fromkeys(("S",), (PARENT, own)) | dict.fromkeys(("F_D", "F_M"), (CHILD, everything))
    fvu = {
        name: next(iter(evaluate(found[name], Part(arrays[model, "heldout"], rows)).fvu.values()))
        for name, (model, rows) in ends.items()
    }
    return pl.DataFrame(columns), {"bounds": turns.bounds._asdict(), "tokens": len(everything), "fvu": fvu}
