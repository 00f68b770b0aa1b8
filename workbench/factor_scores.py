"""How well each latent tells each factor of the world apart, by AUROC, from a feature index alone.

    AUROC = P(f(x) > f(y)) + P(f(x) = f(y)) / 2,  x a token with the factor, y one without

A latent is zero nearly everywhere, and equal values share their mean rank: only its entries need sorting.
With Z silent tokens, silent ones have rank (Z + 1)/2 and the r-th entry (from below) Z + r, so the rank sum
of every factor is one sparse product [latent token] @ [token factor] (Mann–Whitney). Only domains where every
token is labelled count (world and gold chats): elsewhere a missing label is no absence.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csc_matrix, csr_matrix
from scipy.stats import rankdata

from saes.index import FeatureIndex
from workbench.tokens import TokenSet

LABELLED = ("world", "chat")
MIN_TOKENS = 20  # tokens with the factor, and without it, in each half


def halves(token_set: TokenSet, seed: int) -> Int[np.ndarray, "token"]:
    """0 or 1 for tokens of labelled documents, at random by document; -1 elsewhere."""
    draw = np.random.default_rng(seed).integers(0, 2, token_set.documents.height)
    labelled = np.isin(token_set.domain, LABELLED)
    return np.where(labelled, draw, -1)[token_set.document]


def label_matrix(token_set: TokenSet, n_factors: int) -> csr_matrix:
    """Bool [token factor]."""
    pairs = token_set.factors
    ones = np.ones(pairs.height, np.float64)
    where = (pairs["token"].to_numpy(), pairs["factor"].to_numpy())
    return csr_matrix((ones, where), shape=(len(token_set), n_factors))


def aurocs(
    index: FeatureIndex, labels: csr_matrix, inside: Bool[np.ndarray, "token"]
) -> Float[np.ndarray, "latent factor"]:
    """AUROC of every latent for every factor over the tokens `inside`; NaN where a factor is too rare."""
    rows = np.flatnonzero(inside)
    place = np.full(len(inside), -1)
    place[rows] = np.arange(len(rows))
    labels = labels[rows]
    ranks, silent = _ranks(index, place, len(rows))
    positives = np.asarray(labels.sum(axis=0)).ravel()
    negatives = len(rows) - positives
    # rank sum = Σ over entries of (rank − silent rank) + positives · silent rank
    silent_rank = (silent + 1) / 2
    rank_sum = (ranks @ labels).toarray() + silent_rank[:, None] * positives
    enough = (positives >= MIN_TOKENS) & (negatives >= MIN_TOKENS)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)
    found[:, ~enough] = np.nan
    return found


def _ranks(
    index: FeatureIndex, place: Int[np.ndarray, "token"], n: int
) -> tuple[csr_matrix, Float[np.ndarray, "latent"]]:
    """[latent token]: each entry's rank less the rank of the silent ones; and how many are silent."""
    columns, data, starts = [], [], [0]
    for latent in range(index.n_latents):
        tokens, values = index.entries(latent)
        here = place[tokens]
        kept, values = here[here >= 0], values[here >= 0]
        silent = n - len(kept)
        columns.append(kept)
        data.append(rankdata(values) + silent - (silent + 1) / 2)
        starts.append(starts[-1] + len(kept))
    matrix = csr_matrix(
        (np.concatenate(data), np.concatenate(columns), np.array(starts)), shape=(index.n_latents, n)
    )
    return matrix, n - np.diff(starts).astype(float)


def summed_by_token_id(index: FeatureIndex, ids: Int[np.ndarray, "token"], size: int) -> csr_matrix:
    """[latent vocab]: each latent's activation summed over the tokens with an id."""
    fires = csc_matrix(
        (np.asarray(index.values), np.asarray(index.tokens), index.starts), shape=(len(ids), index.n_latents)
    )
    which = csr_matrix((np.ones(len(ids)), (np.arange(len(ids)), np.asarray(ids))), shape=(len(ids), size))
    return (fires.T @ which).tocsr()
