"""Which factors of the world a latent follows: F1, average precision and AUROC, chosen on one half of the
documents and scored on the other.

    F1(t) = 2·TP(t) / (P + N(t))     N(t) tokens with f ≥ t, TP(t) those of them with the factor, P all with it
    AP    = Σ_t (R(t) − R(t⁺)) · Pr(t)    over distinct activations t, silence included [as scikit-learn]

The named factor is the one with the best F1 at its best threshold above zero. AUROC alone names latents after
factors that are rare enough to lie high by chance; F1 needs both precision and recall. Everything comes from
the hits, the entries of the index on tokens that have a factor: what a latent is silent on enters only as a
count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix

from saes.factors import MIN_TOKENS
from saes.index import FeatureIndex
from saes.ranking import aurocs
from workbench.factor_scores import halves, label_matrix
from workbench.tokens import TokenSet

N_FACTORS = 5  # a latent
SCHEMA = {
    "latent": pl.Int32,
    "rank": pl.Int32,
    "factor": pl.String,
    "f1": pl.Float64,
    "ap": pl.Float64,
    "auroc": pl.Float64,
    "threshold": pl.Float32,  # the activation above which the factor is said to be on
    "positives": pl.Int64,  # tokens with the factor among those scored
}


class Pairs(NamedTuple):
    """Scores of (latent, factor) pairs on one half; only pairs that share a token."""

    latent: Int[np.ndarray, "pair"]
    factor: Int[np.ndarray, "pair"]
    ap: Float[np.ndarray, "pair"]
    f1: Float[np.ndarray, "pair"]
    threshold: Float[np.ndarray, "pair"]


class Ranked(NamedTuple):
    """A half's entries, strongest first within each latent. `last` is the number of entries of the latent that
    are at least as strong as this one (the entry's rank, shared by equal ones)."""

    token: Int[np.ndarray, "entry"]
    latent: Int[np.ndarray, "entry"]
    value: Float[np.ndarray, "entry"]
    last: Int[np.ndarray, "entry"]


def ranked_entries(index: FeatureIndex, inside: Bool[np.ndarray, "token"]) -> Ranked:
    """The index's entries on the tokens `inside`, in order of strength."""
    tokens = np.asarray(index.tokens)
    kept = np.flatnonzero(inside[tokens])
    latent = np.repeat(np.arange(index.n_latents), np.diff(index.starts))[kept]
    value = np.asarray(index.values)[kept]
    order = np.lexsort((-value, latent))
    token, latent, value = tokens[kept][order].astype(np.int64), latent[order], value[order]
    new_latent = np.flatnonzero(np.diff(latent, prepend=-1))
    begins = np.repeat(new_latent, np.diff(np.append(new_latent, len(latent))))
    ends = _last_of_runs(latent, value)
    return Ranked(token, latent, value, ends - begins + 1)


def _last_of_runs(*columns: np.ndarray) -> Int[np.ndarray, "row"]:
    """For each row the last row of its run of rows that are equal in all columns."""
    n = len(columns[0])
    changes = np.zeros(n, bool)
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    starts = np.flatnonzero(changes)
    bounds = np.concatenate([[0], starts, [n]]) if n else np.zeros(1, np.int64)
    return np.repeat(bounds[1:] - 1, np.diff(bounds))


def pair_scores(entries: Ranked, labels: csr_matrix, n_tokens: int, positives: np.ndarray) -> Pairs:
    """AP and best F1 of every (latent, factor) that share a token; `positives` per factor among `n_tokens`."""
    n_factors = labels.shape[1]
    counts = np.diff(labels.indptr)[entries.token]
    of_entry = np.repeat(np.arange(len(entries.token)), counts)
    within = np.arange(len(of_entry)) - np.repeat(np.cumsum(counts) - counts, counts)
    factor = labels.indices[np.repeat(labels.indptr[entries.token], counts) + within].astype(np.int64)
    key = entries.latent[of_entry].astype(np.int64) * n_factors + factor
    order = np.argsort(key, kind="stable")  # entries are strongest first already
    key, of_entry = key[order], of_entry[order]
    if not len(key):
        none = np.zeros(0, np.int64)
        return Pairs(none, none, np.zeros(0), np.zeros(0), np.zeros(0))
    firsts = np.flatnonzero(np.diff(key, prepend=-1))
    sizes = np.diff(np.append(firsts, len(key)))
    begin = np.repeat(firsts, sizes)
    rank = entries.last[of_entry]
    hits = _last_of_runs(key, rank) - begin + 1  # entries with the factor among those at least as strong
    factor = key % n_factors
    total = positives[factor]
    silent = (total[firsts] - sizes) * total[firsts] / n_tokens  # the last step of recall, at activation 0
    ap = (np.add.reduceat(hits / rank, firsts) + silent) / total[firsts]
    f1 = 2 * hits / (rank + total)
    best = np.maximum.reduceat(f1, firsts)
    where = np.flatnonzero(f1 == np.repeat(best, sizes))
    chosen = where[np.searchsorted(where, firsts)]
    threshold = entries.value[of_entry[chosen]]
    return Pairs(key[firsts] // n_factors, factor[firsts], ap, best, threshold)


def followed(index: FeatureIndex, token_set: TokenSet, seed: int = 0, n: int = N_FACTORS) -> pl.DataFrame:
    """The `n` factors of each latent with the best F1 on one half, as they score on the other."""
    half = halves(token_set, seed)
    parts = [half == h for h in (0, 1)]
    n_factors = len(token_set.factor_names)
    if not n_factors or not all(part.any() for part in parts):
        return pl.DataFrame(schema=SCHEMA)
    labels = label_matrix(token_set, n_factors)
    positives = [np.asarray(labels[np.flatnonzero(part)].sum(axis=0)).ravel() for part in parts]
    enough = np.ones(n_factors, bool)
    for part, held in zip(parts, positives, strict=True):
        enough &= (held >= MIN_TOKENS) & (part.sum() - held >= MIN_TOKENS)
    ranked = [ranked_entries(index, part) for part in parts]
    first, second = (
        pair_scores(entries, labels, int(part.sum()), held)
        for entries, part, held in zip(ranked, parts, positives, strict=True)
    )
    latent, factor, threshold = _chosen(first, enough, n)
    scored_f1 = _f1_at(ranked[1], labels, positives[1], latent, factor, threshold)
    pairs = dict(zip(zip(second.latent.tolist(), second.factor.tolist(), strict=True), second.ap, strict=True))
    base = positives[1] / parts[1].sum()
    ap = [pairs.get((j, f), base[f]) for j, f in zip(latent.tolist(), factor.tolist(), strict=True)]
    auroc = aurocs(index, labels, parts[1], MIN_TOKENS)[latent, factor]
    names = np.array(token_set.factor_names, dtype=object)
    table = {
        "latent": latent,
        "factor": names[factor].tolist(),
        "f1": scored_f1,
        "ap": ap,
        "auroc": auroc,
        "threshold": threshold,
        "positives": positives[1][factor].astype(np.int64),
    }
    rank = pl.int_range(pl.len(), dtype=pl.Int32).over("latent").alias("rank")
    return pl.DataFrame(table).with_columns(rank).select(list(SCHEMA)).cast(SCHEMA)  # type: ignore[arg-type]


def _chosen(pairs: Pairs, enough: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latent, factor and threshold of the `n` best pairs of each latent, best first."""
    kept = np.flatnonzero(enough[pairs.factor])
    order = kept[np.lexsort((pairs.factor[kept], -pairs.ap[kept], -pairs.f1[kept], pairs.latent[kept]))]
    latent = pairs.latent[order]
    firsts = np.flatnonzero(np.diff(latent, prepend=-1))
    rank = np.arange(len(latent)) - np.repeat(firsts, np.diff(np.append(firsts, len(latent))))
    order = order[rank < n]
    return pairs.latent[order], pairs.factor[order], pairs.threshold[order]


def _f1_at(
    entries: Ranked,
    labels: csr_matrix,
    positives: np.ndarray,
    latent: Int[np.ndarray, "pair"],
    factor: Int[np.ndarray, "pair"],
    threshold: Float[np.ndarray, "pair"],
) -> Float[np.ndarray, "pair"]:
    """F1 of each pair at a threshold that was chosen elsewhere."""
    bounds = np.searchsorted(entries.latent, np.arange(entries.latent.max(initial=-1) + 2))
    columns = labels.tocsc()
    out = np.zeros(len(latent))
    for i, (j, f, t) in enumerate(zip(latent, factor, threshold, strict=True)):
        if j + 1 >= len(bounds):
            continue
        start, stop = bounds[j], bounds[j + 1]
        n = int(np.searchsorted(-entries.value[start:stop], -t, side="right"))
        with_factor = columns.indices[columns.indptr[f] : columns.indptr[f + 1]]
        told = entries.token[start : start + n]
        place = np.searchsorted(with_factor, told).clip(max=max(len(with_factor) - 1, 0))
        true = int((with_factor[place] == told).sum()) if len(with_factor) else 0
        out[i] = 2 * true / max(n + positives[f], 1)
    return out
