"""How well each latent tells each factor of the world apart, by AUROC, from a feature index alone.

`saes.ranking` has the arithmetic. Only domains where every token is labelled count (world and gold chats):
elsewhere a missing label is no absence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from scipy.sparse import csc_matrix, csr_matrix

from saes.index import FeatureIndex
from workbench.tokens import TokenSet

LABELLED = ("world", "chat")


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


def summed_by_token_id(index: FeatureIndex, ids: Int[np.ndarray, "token"], size: int) -> csr_matrix:
    """[latent vocab]: each latent's activation summed over the tokens with an id."""
    fires = csc_matrix(
        (np.asarray(index.values), np.asarray(index.tokens), index.starts), shape=(len(ids), index.n_latents)
    )
    which = csr_matrix((np.ones(len(ids)), (np.arange(len(ids)), np.asarray(ids))), shape=(len(ids), size))
    return (fires.T @ which).tocsr()


def top_tokens(
    index: FeatureIndex, ids: Int[np.ndarray, "token"], vocabulary: Sequence[str], n: int
) -> list[list[str]]:
    """Of every latent the tokens that carry most of its activation, the foremost first."""
    sums = summed_by_token_id(index, ids, len(vocabulary))
    found = []
    for latent in range(index.n_latents):
        part = slice(sums.indptr[latent], sums.indptr[latent + 1])
        best = np.argsort(-sums.data[part], kind="stable")[:n]
        found.append([vocabulary[i] for i in sums.indices[part][best]])
    return found
