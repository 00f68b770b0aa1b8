"""Interpolated modified Kneser–Ney over token ids: the baseline that a language model has to beat.

For a context h of m−1 tokens and a next token w (m = 1 … order)

    p_m(w | h) = (c(h w) − D(c(h w)))⁺ / c(h ·) + λ(h) · p_{m−1}(w | h without its first token)
    λ(h)       = (D_1 N_1(h ·) + D_2 N_2(h ·) + D_3 N_{3+}(h ·)) / c(h ·)

with p_0 = 1 / vocab_size, so that nothing is impossible; a context never seen has λ = 1. At the highest
order c counts occurrences, below it c(w_1 … w_m) is the number of *different* tokens seen before
w_1 … w_m [Kneser & Ney 1995]. D(c) is D_c for c = 1, 2 and D_3 from 3 on, and with n_i the number of
m-grams that have c = i, Y = n_1 / (n_1 + 2 n_2), D_i = i − (i+1) Y n_{i+1} / n_i [Chen & Goodman 1998,
"modified"]; `n_discounts=1` is the plain form, D = Y for every count. Where the counts of counts give no
estimate in (0, i] (tiny texts; a first level in which no token is rare), the discounts are 0.5, 1 and 1.5.

A document is an array of ids that begins with BOS. BOS is context and is never predicted; it is repeated
to the left so that the first tokens have a context of full length. Everything is sorted integer keys
(base vocab_size) and binary search: training on 3 M tokens takes about a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

_FALLBACK = np.array([0.5, 1.0, 1.5])
Document = np.ndarray  # Int[token]; the first id is BOS


class Level(NamedTuple):
    """One order m of the recursion, ready for look-up. Keys are digits in base vocab_size, oldest first."""

    keys: np.ndarray  # Int64[ngram], sorted: the m-grams seen
    shares: np.ndarray  # Float64[ngram]: (c(h w) − D)⁺ / c(h ·)
    contexts: np.ndarray  # Int64[context], sorted: the first m−1 tokens of `keys`, each once
    backoff: np.ndarray  # Float64[context]: λ(h)
    discounts: np.ndarray  # Float64[3]: D_1, D_2, D_3+


class NgramModel(NamedTuple):
    """A fitted model; `levels[m − 1]` is order m."""

    vocab_size: int
    levels: tuple[Level, ...]

    @property
    def order(self) -> int:
        return len(self.levels)


def fit(
    documents: Sequence[Document],
    vocab_size: int,
    order: int,
    n_discounts: Literal[1, 3] = 3,
    discounts: Sequence[float] | None = None,
) -> NgramModel:
    """Kneser–Ney of this order from documents that begin with BOS.

    `discounts` gives one fixed discount a level instead of the estimates (lowest level first).
    """
    if order < 1 or vocab_size**order >= 2**63:
        raise ValueError(
            f"order {order} with {vocab_size} ids does not fit 63-bit keys; order must be at least 1"
        )
    grams = _grams(documents, vocab_size, order)
    if not len(grams):
        raise ValueError("no tokens to count: every document is empty or BOS alone")
    keys, counts = np.unique(grams, return_counts=True)
    levels: list[Level] = []
    for m in range(order, 0, -1):
        if m < order:  # each different (m+1)-gram above is one different token before its last m
            keys, counts = np.unique(keys % vocab_size**m, return_counts=True)
        given = None if discounts is None else np.full(3, discounts[m - 1])
        levels.append(
            _level(keys, counts, vocab_size, estimate(counts, n_discounts) if given is None else given)
        )
    return NgramModel(vocab_size, tuple(reversed(levels)))


def nats(model: NgramModel, documents: Sequence[Document]) -> list[np.ndarray]:
    """−ln p of every token but BOS: for each document Float64[token], one fewer than its ids."""
    grams = _grams(documents, model.vocab_size, model.order)
    p = np.full(len(grams), 1.0 / model.vocab_size)
    for m, level in enumerate(model.levels, start=1):
        keys = grams % model.vocab_size**m
        share = _look_up(level.keys, level.shares, keys, missing=0.0)
        p = share + _look_up(level.contexts, level.backoff, keys // model.vocab_size, missing=1.0) * p
    ends = np.cumsum([max(len(document) - 1, 0) for document in documents])
    return np.split(-np.log(p), ends[:-1])


def estimate(counts: np.ndarray, n_discounts: Literal[1, 3] = 3) -> np.ndarray:
    """Discounts Float64[3] from one level's counts [Chen & Goodman 1998]; module docstring for the form."""
    n = [int((counts == i).sum()) for i in range(1, 5)]
    if n[0] == 0 or n[1] == 0:
        return _FALLBACK
    y = n[0] / (n[0] + 2 * n[1])
    if n_discounts == 1:
        return np.full(3, y)
    if n[2] == 0:
        return _FALLBACK
    found = np.array([i - (i + 1) * y * n[i] / n[i - 1] for i in (1, 2, 3)])
    return found if (found > 0).all() else _FALLBACK


def _grams(documents: Sequence[Document], vocab_size: int, order: int) -> np.ndarray:
    """Key of the order-gram that ends at each token but BOS: Int64[token]."""
    padded, predicted = [], []
    for document in documents:
        if len(document) < 2:
            continue
        padded += [np.full(order - 1, document[0]), document]  # BOS, order − 1 times, then the document
        mask = np.ones(order - 1 + len(document), dtype=bool)
        mask[:order] = False
        predicted.append(mask)
    if not padded:
        return np.empty(0, dtype=np.int64)
    ids = np.concatenate(padded).astype(np.int64)
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"ids run from {ids.min()} to {ids.max()}, expected 0 to {vocab_size - 1}")
    ends = np.flatnonzero(np.concatenate(predicted))
    keys = np.zeros(len(ends), dtype=np.int64)
    for back in range(order - 1, -1, -1):
        keys = keys * vocab_size + ids[ends - back]
    return keys


def _level(keys: np.ndarray, counts: np.ndarray, vocab_size: int, discounts: np.ndarray) -> Level:
    """Discounted shares and back-off weights from sorted unique keys and their counts."""
    contexts, starts = np.unique(keys // vocab_size, return_index=True)
    discount = discounts[np.minimum(counts, 3) - 1]
    kept = np.maximum(counts - discount, 0.0)
    totals = np.add.reduceat(counts, starts)
    backoff = 1.0 - np.add.reduceat(kept, starts) / totals  # what the discounts freed
    sizes = np.diff(np.append(starts, len(keys)))
    return Level(keys, kept / np.repeat(totals, sizes), contexts, backoff, discounts)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, missing: float) -> np.ndarray:
    """values[i] where keys[i] == wanted, `missing` where there is none; `keys` is sorted."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], missing)
