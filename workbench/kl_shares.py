"""Which tokens, and which latents, the KL between two checkpoints falls on.

    share    Σ_{t ∈ T_j} KL_t / Σ_t KL_t      T_j: the tokens that item j is on (a latent fires, a token stands)
    density  |T_j| / n
    lift     share / density, the mean KL on T_j over the mean KL of all
    score    lift · share: much of the KL, and more than its part of the tokens

Shares of latents do not add up to 1: several fire on a token. The null lays the KL of whole windows elsewhere, so
that runs of high KL stay together, and takes the largest lift and score of all items in each shuffle: a score above
the 95th percentile of these has a family-wise error of 5 %, whatever the number of items. A share of KL is no proof
of a cause.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix

from workbench.intervals import Interval, quantiles, resampled_sums

FEWEST = 20  # tokens that an item is on, for its lift to count in the null: rarer ones have any lift by chance
SHUFFLES = 300
_TOGETHER = 10  # shuffles that one product serves


class Carried(NamedTuple):
    """By item: tokens that it is on, mean KL there (nats), share, density, lift. NaN where it is on none; shares
    and lifts are NaN where there is no KL at all."""

    n: Int[np.ndarray, "item"]
    kl: Float[np.ndarray, "item"]
    share: Float[np.ndarray, "item"]
    density: Float[np.ndarray, "item"]
    lift: Float[np.ndarray, "item"]

    @property
    def score(self) -> Float[np.ndarray, "item"]:
        return self.lift * self.share


class Null(NamedTuple):
    """95th percentiles, over shuffles, of the largest lift and of the largest score; NaN where nothing counts."""

    lift: float
    score: float


def carried(on: csr_matrix, kl: Float[np.ndarray, "token"]) -> Carried:
    """What falls on each item; `on` [item token] holds a 1 where the item is on."""
    n = np.diff(on.indptr)
    sums, total = on @ kl, float(kl.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, share, density = sums / n, sums / total, n / on.shape[1]
        return Carried(n, mean, share, density, share / density)


def carried_intervals(
    on: csr_matrix, kl: Float[np.ndarray, "token"], document: Int[np.ndarray, "token"], seed: int = 0
) -> tuple[list[Interval], list[Interval]]:
    """95 % intervals of every item's share and lift, by bootstrap over documents. Keep to a few items: sums are
    held by document and item. Items chosen for their share look larger than they are, and their intervals too."""
    _, document = np.unique(document, return_inverse=True)
    n, items = len(kl), on.shape[0]
    where = csr_matrix((np.ones(n), (document, np.arange(n))), shape=(int(document.max()) + 1, n))
    inside = on.T.tocsr()
    by_document = np.hstack(
        [
            (where @ inside.multiply(kl[:, None]).tocsr()).toarray(),
            (where @ inside).toarray(),
            np.asarray(where @ np.stack([kl, np.ones(n)], axis=1)),
        ]
    )
    drawn = resampled_sums(by_document, seed)
    sums, counts, total, size = drawn[:, :items], drawn[:, items:-2], drawn[:, -2], drawn[:, -1]
    documents = len(by_document)
    shares = [quantiles(sums[:, j], total, documents) for j in range(items)]
    lifts = [quantiles(sums[:, j] * size, total * counts[:, j], documents) for j in range(items)]
    return shares, lifts


def correlation(activation: csr_matrix, kl: Float[np.ndarray, "token"]) -> Float[np.ndarray, "item"]:
    """Pearson's r of each item's activation [item token], zeros included, with the KL; NaN where either is flat."""
    n = len(kl)
    mean = np.asarray(activation.sum(axis=1)).ravel() / n
    squares = np.asarray(activation.multiply(activation).sum(axis=1)).ravel() / n
    around = activation @ (kl - kl.mean()) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        return around / np.sqrt(np.maximum(squares - mean**2, 0) * kl.var())


def nulls(
    on: csr_matrix,
    kl: Float[np.ndarray, "token column"],
    window: Int[np.ndarray, "token"],
    group: np.ndarray | None = None,
    seed: int = 0,
    n: int = SHUFFLES,
) -> list[Null]:
    """For each column of KL its null; tokens of a window stand together. With `group` (one for a window), windows
    change places within their group alone: what is left is beyond a group's having more KL than another."""
    often = np.diff(on.indptr) >= FEWEST
    columns = kl.shape[1]
    if not often.any():
        return [Null(float("nan"), float("nan"))] * columns
    kept = on[often]
    density = np.diff(kept.indptr)[:, None, None] / on.shape[1]
    drawn, largest = shuffles(window, group, n, seed), []
    for at in range(0, n, _TOGETHER):
        part = drawn[at : at + _TOGETHER]
        moved = np.empty((len(kl), len(part), columns))
        for number, (source, target) in enumerate(part):
            moved[target, number] = kl[source]
        sums = (kept @ moved.reshape(len(kl), -1)).reshape(-1, len(part), columns)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = sums / kl.sum(axis=0)
            largest.append(np.stack([(share / density).max(axis=0), (share**2 / density).max(axis=0)]))
    lift, score = np.quantile(np.concatenate(largest, axis=1), 0.95, axis=1)
    return [Null(float(lift[c]), float(score[c])) for c in range(columns)]


def shuffles(
    window: Int[np.ndarray, "token"], group: np.ndarray | None, n: int, seed: int
) -> list[tuple[Int[np.ndarray, "token"], Int[np.ndarray, "token"]]]:
    """`n` times (source, target): what stood at `source` comes to `target`, whole windows one behind the other."""
    starts = np.flatnonzero(np.diff(window, prepend=window[0] - 1))
    lengths = np.diff(starts, append=len(window))
    of = (
        np.zeros(len(starts), dtype=np.int64)
        if group is None
        else np.unique(group, return_inverse=True)[1][starts]
    )
    rng = np.random.default_rng(seed)
    target = _end_to_end(starts, lengths, np.argsort(of, kind="stable"))
    return [(_end_to_end(starts, lengths, np.lexsort((rng.random(len(starts)), of))), target) for _ in range(n)]


def _end_to_end(
    starts: Int[np.ndarray, "window"], lengths: Int[np.ndarray, "window"], order: Int[np.ndarray, "window"]
) -> Int[np.ndarray, "token"]:
    """Token numbers of the windows laid end to end in `order`."""
    sizes = lengths[order]
    return np.repeat(starts[order] - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
