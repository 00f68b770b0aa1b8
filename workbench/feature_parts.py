"""What a dashboard shows of a latent beyond its row of the table, a parquet file each beside `table.parquet`:

    intervals    random excerpts from equal intervals of its activation
    neighbours   the latents it fires together with, and those whose decoders are like its own
    factors      the factors it follows, best first
    sources      the domains, presidents, parties, years it prefers
    neurons      neurons of the model along its decoder
    writers      which embedding, heads and MLPs make it fire

All but `writers` come from the index or the weights; `writers` from one forward pass over some of the texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Float32, Int
from transformers import PreTrainedModel

from saes.dictionary import Dictionary
from saes.index import FeatureIndex
from saes.neighbours import coactive, similar
from workbench.aligned_neurons import aligned, read_directions, write_directions
from workbench.residual_writers import MAX_TOKENS, MIN_TOKENS, NotASum, Peaks, writers
from workbench.tokens import TokenSet

N_NEIGHBOURS = 8
NEIGHBOURS = {
    "latent": pl.Int32,
    "relation": pl.String,  # coactive or similar
    "rank": pl.Int32,
    "other": pl.Int32,
    "count": pl.Int64,  # tokens on which both fire
    "jaccard": pl.Float64,
    "cosine": pl.Float32,
}
NEURONS = {
    "checkpoint": pl.String,
    "latent": pl.Int32,
    "side": pl.String,  # written or read
    "layer": pl.Int32,
    "rank": pl.Int32,
    "neuron": pl.Int32,
    "cosine": pl.Float32,
}
WRITERS = {
    "checkpoint": pl.String,
    "latent": pl.Int32,
    "component": pl.String,
    "delta": pl.Float32,  # Δ of `workbench.residual_writers`
    "share": pl.Float32,  # of their sum
    "peaks": pl.Int32,  # tokens behind it
}


def written_by(writers: pl.DataFrame, component: str, checkpoint: str, n: int) -> pl.DataFrame:
    """The latents of a `WRITERS` table that a component lifts most, by its share: latent, share."""
    rows = writers.filter(
        pl.col("component") == component, pl.col("checkpoint") == checkpoint, pl.col("share") > 0
    )
    return rows.sort(["share", "latent"], descending=[True, False]).head(n).select("latent", "share")


def neighbour_table(index: FeatureIndex, dictionary: Dictionary) -> pl.DataFrame:
    """Co-active and similar latents of every latent."""
    together, alike = coactive(index, N_NEIGHBOURS), similar(dictionary, N_NEIGHBOURS)
    parts = []
    for relation, others in (("coactive", together.latents), ("similar", alike.latents)):
        latent, rank = np.nonzero(others >= 0)
        at = (latent, rank)
        own = relation == "coactive"
        columns = {
            "latent": latent,
            "relation": [relation] * len(latent),
            "rank": rank,
            "other": others[at],
            "count": together.counts[at] if own else None,
            "jaccard": together.jaccard[at] if own else None,
            "cosine": None if own else alike.cosines[at],
        }
        parts.append(pl.DataFrame(columns).cast(NEIGHBOURS))  # type: ignore[arg-type]
    return pl.concat(parts)


def neuron_table(
    models: Sequence[tuple[str, PreTrainedModel]], layer: int, dictionary: Dictionary
) -> pl.DataFrame:
    """Neurons that write along each latent in the site's layer, and that read along it in the next."""
    parts = [pl.DataFrame(schema=NEURONS)]
    for m, (name, model) in enumerate(models):
        sides = (("written", layer, write_directions), ("read", layer + 1, read_directions))
        for side, at, directions_of in sides:
            if (directions := directions_of(model, at)) is None:
                continue
            found = aligned(dictionary.W_dec[:, m], directions)
            size, n = found.neurons.shape
            columns = {
                "checkpoint": [name] * (size * n),
                "latent": np.repeat(np.arange(size), n),
                "side": [side] * (size * n),
                "layer": [at] * (size * n),
                "rank": np.tile(np.arange(n), size),
                "neuron": found.neurons.ravel(),
                "cosine": found.cosines.ravel(),
            }
            parts.append(pl.DataFrame(columns).cast(NEURONS))  # type: ignore[arg-type]
    return pl.concat(parts)


def writer_table(
    models: Sequence[tuple[str, PreTrainedModel]],
    layer: int,
    token_set: TokenSet,
    dictionary: Dictionary,
    excerpts: pl.DataFrame,
) -> pl.DataFrame:
    """What every component adds to each latent on its strongest tokens, in every checkpoint; empty where the
    family's stream is not the plain sum of its parts."""
    latent, row = (excerpts[name].to_numpy().astype(np.int64) for name in ("latent", "peak"))
    peaks = Peaks(latent, row, np.sign(excerpts["value"].to_numpy().astype(np.float64)))
    parts = [pl.DataFrame(schema=WRITERS)]
    if not len(peaks.row) or not models:
        return parts[0]
    budget = max(MAX_TOKENS // len(models), MIN_TOKENS)
    for m, (name, model) in enumerate(models):
        try:
            found = writers(model, layer, token_set, dictionary.W_enc[m], peaks, budget)
        except NotASum:
            continue
        parts.append(_written_table(name, found.components, found.delta.astype(np.float32), found.n_peaks))
    return pl.concat(parts)


def _written_table(
    checkpoint: str,
    components: list[str],
    delta: Float32[np.ndarray, "component latent"],
    n_peaks: Int[np.ndarray, " latent"],
) -> pl.DataFrame:
    known = np.flatnonzero(n_peaks > 0)
    delta = delta[:, known]
    total = delta.sum(axis=0)
    share = np.where(np.abs(total) > 0, delta / np.where(total == 0, 1, total), np.nan)
    n = len(components)
    columns = {
        "checkpoint": [checkpoint] * (n * len(known)),
        "latent": np.repeat(known, n),
        "component": components * len(known),
        "delta": delta.T.ravel(),
        "share": share.T.ravel(),
        "peaks": np.repeat(n_peaks[known], n),
    }
    return pl.DataFrame(columns).cast(WRITERS)  # type: ignore[arg-type]


def writer_columns(table: pl.DataFrame, checkpoint: str, n_latents: int) -> dict[str, pl.Series]:
    """The component that adds most to each latent in a checkpoint, and its share."""
    most = (
        table.filter((pl.col("checkpoint") == checkpoint) & pl.col("share").is_not_nan())
        .sort("delta", descending=True)
        .group_by("latent", maintain_order=True)
        .first()
        .select("latent", writer="component", writer_share="share")
    )
    every = pl.DataFrame({"latent": pl.Series(range(n_latents), dtype=pl.Int32)})
    joined = every.join(most, on="latent", how="left", maintain_order="left")
    return {"writer": joined["writer"], "writer_share": joined["writer_share"]}
