"""Builds a feature table: one encoding pass over the held-out tokens, then everything from the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from transformers import PreTrainedModel

from saes.arrays import ActivationArrays, in_order
from saes.dictionary import Dictionary
from saes.index import FeatureIndex
from saes.metrics import Firing
from workbench.checkpoint import Checkpoint
from workbench.dictionary_folder import dictionary_sentences, open_dictionary
from workbench.examples import excerpt_table, interval_table
from workbench.factor_scores import top_tokens
from workbench.feature_parts import neighbour_table, neuron_table, writer_columns, writer_table
from workbench.features import DENSITY, N_LOGITS, PARTS, SCHEMA, SHARE, read_table
from workbench.followed_factors import followed
from workbench.grow import Build
from workbench.labels import label_columns
from workbench.part_steps import activations_name, read_names
from workbench.points import RESID_POST
from workbench.site import direct_logits, with_fast_attention
from workbench.source_shares import source_shares
from workbench.tokens import TokenSet

N_TOP_TOKENS = 8


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `features/<dictionary>`."""
    config = build.plan.recipe.dictionary(build.config["dictionary"])
    dictionary = open_dictionary(build.parents[f"dictionary/{config.name}"].path, config.name)
    tokens_key = next(key for key in build.parents if key.startswith("activations/tokens-"))
    token_set = TokenSet(build.parents[tokens_key].path, "heldout")
    stored = {
        key.split("/", 1)[1]: artefact.path / "heldout.npy"
        for key, artefact in build.parents.items()
        if key.startswith("activations/") and key != tokens_key
    }
    own = [stored[name] for name in read_names(config, config.point)]
    build.progress.start(6, "parts", label=f"features of {config.name}")
    with dictionary_sentences(config.name):
        index = FeatureIndex.build(dictionary, ActivationArrays(own))
    index.save(build.draft.path / "index")
    build.progress.advance()
    strengths = index.strengths()
    columns = activation_columns(strengths, token_set) | norm_columns(dictionary)
    if config.minus:
        columns[f"{DENSITY}{config.checkpoints[0]}"] = index.densities()
    elif dictionary.n_models == 1:
        known = (*build.plan.recipe.checkpoint_names, *config.checkpoints)
        names = {activations_name(c, config.layer, config.point): c for c in known}
        named = {names[step]: path for step, path in stored.items()}
        columns |= densities_by_checkpoint(dictionary, index, named, config.checkpoints[0])
    else:
        columns |= densities_by_author(index, token_set, config.checkpoints)
    build.progress.advance()
    columns |= _write_parts(build, dictionary, index, strengths, token_set)
    table = pl.DataFrame(columns)
    table.cast(SCHEMA).write_parquet(build.draft.path / "table.parquet")  # type: ignore[arg-type]
    read_table(build.draft.path / "table.parquet")
    build.progress.advance()
    scores = table["label_score"].drop_nulls()
    return {
        "latents": index.n_latents,
        "tokens": index.n_tokens,
        "alive": int((np.diff(index.starts) > 0).sum()),
        "factors_at_0.9": int((table["factor_auroc"].fill_nan(None) >= 0.9).sum()),
        "labelled": int(table["label"].is_not_null().sum()),
        "median_label_score": float(np.median(scores)) if len(scores) else None,
    }


def _write_parts(
    build: Build, dictionary: Dictionary, index: FeatureIndex, strengths: FeatureIndex, token_set: TokenSet
) -> dict[str, Any]:
    """Write `examples` and the parts of `workbench.feature_parts`; return the table's columns of them. Texts
    keep the sign of an activation, factors and labels are of `strengths`."""
    config = build.plan.recipe.dictionary(build.config["dictionary"])
    path, names = build.draft.path, config.checkpoints
    excerpts = excerpt_table(index, token_set)
    excerpts.write_parquet(path / "examples.parquet")
    parts = {
        "intervals": interval_table(index, token_set),
        "neighbours": neighbour_table(index, dictionary),
        "factors": followed(strengths, token_set),
        "sources": source_shares(index, token_set),
    }
    build.progress.advance()
    first = Checkpoint.of(build.lab, names[0])
    layer = first.default_layer if config.layer is None else config.layer
    models = [(name, with_fast_attention(Checkpoint.of(build.lab, name).model())) for name in names]
    heads = _write_logits(path, dictionary, models)
    parts["neurons"] = neuron_table(models, layer, dictionary)
    # Other points are no sum of writers, and a difference is written by two models.
    onto_stream = models if config.point == RESID_POST and not config.minus else []
    parts["writers"] = writer_table(onto_stream, layer, token_set, dictionary, excerpts)
    build.progress.advance()
    for part in PARTS:
        parts[part].write_parquet(path / f"{part}.parquet")
    columns = _promoted(heads[names[-1]], token_set.vocabulary)
    columns |= factor_columns(parts["factors"], index.n_latents)
    columns |= writer_columns(parts["writers"], names[-1], index.n_latents)
    columns |= label_columns(strengths, token_set, heads[names[-1]][:, 0])
    build.progress.advance()
    return columns


def activation_columns(index: FeatureIndex, token_set: TokenSet) -> dict[str, Any]:
    """latent, density, mean and largest activation, and the tokens with the largest summed activation, all of
    an index of strengths."""
    counts = np.diff(index.starts)
    fires = counts > 0
    at = index.starts[:-1][fires]
    values = np.asarray(index.values)
    means, largest = np.zeros(len(counts)), np.zeros(len(counts))
    if fires.any():
        means[fires] = np.add.reduceat(values, at, dtype=np.float64) / counts[fires]
        largest[fires] = np.maximum.reduceat(values, at)
    tops = top_tokens(index, np.asarray(token_set.tokens), token_set.vocabulary, N_TOP_TOKENS)
    return {
        "latent": np.arange(index.n_latents),
        "density": index.densities(),
        "mean_activation": means,
        "max_activation": largest,
        "top_token": [top[0] if top else None for top in tops],
        "top_tokens": pl.Series(tops, dtype=pl.List(pl.String)),
    }


def _write_logits(
    path: Path, dictionary: Dictionary, models: Sequence[tuple[str, PreTrainedModel]]
) -> dict[str, np.ndarray]:
    """Write ids and values of the tokens each decoder promotes and suppresses; return the ids by checkpoint."""
    heads = {}
    for m, (name, model) in enumerate(models):
        ids, values = extreme_logits(direct_logits(model, dictionary.W_dec[:, m]))
        np.save(path / f"logits-{name}-ids.npy", ids, allow_pickle=False)
        np.save(path / f"logits-{name}-values.npy", values, allow_pickle=False)
        heads[name] = ids
    return heads


def extreme_logits(logits: Float[torch.Tensor, "latent vocab"]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and logits `[latent, 2, N_LOGITS]`: the largest, then the smallest."""
    n = min(N_LOGITS, logits.shape[1])
    high, low = logits.topk(n), logits.topk(n, largest=False)
    ids = torch.stack([high.indices, low.indices], dim=1).to(torch.int32)
    return ids.numpy(), torch.stack([high.values, low.values], dim=1).numpy()


def _promoted(ids: np.ndarray, vocabulary: list[str]) -> dict[str, Any]:
    """The table's lists of promoted and suppressed tokens."""
    return {
        name: pl.Series([[vocabulary[i] for i in row] for row in ids[:, side]], dtype=pl.List(pl.String))
        for side, name in enumerate(("promoted", "suppressed"))
    }


def factor_columns(factors: pl.DataFrame, n_latents: int) -> dict[str, Any]:
    """The best factor of each latent with its figures on the half of the documents that did not choose it."""
    best = factors.filter(pl.col("rank") == 0)
    every = pl.DataFrame({"latent": pl.Series(range(n_latents), dtype=pl.Int32)})
    joined = every.join(best, on="latent", how="left", maintain_order="left")
    return {
        "factor": joined["factor"],
        "factor_auroc": joined["auroc"].fill_nan(None),
        "factor_ap": joined["ap"],
        "factor_f1": joined["f1"],
    }


def norm_columns(dictionary: Dictionary) -> dict[str, Any]:
    """`norm`, and for a crosscoder the relative norm `w_<checkpoint>`."""
    columns = {"norm": dictionary.decoder_norms().sum(dim=1).numpy()}
    if dictionary.n_models > 1:
        relative = dictionary.relative_norms().numpy()
        columns |= {f"{SHARE}{name}": relative[:, m] for m, name in enumerate(dictionary.names)}
    return columns


def densities_by_checkpoint(
    dictionary: Dictionary, index: FeatureIndex, stored: Mapping[str, Path], own: str
) -> dict[str, np.ndarray]:
    """An SAE's densities when it reads each checkpoint of the lineage on the same tokens."""
    columns = {}
    for name, path in stored.items():
        if name == own:
            columns[f"{DENSITY}{name}"] = index.densities()
            continue
        firing = Firing(dictionary.n_latents)
        for x, _ in in_order(ActivationArrays([path])):
            firing.add(dictionary.encode_sparse(x).latents, len(x))
        columns[f"{DENSITY}{name}"] = firing.densities().numpy()
    return columns


def densities_by_author(
    index: FeatureIndex, token_set: TokenSet, checkpoints: tuple[str, ...]
) -> dict[str, Any]:
    """A crosscoder's densities on what each checkpoint wrote itself; null where it wrote nothing here."""
    latent = np.repeat(np.arange(index.n_latents), np.diff(index.starts))
    author = token_set.documents["author"].fill_null("").to_numpy()[token_set.document]
    columns: dict[str, Any] = {}
    for name in checkpoints:
        own = author == name
        counts = np.bincount(latent[own[np.asarray(index.tokens)]], minlength=index.n_latents)
        share = counts / own.sum() if own.any() else [None] * index.n_latents
        columns[f"{DENSITY}{name}"] = pl.Series(share, dtype=pl.Float64)
    return columns
