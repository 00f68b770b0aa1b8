"""Builds the drift of a comparison: for each pair of its checkpoints, how weights and activations moved.

`weights.parquet` (`workbench.weight_drift`), `layers.parquet` (CKA and moved, layer by layer, with intervals) and
`cka.parquet` (CKA of every layer with every layer).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from workbench.checkpoint import fast_models
from workbench.dictionaries import token_sets
from workbench.grow import Build
from workbench.intervals import document_blocks
from workbench.points import Site
from workbench.representation_drift import BLOCKS, PairedSums, cka_between, with_intervals
from workbench.site import read_sites
from workbench.tokens import TokenSet
from workbench.weight_drift import apart, total_moved, weight_drift

COMPARED_TOKENS = 50_000  # of the held-out set
MATRIX_TOKENS = 8_192  # of those, for CKA between unlike layers
MAX_LAYERS = 12  # of deeper models as many, evenly spread
TOKENS_AT_ONCE = 4_096
LAYERS_SCHEMA: Mapping[str, Any] = {
    "before": pl.String, "after": pl.String, "layer": pl.Int64, "figure": pl.String, "value": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "n": pl.Int64,
}  # fmt: skip
CKA_SCHEMA: Mapping[str, Any] = {
    "before": pl.String, "after": pl.String, "layer_before": pl.Int64, "layer_after": pl.Int64, "cka": pl.Float64,
    "n": pl.Int64,
}  # fmt: skip

Read = Mapping[str, Mapping[int, Float[np.ndarray, "token d"]]]  # checkpoint, layer


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/drift-<comparison>`."""
    names = build.plan.recipe.comparison(build.config["comparison"]).checkpoints
    models = fast_models(build.lab, names)
    parameters = {name: dict(model.named_parameters()) for name, model in models.items()}
    weights = weights_table(parameters)
    weights.write_parquet(build.draft.path / "weights.parquet")
    tokens = token_sets(build)["heldout"]
    windows = tokens.sample_windows(COMPARED_TOKENS, seed=2)
    build.progress.start(int((tokens.stops - tokens.starts)[windows].sum()), "tokens", label="drift")
    layers, matrix = representations(models, tokens, windows, build.progress.advance)
    layers.write_parquet(build.draft.path / "layers.parquet")
    matrix.write_parquet(build.draft.path / "cka.parquet")
    pairs = list(itertools.combinations(names, 2))
    return {
        "moved": {
            f"{a}|{b}": total_moved(weights.filter(pl.col("before") == a, pl.col("after") == b))
            for a, b in pairs
        },
        "apart": {f"{a}|{b}": apart(parameters[a], parameters[b]) for a, b in pairs},
    }


def weights_table(parameters: Mapping[str, Mapping[str, Tensor]]) -> pl.DataFrame:
    """`weight_drift` of every pair, in the order in which the checkpoints are given."""
    return pl.concat(
        weight_drift(parameters[a], parameters[b]).select(
            pl.lit(a).alias("before"), pl.lit(b).alias("after"), pl.all()
        )
        for a, b in itertools.combinations(parameters, 2)
    )


def layers_of(models: Mapping[str, PreTrainedModel]) -> list[int]:
    """The layers that all have, at most `MAX_LAYERS` of them."""
    n = min(model.config.get_text_config().num_hidden_layers for model in models.values())
    return sorted({int(each) for each in np.linspace(0, n - 1, min(n, MAX_LAYERS)).round()})


def representations(
    models: Mapping[str, PreTrainedModel], tokens: TokenSet, windows: np.ndarray, report: Any = lambda n: None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tables of layers and of CKA between layers, on the windows' tokens."""
    layers, pairs = layers_of(models), list(itertools.combinations(models, 2))
    sums: dict[tuple[str, str, int], PairedSums] = {}
    kept: dict[tuple[str, int], list[np.ndarray]] = {(name, layer): [] for name in models for layer in layers}
    rng = np.random.default_rng(1)
    share = MATRIX_TOKENS / max(1, int((tokens.stops - tokens.starts)[windows].sum()))
    block_of = document_blocks(tokens.documents.height, BLOCKS)
    n = 0
    for batch in tokens.batches(TOKENS_AT_ONCE, windows):
        read = _read(models, layers, batch.ids, batch.real)
        block = block_of[tokens.document[batch.rows[batch.real]]]
        for (a, b), layer in itertools.product(pairs, layers):
            x, y = read[a][layer], read[b][layer]
            if (a, b, layer) not in sums:
                sums[a, b, layer] = PairedSums(x.shape[1], y.shape[1])
            sums[a, b, layer].add(x, y, block)
        some = rng.random(len(block)) < share  # of every batch: the long windows come first
        for (name, layer), parts in kept.items():
            parts.append(read[name][layer][some])
        n += len(block)
        report(len(block))
    rows = [
        (a, b, layer, figure, *told, n)
        for (a, b, layer), paired in sums.items()
        for figure, told in with_intervals(paired.sums).items()
    ]
    at = {key: np.concatenate(parts).astype(np.float64) for key, parts in kept.items()}
    table = pl.DataFrame(rows, schema=LAYERS_SCHEMA, orient="row")
    return table.with_columns(pl.col(pl.Float64).fill_nan(None)), _matrix(at, pairs, layers)


def _matrix(
    at: Mapping[tuple[str, int], np.ndarray], pairs: Sequence[tuple[str, str]], layers: Sequence[int]
) -> pl.DataFrame:
    rows = []
    for (a, b), i, j in itertools.product(pairs, layers, layers):
        rows.append((a, b, i, j, cka_between(at[a, i], at[b, j]), len(at[a, i])))
    return pl.DataFrame(rows, schema=CKA_SCHEMA, orient="row")


def _read(
    models: Mapping[str, PreTrainedModel], layers: Sequence[int], ids: np.ndarray, real: np.ndarray
) -> Read:
    """resid_post of each layer at the real tokens, BOS left out."""
    import torch

    found: dict[str, dict[int, np.ndarray]] = {}
    for name, model in models.items():
        sites = read_sites(model, [Site(layer) for layer in layers], torch.from_numpy(ids).to(model.device))
        where = torch.from_numpy(real).to(model.device)
        found[name] = {site.layer: value[:, 1:][where].float().cpu().numpy() for site, value in sites.items()}
    return found
