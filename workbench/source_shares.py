"""Where the texts come from that a latent fires on: domains, kinds, presidents, parties, years.

For a value v of an attribute, n_jv tokens of it on which latent j fires, p_v the share of v among the tokens
that have the attribute at all, n_j all of the latent's tokens among those:

    lift_jv = n_jv / (n_j · p_v)        ranked by n_jv · log(lift_jv)

the value's part of the divergence between where the latent fires and where there is text. Tokens of one
document are not independent: `documents` says in how many the latent fires.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy.sparse import csc_matrix, csr_matrix

from saes.index import FeatureIndex
from workbench.tokens import TokenSet

ATTRIBUTES = ("domain", "kind", "president", "party", "year")
N_VALUES = 3  # of each attribute and latent, all of them over-represented
MIN_COUNT = 3  # tokens
SCHEMA = {
    "latent": pl.Int32,
    "attribute": pl.String,
    "rank": pl.Int32,
    "value": pl.String,
    "count": pl.Int64,
    "expected": pl.Float64,
    "lift": pl.Float64,
    "documents": pl.Int64,
    "documents_with": pl.Int64,  # in which there is such a text at all
}


def source_shares(index: FeatureIndex, token_set: TokenSet) -> pl.DataFrame:
    """The over-represented values of every attribute for every latent, the most telling first."""
    n_documents = token_set.documents.height
    document = np.asarray(token_set.document)[np.asarray(index.tokens)]
    ones = np.ones(len(document), dtype=np.int64)
    fires = csc_matrix((ones, document, index.starts), shape=(n_documents, index.n_latents)).T.tocsr()
    fires.sum_duplicates()
    sizes = np.bincount(np.asarray(token_set.document), minlength=n_documents)
    tables = [_of_attribute(fires, sizes, name, _values(token_set, name)) for name in ATTRIBUTES]
    return pl.concat(tables)


def _values(token_set: TokenSet, attribute: str) -> list[str | None]:
    """[document]: the attribute's value as text."""
    if attribute == "domain":
        return [str(domain) for domain in token_set.domain]
    return token_set.documents[attribute].cast(pl.String).to_list()


def _of_attribute(
    fires: csr_matrix, sizes: np.ndarray, attribute: str, values: list[str | None]
) -> pl.DataFrame:
    names = sorted({v for v in values if v is not None})
    if not names:
        return pl.DataFrame(schema=SCHEMA)
    place = {name: i for i, name in enumerate(names)}
    has = np.array([i for i, v in enumerate(values) if v is not None])
    of_document = np.array([place[v] for v in values if v is not None])
    group = csr_matrix((np.ones(len(has), np.int64), (has, of_document)), shape=(len(values), len(names)))
    counts = (fires @ group).toarray()
    documents = ((fires > 0).astype(np.int64) @ group).toarray()
    tokens = sizes @ group
    expected = counts.sum(axis=1, keepdims=True) * (tokens / tokens.sum())
    lift = counts / np.maximum(expected, 1e-12)
    told = np.where((counts >= MIN_COUNT) & (lift > 1), counts * np.log(np.maximum(lift, 1.0)), 0.0)
    best = np.argsort(-told, axis=1, kind="stable")[:, :N_VALUES]
    latent, rank = np.nonzero(np.take_along_axis(told, best, axis=1) > 0)
    value = best[latent, rank]
    table = {
        "latent": latent,
        "attribute": [attribute] * len(latent),
        "rank": rank,
        "value": [names[v] for v in value],
        "count": counts[latent, value],
        "expected": expected[latent, value],
        "lift": lift[latent, value],
        "documents": documents[latent, value],
        "documents_with": np.bincount(of_document, minlength=len(names))[value],
    }
    return pl.DataFrame(table).cast(SCHEMA)  # type: ignore[arg-type]
