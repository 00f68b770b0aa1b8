"""Which latents belong together: those that fire on the same tokens, and those whose decoders point alike.

    J_ij = n_ij / (n_i + n_j − n_ij)      n_ij tokens on which both fire (Jaccard)
    C_ij = ⟨d_i, d_j⟩ / (‖d_i‖ ‖d_j‖)     d_i all models' decoders in normalised units, one after the other

Co-active latents are ranked by J and not by n: by n, every latent's first neighbours are the densest ones.
Both are over all pairs, some rows at a time, so that memory is a few rows of [latent latent].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64

from saes.dictionary import Dictionary
from saes.index import FeatureIndex

ROWS = 512  # latents whose pairs are held at once


class CoActive(NamedTuple):
    """For each latent the n that it fires together with most, by Jaccard; -1 where there are fewer."""

    latents: Int64[np.ndarray, "latent n"]
    counts: Int64[np.ndarray, "latent n"]
    jaccard: Float[np.ndarray, "latent n"]


class Similar(NamedTuple):
    """For each latent the n whose decoders have the largest cosine with its own; -1 where there are fewer."""

    latents: Int64[np.ndarray, "latent n"]
    cosines: Float32[np.ndarray, "latent n"]


def coactive(index: FeatureIndex, n: int) -> CoActive:
    """The n most co-active latents of every latent. Latents that share no token are no neighbours."""
    from scipy.sparse import csc_matrix

    size, n = index.n_latents, min(n, index.n_latents - 1)
    ones = np.ones(len(index.tokens), dtype=np.int32)
    fires = csc_matrix((ones, np.asarray(index.tokens), index.starts), shape=(index.n_tokens, size)).tocsr()
    on_tokens = fires.T.tocsr()
    totals = np.diff(index.starts)
    latents, counts, jaccard = np.full((size, n), -1), np.zeros((size, n), np.int64), np.zeros((size, n))
    for start in range(0, size, ROWS):
        part = slice(start, min(start + ROWS, size))
        together = (on_tokens[part] @ fires).toarray()
        union = totals[part, None] + totals[None, :] - together
        share = together / np.maximum(union, 1)
        share[np.arange(len(share)), np.arange(part.start, part.stop)] = -1.0
        best = _largest(share, n)
        found = np.take_along_axis(share, best, axis=1)
        latents[part] = np.where(found > 0, best, -1)
        counts[part] = np.where(found > 0, np.take_along_axis(together, best, axis=1), 0)
        jaccard[part] = np.maximum(found, 0.0)
    return CoActive(latents, counts, jaccard)


def similar(dictionary: Dictionary, n: int) -> Similar:
    """The n latents of every latent whose decoders are most like its own; a latent without a decoder has none
    and is none."""
    size, n = dictionary.n_latents, min(n, dictionary.n_latents - 1)
    flat = (dictionary.W_dec / dictionary.scales[:, None]).flatten(1).float()
    norms = flat.norm(dim=1, keepdim=True)
    unit, empty = flat / norms.clamp_min(1e-12), (norms[:, 0] == 0)
    latents, cosines = np.full((size, n), -1), np.zeros((size, n), np.float32)
    for start in range(0, size, ROWS):
        part = slice(start, min(start + ROWS, size))
        found = unit[part] @ unit.T
        found[:, empty] = -2.0
        found[torch.arange(found.shape[0]), torch.arange(part.start, part.stop)] = -2.0
        best = found.topk(n, dim=1)
        known = (best.values > -2.0) & ~empty[part, None]
        latents[part] = torch.where(known, best.indices, -1).cpu().numpy()
        cosines[part] = torch.where(known, best.values, 0.0).cpu().numpy()
    return Similar(latents, cosines)


def _largest(rows: Float[np.ndarray, "row column"], n: int) -> Int[np.ndarray, "row n"]:
    """Columns of the n largest values of each row, largest first; of equal ones the earlier column first."""
    if n == 0:
        return np.zeros((len(rows), 0), np.int64)
    chosen = np.sort(np.argpartition(-rows, n - 1, axis=1)[:, :n], axis=1)
    values = np.take_along_axis(rows, chosen, axis=1)
    return np.take_along_axis(chosen, np.argsort(-values, axis=1, kind="stable"), axis=1)
