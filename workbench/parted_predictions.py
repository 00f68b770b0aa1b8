"""Where the predictions of two models part, token by token, on one text that both have read.

    log p     log p(x_t | x_<t)
    KL        KL(p‖q) = Σ_v p(v) (log p(v) − log q(v)), of the two predictions of x_t
    entropy   −Σ_v p(v) log p(v)

All in nats, and all about the prediction of token t, which is made where token t − 1 stands: the first token of a
text is given and has no row. So the KL of a text's tokens add up to what `workbench.behaviour` counts of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import Failure, Misuse

TOP = 5  # likeliest tokens kept of each prediction
N_CARRIERS = 5
NUMBERS = 2**21  # log probabilities of a model that are held at once, in float64


@dataclasses.dataclass(frozen=True)
class Parted:
    """Two models on one text of n + 1 ids; row i is about the prediction of `ids[i]`, the text's id i + 1.

    The first axis is the model. `kl[0]` is KL(first‖second), `kl[1]` KL(second‖first). `top_ids[m]` are the
    likeliest tokens of model m, `top_p[r, m]` the probability that model r gives to those of m.
    """

    ids: Int[np.ndarray, "token"]
    log_p: Float[np.ndarray, "2 token"]
    kl: Float[np.ndarray, "2 token"]
    entropy: Float[np.ndarray, "2 token"]
    top_ids: Int[np.ndarray, "2 token top"]
    top_p: Float[np.ndarray, "2 2 token top"]

    def __len__(self) -> int:
        return len(self.ids)


class Carrier(NamedTuple):
    """A token with a large part of a text's KL: its row, its KL (nats), its share of the sum."""

    row: int
    kl: float
    share: float


def parted(
    ids: Sequence[int], first: Float[np.ndarray, "position vocab"], second: Float[np.ndarray, "position other"]
) -> Parted:
    """Two models' logits at every position of `ids`, laid beside each other; what follows the last id is unread."""
    if first.shape != second.shape:
        raise Misuse(
            f"one model has {first.shape[1]} tokens and the other {second.shape[1]}: their predictions cannot be "
            "compared one by one; choose two checkpoints of one lineage"
        )
    if len(first) != len(ids) or len(ids) < 2:
        raise Misuse(f"{len(first)} predictions on {len(ids)} ids: a text of two ids or more has one an id")
    following = np.asarray(ids[1:], dtype=np.int64)
    size = max(1, NUMBERS // first.shape[1])
    return joined(
        [
            _rows(following[at : at + size], first[at : at + size], second[at : at + size])
            for at in range(0, len(following), size)
        ]
    )


def _rows(ids: np.ndarray, first: np.ndarray, second: np.ndarray) -> Parted:
    log_p = np.stack([_log_softmax(logits[: len(ids)]) for logits in (first, second)])
    p, rows = np.exp(log_p), np.arange(len(ids))
    top = np.argsort(-log_p, axis=-1, kind="stable")[..., :TOP]
    return Parted(
        ids=ids,
        log_p=log_p[:, rows, ids],
        # a sum of terms of either sign: rounding may leave a zero just below zero
        kl=np.stack([np.maximum((p[m] * (log_p[m] - log_p[1 - m])).sum(-1), 0.0) for m in (0, 1)]),
        entropy=-(p * log_p).sum(-1),
        top_ids=top,
        top_p=np.stack([p[reader][rows[:, None], top] for reader in (0, 1)]),
    )


def _log_softmax(logits: np.ndarray) -> Float[np.ndarray, "token vocab"]:
    x = logits.astype(np.float64)
    if not np.isfinite(x).all():
        raise Failure("a model's logits are not finite numbers: its weights hold NaN or overflow")
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def joined(parts: Sequence[Parted]) -> Parted:
    """Texts, or parts of one, in a row."""
    return Parted(
        ids=np.concatenate([part.ids for part in parts]),
        log_p=np.concatenate([part.log_p for part in parts], axis=1),
        kl=np.concatenate([part.kl for part in parts], axis=1),
        entropy=np.concatenate([part.entropy for part in parts], axis=1),
        top_ids=np.concatenate([part.top_ids for part in parts], axis=1),
        top_p=np.concatenate([part.top_p for part in parts], axis=2),
    )


def carriers(kl: Float[np.ndarray, "token"], n: int = N_CARRIERS) -> list[Carrier]:
    """The `n` tokens with most of the sum, largest first; fewer where fewer have any."""
    total = float(kl.sum())
    order = np.argsort(-kl, kind="stable")[:n].tolist()
    return [Carrier(row, float(kl[row]), float(kl[row]) / total) for row in order if kl[row] > 0]


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first place at which two sequences of ids differ, or one ends; None where they are equal."""
    if list(one) == list(other):
        return None
    same = (a == b for a, b in zip(one, other, strict=False))
    return next((i for i, equal in enumerate(same) if not equal), min(len(one), len(other)))
