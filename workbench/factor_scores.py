"""Which factor of the world each latent follows, by AUROC, from a feature index alone.

`saes.ranking` has the arithmetic. The factor is chosen on one half of the documents and scored on the other.
Only domains where every token is labelled count (world and gold chats): elsewhere a missing label is no
absence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csc_matrix, csr_matrix

from saes.index import FeatureIndex
from saes.ranking import aurocs
from workbench.tokens import TokenSet

LABELLED = ("world", "chat")


class BestFactors(NamedTuple):
    """For each latent the factor chosen on one half (-1: none) and its AUROC on the other (NaN: none)."""

    factor: Int[np.ndarray, "latent"]
    auroc: Float[np.ndarray, "latent"]


def best_factors(index: FeatureIndex, token_set: TokenSet, seed: int = 0) -> BestFactors:
    """The best factor of each latent of an index over `token_set`."""
    half = _halves(token_set, seed)
    chosen_on, scored_on = (half == h for h in (0, 1))
    n_factors = len(token_set.factor_names)
    none = BestFactors(np.full(index.n_latents, -1), np.full(index.n_latents, np.nan))
    if n_factors == 0 or not chosen_on.any() or not scored_on.any():
        return none
    first = aurocs(index, _labels(token_set, n_factors), chosen_on)
    second = aurocs(index, _labels(token_set, n_factors), scored_on)
    first[np.isnan(second)] = np.nan
    fires = np.diff(index.starts) > 0
    first[~fires] = np.nan
    known = ~np.isnan(first).all(axis=1)
    factor = np.where(known, np.argmax(np.nan_to_num(first, nan=-1.0), axis=1), -1)
    auroc = np.where(known, second[np.arange(len(factor)), factor], np.nan)
    return BestFactors(factor, auroc)


def _halves(token_set: TokenSet, seed: int) -> Int[np.ndarray, "token"]:
    """0 or 1 for tokens of labelled documents, at random by document; -1 elsewhere."""
    draw = np.random.default_rng(seed).integers(0, 2, token_set.documents.height)
    labelled = np.isin(token_set.domain, LABELLED)
    return np.where(labelled, draw, -1)[token_set.document]


def _labels(token_set: TokenSet, n_factors: int) -> csr_matrix:
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
