"""Builds the lives of a comparison's latents: where along the snapshots of its stages each was born, turned, died.

The crosscoder says once, from the finished checkpoints, which latents fire on a sample of held-out tokens; then
each snapshot's stream at the same tokens is asked for the direction that carries each pattern
(`workbench.joint_decoders`, `workbench.latent_lives`). Tables: `workbench.lives_tables`. A feature that came and
went before the comparison's first checkpoint was finished has no latent in it, and is not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix

from saes.arrays import ActivationArrays
from saes.dictionary import Dictionary
from workbench.checkpoint import Checkpoint
from workbench.device import best_device
from workbench.dictionaries import stored_sources, token_sets
from workbench.dictionary_folder import dictionary_sentences, open_dictionary
from workbench.grow import Build
from workbench.intervals import document_blocks
from workbench.joint_decoders import Patterns, Reading
from workbench.lab import Lab
from workbench.lives_tables import SCHEMAS, Latents, tables, training_curves
from workbench.parents import lineage
from workbench.points import Site
from workbench.recipe import stage_of
from workbench.representation_drift import BLOCKS
from workbench.site import read_sites, with_fast_attention
from workbench.step_axis import Moment, moments, stages_of
from workbench.tokens import TokenSet

SAMPLED_TOKENS = 12_000  # of the held-out set
TOKENS_AT_ONCE = 4_096
MOST_LATENTS = 4_096  # of wider dictionaries those that fire on most tokens: a Gram matrix is inverted
OWN_SHARE = (
    0.5  # a latent's own decoder is the last checkpoint's whose norm is at least this part of the largest
)


class Sample(NamedTuple):
    """Tokens that every snapshot reads, chat markers left out, in the order of their blocks of documents."""

    windows: Int[np.ndarray, "window"]
    rows: Int[np.ndarray, "token"]
    block: Int[np.ndarray, "token"]
    domain: Int[np.ndarray, "token"]


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/lives-<comparison>`."""
    recipe = build.plan.recipe
    compared = recipe.comparison(build.config["comparison"]).checkpoints
    names = lineage([stage_of(c) for c in compared], build.plan.parent_checkpoint)
    stages = stages_of(build.lab, build.plan, names)
    line = [stage.name for stage in stages]
    axis = moments(stages)
    owners = [name for name in compared if name in {moment.address for moment in axis}]
    figures: dict[str, Any] = {
        "axis": line,
        "beside": [name for name in compared if name not in owners],
        "gone": [stage.name for stage in stages if not stage.snapshots],
    }
    made = {name: pl.DataFrame(schema=schema) for name, schema in SCHEMAS.items()}
    if owners and len(figures["gone"]) < len(stages):
        latents, readings = _read_all(build, axis, owners)
        made = tables(axis, latents, readings)
        made["curves"] = training_curves(stages, {n: _metrics(build, n) for n in line})
        figures |= {"latents": made["births"].height, "tokens": latents.tokens}
    for name, table in made.items():
        table.write_parquet(build.draft.path / f"{name}.parquet")
    return figures


def _metrics(build: Build, name: str) -> pl.DataFrame | None:
    path = Checkpoint.of(build.lab, name).folder / "metrics.parquet"
    return pl.read_parquet(path) if path.is_file() else None


def _read_all(build: Build, axis: Sequence[Moment], owners: Sequence[str]) -> tuple[Latents, list[Reading]]:
    """The latents that are asked, and what the stream of every moment holds of them."""
    comparison = build.plan.recipe.comparison(build.config["comparison"])
    used = build.plan.recipe.dictionary(comparison.dictionary)
    tokens = token_sets(build)["heldout"]
    sample = sampled(tokens)
    build.progress.start(len(axis), "models", label=f"lives of {used.name}")
    read, written = (stored_sources(build, used, point) for point in (used.point, used.target or used.point))
    with dictionary_sentences(used.name):
        crosscoder = open_dictionary(build.parents[f"dictionary/{used.name}"].path, used.name)
        x = ActivationArrays([source.path / "heldout.npy" for source in read])[sample.rows]
        code = crosscoder.encode_sparse(x)
        shape = (len(sample.rows), crosscoder.n_latents)
        at = (code.rows.numpy(), code.latents.numpy())
        f = csr_matrix((code.values.double().numpy(), at), shape=shape)
        stored = {
            name: ActivationArrays([source.path / "heldout.npy"])
            for name, source in zip(comparison.checkpoints, written, strict=True)
        }
        ends = {name: stored[name][sample.rows][:, 0].numpy() for name in owners}
    latents, own = chosen(f, crosscoder, owners, ends, axis)
    patterns = Patterns.of(f[:, latents.latent], own, sample.block, sample.domain)
    site = Site(written[0].figures["layer"], used.target or used.point)
    readings = []
    for moment in axis:
        known = moment.address in ends
        a = ends[moment.address] if known else stream(build.lab, moment, site, tokens, sample)
        readings.append(patterns.read(a))
        build.progress.advance(1)
    return latents, readings


def sampled(tokens: TokenSet, n: int = SAMPLED_TOKENS) -> Sample:
    """Windows of all domains as they come, until they hold `n` tokens."""
    windows = tokens.sample_windows(n, seed=3)
    rows = tokens.rows_of(windows)
    rows = rows[~np.asarray(tokens.special)[rows]]
    document = np.asarray(tokens.document)[rows]
    block = document_blocks(tokens.documents.height, BLOCKS)[document]
    order = np.argsort(block, kind="stable")
    domain = np.unique(tokens.domain, return_inverse=True)[1][document]
    return Sample(windows, rows[order], block[order], domain[order])


def chosen(
    f: csr_matrix,
    crosscoder: Dictionary,
    owners: Sequence[str],
    ends: Mapping[str, Float[np.ndarray, "token d"]],
    axis: Sequence[Moment],
) -> tuple[Latents, Float[np.ndarray, "latent d"]]:
    """The latents that fire on the sample and have a decoder; their own decoder in units of its stream."""
    models = [crosscoder.model_index(name) for name in owners]
    size = np.array([np.sqrt(ends[name].var(axis=0, dtype=np.float64).mean()) for name in owners])
    decoders = crosscoder.W_dec.double().numpy()[:, models] / size[:, None]
    norms = np.linalg.norm(decoders, axis=2)
    large = norms >= OWN_SHARE * norms.max(axis=1, keepdims=True)
    last = len(owners) - 1 - large[:, ::-1].argmax(axis=1)
    fires = np.bincount(f.indices, minlength=f.shape[1])
    order = np.argsort(-fires, kind="stable")[:MOST_LATENTS]
    latent = np.sort(order[(fires[order] > 0) & (norms.max(axis=1)[order] > 0)])
    end_of = {moment.address: number for number, moment in enumerate(axis)}
    end = np.array([end_of[name] for name in owners])[last[latent]]
    own = [owners[number] for number in last[latent]]
    return Latents(latent, own, end, fires[latent], f.shape[0]), decoders[latent, last[latent]]


def stream(
    lab: Lab, moment: Moment, site: Site, tokens: TokenSet, sample: Sample
) -> Float[np.ndarray, "token d"]:
    """What stands at the site at the sample's tokens, in its order."""
    import torch

    model = with_fast_attention(Checkpoint.of(lab, moment.address).model(best_device()))
    where = np.full(len(tokens), -1)
    where[sample.rows] = np.arange(len(sample.rows))
    found: np.ndarray | None = None
    for batch in tokens.batches(TOKENS_AT_ONCE, sample.windows):
        value = read_sites(model, [site], torch.from_numpy(batch.ids).to(model.device))[site]
        real = torch.from_numpy(batch.real).to(model.device)
        taken = value[:, 1:][real].float().cpu().numpy()
        if found is None:
            found = np.empty((len(sample.rows), taken.shape[1]), dtype=np.float32)
        at = where[batch.rows[batch.real]]
        found[at[at >= 0]] = taken[at >= 0]
    assert found is not None  # a token set has windows
    return found
