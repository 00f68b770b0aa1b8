"""Where a latent fires, with what stands around it: its strongest tokens, at most one a window, and random
tokens from equal intervals of its activation.

The strongest texts flatter a latent; what it means at half strength is in the intervals (0, max/5], …,
(4·max/5, max].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from saes.index import FeatureIndex
from workbench.tokens import TokenSet
from workbench.vocabulary import read

N_EXAMPLES = 16  # a latent
BEFORE, AFTER = 24, 12  # tokens shown around the strongest one
N_INTERVALS, PER_INTERVAL = 5, 4
SCHEMA = {
    "latent": pl.Int32,
    "rank": pl.Int32,
    "peak": pl.Int32,
    "start": pl.Int32,
    "stop": pl.Int32,
    "value": pl.Float32,
    "text": pl.String,
}
INTERVAL_SCHEMA = {
    "latent": pl.Int32,
    "interval": pl.Int32,  # 0 is the strongest
    "rank": pl.Int32,
    "peak": pl.Int32,
    "start": pl.Int32,
    "stop": pl.Int32,
    "value": pl.Float32,
}


class Excerpt(NamedTuple):
    """Rows `start`…`stop` (exclusive) of a token set around row `peak`, all in one window."""

    peak: int
    start: int
    stop: int
    value: float


def top_excerpts(index: FeatureIndex, token_set: TokenSet, latent: int, n: int = N_EXAMPLES) -> list[Excerpt]:
    """The `n` windows in which the latent fires most, strongest first."""
    wanted = n
    while True:
        tokens, values = index.top(latent, 4 * wanted)
        windows = np.searchsorted(token_set.starts, tokens, side="right") - 1
        _, first = np.unique(windows, return_index=True)  # of each window the strongest, which comes first
        if len(first) >= n or len(tokens) < 4 * wanted:
            break
        wanted *= 4
    chosen = np.sort(first)[:n]
    return _around(token_set, tokens[chosen], values[chosen])


def _around(token_set: TokenSet, tokens: np.ndarray, values: np.ndarray) -> list[Excerpt]:
    """Each token with what stands before and after it in its window."""
    windows = np.searchsorted(token_set.starts, tokens, side="right") - 1
    starts = np.maximum(token_set.starts[windows], tokens - BEFORE)
    stops = np.minimum(token_set.stops[windows], tokens + AFTER + 1)
    columns = (tokens.tolist(), starts.tolist(), stops.tolist(), values.tolist())
    return [Excerpt(*row) for row in zip(*columns, strict=True)]


def excerpt_table(index: FeatureIndex, token_set: TokenSet) -> pl.DataFrame:
    """All latents' top excerpts with their text, sorted by latent and rank."""
    data = [read(shown) for shown in token_set.vocabulary]
    ids = np.asarray(token_set.tokens)
    rows = []
    for latent in range(index.n_latents):
        for rank, found in enumerate(top_excerpts(index, token_set, latent)):
            text = b"".join(data[i] for i in ids[found.start : found.stop])
            rows.append((latent, rank, *found[:3], found.value, text.decode("utf-8", errors="replace")))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def interval_table(index: FeatureIndex, token_set: TokenSet) -> pl.DataFrame:
    """All latents' random excerpts from equal intervals of (0, max |f|]; an interval may hold none."""
    rows = []
    for latent in range(index.n_latents):
        groups = index.interval_examples(latent, N_INTERVALS, PER_INTERVAL)
        for interval, (tokens, values) in enumerate(groups):
            found = _around(token_set, tokens, values)
            rows += [(latent, interval, rank, *excerpt) for rank, excerpt in enumerate(found)]
    return pl.DataFrame(rows, schema=INTERVAL_SCHEMA, orient="row")


def values_between(index: FeatureIndex, latent: int, start: int, stop: int) -> np.ndarray:
    """float32 [token]: the latent on rows `start`…`stop`, zeros where it is silent."""
    tokens, values = index.entries(latent)
    first, last = np.searchsorted(tokens, (start, stop))
    dense = np.zeros(stop - start, np.float32)
    dense[tokens[first:last] - start] = values[first:last]
    return dense
