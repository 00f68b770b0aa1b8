"""Builds a dictionary's ground truth: its latents beside equal numbers of neurons, PCA and random directions.

Read are held-out tokens of the domains where every token is labelled (world and gold chats), no chat markers.

At most `MOST_TOKENS` of them are read, whole documents drawn at random, so that dense controls fit in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from saes import factors, splitting
from saes.absorption import Absorption, absorption, flat_decoder, probe_directions
from saes.arrays import ActivationArrays
from saes.calibrate import measure
from saes.candidates import SignedUnits, SparseUnits, Units
from saes.dictionary import Dictionary
from saes.factors import FactorTable, Halves, halved
from saes.ground_truth import GroundTruth, figures, ground_truth
from saes.index import FeatureIndex
from saes.pools import normalised, pca_directions, random_dictionary, random_directions
from saes.splitting import Composed, Split, compositions, splits
from workbench.causal import Best, causal_figures, causal_table
from workbench.checkpoint import Checkpoint
from workbench.clamping import Site
from workbench.counterfactuals import GROUPS, PREFIXES
from workbench.dictionaries import Part, stored_sources
from workbench.dictionary_folder import dictionary_sentences, open_dictionary
from workbench.factor_scores import LABELLED
from workbench.grow import Build
from workbench.lexicon import make_world
from workbench.neurons import neurons
from workbench.points import Site as Place
from workbench.site import with_fast_attention
from workbench.stage_config import CorpusConfig
from workbench.tokens import TokenSet
from workbench.truth import LATENTS, NEURONS, PCA, RANDOM_DENSE, RANDOM_SPARSE, WHOLE
from workbench.truth_tables import (
    absorption_table,
    composition_table,
    matched_table,
    splitting_table,
    unit_table,
)

MOST_TOKENS = 120_000


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/truth-<dictionary>`."""
    config = build.plan.recipe.dictionary(build.config["dictionary"])
    dictionary = open_dictionary(build.parents[f"dictionary/{config.name}"].path, config.name)
    tokens_key = next(key for key in build.parents if key.startswith("activations/tokens-"))
    token_set = TokenSet(build.parents[tokens_key].path, "heldout")
    sources, written = (stored_sources(build, config, point) for point in (config.point, config.target))
    rows = labelled_rows(token_set)
    halves = halved(factor_table(token_set, rows))
    models = [with_fast_attention(Checkpoint.of(build.lab, c).model()) for c in config.checkpoints]
    layer = sources[0].figures["layer"]
    build.progress.start(5 + 3 + len(GROUPS), "parts", label=f"ground truth of {config.name}")
    with dictionary_sentences(config.name):
        activations = Part(ActivationArrays([s.path / "heldout.npy" for s in sources]), rows)
        targets = Part(ActivationArrays([s.path / "heldout.npy" for s in written]), rows) if written else None
        index = FeatureIndex.build(dictionary, activations)
        read = [neurons(model, layer, token_set, rows) for model in models]
        pools, decoders = _pools(dictionary, index, activations, targets, np.concatenate(read))
        del read
        build.progress.advance(3)
        truth = ground_truth(pools, halves)
        build.progress.advance(5)
        about = _structure(build, truth, halves, decoders, activations if targets is None else targets)
    place = Place(layer, config.target or config.point)
    site = Site(models, place, dictionary, len(models) - 1, Place(layer, config.point))
    causal = _causal(build, site, truth, halves)
    causal.write_parquet(build.draft.path / "causal.parquet")
    unit_table(truth, halves.second).write_parquet(build.draft.path / "units.parquet")
    matched_table(truth, halves.second).write_parquet(build.draft.path / "matched.parquet")
    return {
        "levels": figures(truth, LATENTS),
        "chance": _chance(halves),
        **about,
        "causal": causal_figures(causal),
        "whole": WHOLE[place.point],
        **_sizes(rows, halves),
    }


def labelled_rows(token_set: TokenSet, most: int = MOST_TOKENS, seed: int = 0) -> Int[np.ndarray, "token"]:
    """Rows of whole labelled documents, chat markers excluded, up to about `most`."""
    inside = np.isin(token_set.domain, LABELLED)[token_set.document] & ~np.asarray(token_set.special)
    rows = np.flatnonzero(inside)
    if len(rows) <= most:
        return rows
    document = np.asarray(token_set.document)[rows]
    order = np.random.default_rng(seed).permutation(np.unique(document))
    sizes = np.bincount(document, minlength=int(order.max()) + 1)[order]
    return rows[np.isin(document, order[: int(np.searchsorted(np.cumsum(sizes), most, side="right"))])]


def factor_table(token_set: TokenSet, rows: Int[np.ndarray, "token"]) -> FactorTable:
    """The world's factors on some rows; a factor's parent is the path it lies under."""
    names = tuple(token_set.factor_names)
    place = {name: i for i, name in enumerate(names)}
    parents = np.array([place.get(name.rpartition("/")[0], -1) for name in names], int)
    tokens, on = (token_set.factors[c].to_numpy().astype(np.int64) for c in ("token", "factor"))
    found = FactorTable.of(tokens, on, np.asarray(token_set.document), names, parents)
    return found.on(rows)


def _pools(
    dictionary: Dictionary,
    index: FeatureIndex,
    activations: Part,
    targets: Part | None,
    hidden: np.ndarray,
) -> tuple[dict[str, Units], dict[str, Dictionary]]:
    """All pools, and the dictionaries that two of them are the latents of. There are as many random directions as
    neurons, so that both take part at the same numbers of candidates. All read what the dictionary reads, but for
    the neurons, which are those of the layer's MLP (a transcoder's peers)."""
    z = normalised(activations, measure(activations))
    l0 = len(index.tokens) / index.n_tokens
    control = random_dictionary(dictionary, activations, l0, seed=0, targets=targets)
    pools: dict[str, Units] = {
        LATENTS: SparseUnits(index),
        NEURONS: SignedUnits(hidden),
        PCA: pca_directions(z),
        RANDOM_DENSE: random_directions(z, len(hidden), seed=0),
        RANDOM_SPARSE: SparseUnits(FeatureIndex.build(control, activations)),
    }
    return pools, {LATENTS: dictionary, RANDOM_SPARSE: control}


def _structure(
    build: Build,
    truth: GroundTruth,
    halves: Halves,
    dictionaries: Mapping[str, Dictionary],
    written: Part,
) -> dict[str, Any]:
    """Absorption, splitting and composition, of the dictionary and of its random double: tables and figures.
    `written`: activations where decoders point."""
    directions = probe_directions(written, halves.first_rows, halves.first)
    absorbed, split, composed = {}, {}, {}
    for name, dictionary in dictionaries.items():
        pool = truth.pools[name]
        decoder = flat_decoder(dictionary.W_dec)
        absorbed[name] = absorption(pool, decoder, directions, halves, truth.resamples)
        split[name] = list(splits(pool, halves, truth.resamples))
        composed[name] = list(compositions(pool, halves))
    names, path = halves.second.names, build.draft.path
    absorption_table(absorbed, names).write_parquet(path / "absorption.parquet")
    splitting_table(split, names).write_parquet(path / "splitting.parquet")
    composition_table(composed, names).write_parquet(path / "composition.parquet")
    return {
        "absorption": {name: _absorption_figures(found) for name, found in absorbed.items()},
        "splitting": {name: _split_figures(found) for name, found in split.items()},
        "composition": {name: _composed_figures(found) for name, found in composed.items()},
    }


def _absorption_figures(found: Absorption) -> dict[str, Any]:
    n = sum(pair.n for pair in found.pairs)
    absorbed = sum(pair.share.value * pair.n for pair in found.pairs)
    return {
        "share": absorbed / n if n else None,  # of tokens of children, summed and divided once
        "missed": sum(pair.missed for pair in found.pairs) / n if n else None,
        "tokens": n,
        "pairs": len(found.pairs),
        "parents": found.n_parents,
        "held": found.n_held,
    }


def _split_figures(found: Sequence[Split]) -> dict[str, Any]:
    return {
        "split": sum(len(s.latents) > 1 for s in found),
        "factors": len(found),
        "latents_per_factor": float(np.mean([len(s.latents) for s in found])),
        "f1_alone": float(np.mean([s.alone.value for s in found])),
        "f1_together": float(np.mean([s.together.value for s in found])),
    }


def _composed_figures(found: Sequence[Composed]) -> dict[str, Any]:
    clear = [c for c in found if c.composed and c.pair_f1 >= 0.5]
    return {
        "latents": len(found),
        "composed": sum(c.composed for c in found),
        "composed_at_f1_0.5": len(clear),
    }


def _causal(build: Build, site: Site, truth: GroundTruth, halves: Halves) -> pl.DataFrame:
    """Clamp the best latents of countries, digits and operators."""
    pool = truth.pools[LATENTS]
    assert isinstance(pool.first, SparseUnits)
    able = np.flatnonzero(pool.able)
    chosen = pool.best("f1", able)
    best = {}
    for factor, name in enumerate(halves.first.names):
        if name.startswith(tuple(f"{prefix}/" for prefix in PREFIXES.values())):
            tokens, values = pool.first.signed(int(chosen[factor]))
            there = values[halves.first.column(factor)[tokens]]
            if len(there):
                best[name] = Best(int(chosen[factor]), float(there.mean()))
    corpus = CorpusConfig(**build.parents["corpus/text"].config)
    world = make_world(corpus.n_countries, (), corpus.seed)
    checkpoint = Checkpoint.of(build.lab, site.dictionary.names[site.steered])
    return causal_table(
        site, checkpoint.tokenizer(), world, best, able, checkpoint.n_ctx, build.progress.advance
    )


def _chance(halves: Halves) -> dict[str, float]:
    """What a unit scores that says nothing: AP the share of tokens with the factor, F1 of "always on"."""
    share = halves.second.positives / len(halves.second)
    return {"auroc": 0.5, "ap": float(share.mean()), "f1": float((2 * share / (1 + share)).mean())}


def _sizes(rows: Int[np.ndarray, "token"], halves: Halves) -> dict[str, Any]:
    return {
        "tokens": len(rows),
        "documents": [len(np.unique(half.document)) for half in (halves.first, halves.second)],
        "factors": halves.first.n_factors,
        "least_tokens": factors.MIN_TOKENS,
        "least_documents": factors.MIN_DOCUMENTS,
        "split_gain": splitting.GAIN,
    }
