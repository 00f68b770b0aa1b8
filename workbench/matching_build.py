"""Builds the matching of separately trained SAEs: whose latents are whose, and what an SAE is worth elsewhere.

Tables: `workbench.matching_tables` and `workbench.transfer`. Codes are those of the feature indexes, on a sample of
the held-out tokens, chat markers left out. Every two SAEs of one starting seed are matched; where the recipe has
other seeds of them, each with the other seed of its own checkpoint (the floor) and with that of later ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from saes.arrays import ActivationArrays, Part, spread
from saes.calibrate import measure
from saes.latent_matching import Codes
from workbench.checkpoint import Checkpoint
from workbench.device import best_device
from workbench.dictionaries import stored_sources, token_sets
from workbench.dictionary_folder import dictionary_sentences, open_dictionary
from workbench.features import open_index, read_table
from workbench.grow import Build
from workbench.intervals import document_blocks
from workbench.matched_saes import training
from workbench.matching import FLOOR, OTHER, SAME
from workbench.matching_tables import SCHEMAS, Side, Tokens, chance, matched, unmatched
from workbench.part_tables import write_part
from workbench.points import Site
from workbench.recipe import DictionaryConfig
from workbench.representation_drift import BLOCKS
from workbench.site import with_fast_attention
from workbench.tokens import TokenSet
from workbench.transfer import SPLICED_TOKENS, TOKENS, Stream, transfer

CORRELATED_TOKENS = 80_000  # of the held-out set
FEWEST = 20  # tokens that a latent fires on, to be matched: rarer ones correlate with anything
MEASURED_ROWS = 20_000  # of the dictionary set
MOST_LATENTS = 4_096  # of wider SAEs those that fire on most tokens: an assignment of more takes minutes


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/matching-<comparison>`."""
    recipe = build.plan.recipe
    own, again = ([recipe.dictionary(name) for name in build.config[key]] for key in ("saes", "seeds"))
    heldout = token_sets(build)["heldout"]
    todo = couples(own, again)
    cells = len(own) ** 2 * min(TOKENS, len(heldout)) + len(own) * min(SPLICED_TOKENS, len(heldout))
    build.progress.start(len(todo) * len(heldout) + cells, "tokens", label=f"match {own[0].name} and its like")
    counted = sampled(heldout)
    document = np.asarray(heldout.document)[counted]
    tokens = Tokens(
        document_blocks(heldout.documents.height, BLOCKS)[document],
        np.unique(heldout.domain, return_inverse=True)[1][document],
    )
    sides = {config.name: _side(build, config, counted) for config in (*own, *again)}
    nulls = chance(sides[own[0].name], sides[own[1].name], tokens)
    parts = []
    for kind, a, b in todo:
        parts.append(matched(kind, sides[a], sides[b], tokens, nulls))
        build.progress.advance(len(heldout))
    tables = {name: pl.concat([part[name] for part in parts]) for name in parts[0]} | {"nulls": nulls}
    directed = [pair for a, b in itertools.combinations(own, 2) for pair in ((b, a), (a, b))]
    seeds = {config.checkpoints: config.name for config in again}
    apart = unmatched(tables["best"], {(x.name, y.name): seeds.get(x.checkpoints) for x, y in directed})
    tables["unmatched"] = _labelled(build, apart)
    tables["transfer"] = _transfer(build, own, heldout)
    for name, table in tables.items():
        write_part(build.draft.path, name, table)
    return {
        "saes": {config.checkpoints[0]: config.name for config in own},
        "seeds": {config.checkpoints[0]: config.name for config in again},
        "seed": own[0].seed,
        "matched": {name: len(side.codes.latent) for name, side in sides.items()},
        "tokens": int(counted.sum()),
        "unlike": [c.name for c in (*own, *again) if training(c) != training(own[0])],
    }


def couples(own: Sequence[DictionaryConfig], again: Sequence[DictionaryConfig]) -> list[tuple[str, str, str]]:
    """(kind, a, b) of all that are matched; the earlier checkpoint's first."""
    found = [(SAME, a.name, b.name) for a, b in itertools.combinations(own, 2)]
    for before, config in enumerate(own):
        later = {each.checkpoints for each in own[before + 1 :]}
        for other in again:
            if other.checkpoints == config.checkpoints:
                found.append((FLOOR, config.name, other.name))
            elif other.checkpoints in later:
                found.append((OTHER, config.name, other.name))
    return found


def sampled(tokens: TokenSet) -> np.ndarray:
    """Bool [token]: the tokens that correlations are taken over."""
    counted = np.zeros(len(tokens), dtype=bool)
    counted[tokens.rows_of(tokens.sample_windows(CORRELATED_TOKENS, seed=5))] = True
    return counted & ~np.asarray(tokens.special)


def _side(build: Build, config: DictionaryConfig, counted: np.ndarray) -> Side:
    """Latents that fire on no token that counts have no part in it."""
    dictionary = open_dictionary(build.parents[f"dictionary/{config.name}"].path, config.name)
    index = open_index(build.parents[f"features/{config.name}"].path, config.name)
    codes = Codes.of(index, counted, min(FEWEST, max(1, int(counted.sum()) // 1000)), MOST_LATENTS)
    return Side(config.name, codes, dictionary.W_dec[codes.latent, 0].double().numpy())


def _labelled(build: Build, apart: pl.DataFrame) -> pl.DataFrame:
    parts = []
    for name in apart["own"].unique(maintain_order=True):
        table = read_table(build.parents[f"features/{name}"].path / "table.parquet")
        rows = apart.filter(own=name).drop("label")
        parts.append(rows.join(table.select("latent", "label"), on="latent", how="left", maintain_order="left"))
    return pl.concat(parts).select(*SCHEMAS["unmatched"]) if parts else apart


def _spread(activations: ActivationArrays) -> Part:
    """Some rows of all parts of the set: enough for a mean and a scale."""
    return Part(activations, spread(activations, MEASURED_ROWS))


def _transfer(build: Build, own: Sequence[DictionaryConfig], heldout: TokenSet) -> pl.DataFrame:
    device, streams, saes = best_device(), {}, {}
    for config in own:
        name, (source,) = config.checkpoints[0], stored_sources(build, config, config.point)
        with dictionary_sentences(config.name):
            streams[name] = Stream(
                ActivationArrays([source.path / "heldout.npy"]),
                measure(_spread(ActivationArrays([source.path / "dictionary.npy"]))),
                lambda name=name: with_fast_attention(Checkpoint.of(build.lab, name).model(device)),  # type: ignore[misc]
            )
        saes[name] = open_dictionary(build.parents[f"dictionary/{config.name}"].path, config.name).to(device)
        site = Site(source.figures["layer"], config.point)
    return transfer(saes, streams, heldout, site, build.progress.advance)
