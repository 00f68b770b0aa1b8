"""Telling held-out texts apart: the one task on which every description of a latent is scored, a rule of ours or
the words of a language model [detection, Paulo 2024].

A mixture holds texts on which the latent fires (drawn over its whole range) and as many on which it is silent
throughout, all of documents that did not choose the description. Who describes the latent picks those that fit,

    balanced = (recall + specificity) / 2        1/2 is chance

A language model picks by reading, a rule picks a text in which it holds on some token. The draw depends on the
latent alone, so both are asked about the same texts and their scores can be held against each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from saes.index import FeatureIndex
from workbench.examples import AFTER, BEFORE
from workbench.tokens import TokenSet

N_JUDGED = 10  # texts on which it fires, and as many on which it does not
FEW = 256  # rows drawn at first in search of silent texts; all of them where these do not suffice


class Mixture(NamedTuple):
    """Texts as rows start…stop (exclusive) of a token set, in random order, and whether the latent fires there."""

    starts: Int64[np.ndarray, " text"]
    stops: Int64[np.ndarray, " text"]
    fires: Bool[np.ndarray, " text"]


class Detection(NamedTuple):
    """How well a description tells `n` texts apart."""

    balanced: float
    f1: float
    n: int


def mixture(
    index: FeatureIndex, token_set: TokenSet, latent: int, inside: Int64[np.ndarray, " row"]
) -> Mixture:
    """The texts around rows of `inside` (ascending) that a description of the latent is scored on; none where it
    never fires there."""
    rng = np.random.default_rng([0, latent])
    tokens = index.entries(latent).tokens
    if not len(inside):
        return Mixture(inside, inside, np.zeros(0, bool))
    own = tokens[inside[np.searchsorted(inside, tokens).clip(max=len(inside) - 1)] == tokens]
    on = rng.permutation(own)[:N_JUDGED]
    off = _silent(tokens, token_set, rng.choice(inside, FEW), len(on))
    if len(off) < len(on):
        off = _silent(tokens, token_set, rng.permutation(inside), len(on))
    starts, stops = around(token_set, np.concatenate([on, off]))
    order = rng.permutation(len(starts))
    return Mixture(starts[order], stops[order], (np.arange(len(starts)) < len(on))[order])


def _silent(fires: np.ndarray, token_set: TokenSet, rows: np.ndarray, n: int) -> np.ndarray:
    """The first `n` different ones of `rows` around which the latent fires nowhere."""
    _, first = np.unique(rows, return_index=True)
    rows = rows[np.sort(first)]
    starts, stops = around(token_set, rows)
    return rows[np.searchsorted(fires, starts) == np.searchsorted(fires, stops)][:n]


def around(
    token_set: TokenSet, rows: Int64[np.ndarray, " text"]
) -> tuple[Int64[np.ndarray, " text"], Int64[np.ndarray, " text"]]:
    """First and last (exclusive) row of the texts around `rows`, each within its window."""
    window = np.searchsorted(token_set.starts, rows, side="right") - 1
    return (
        np.maximum(token_set.starts[window], rows - BEFORE),
        np.minimum(token_set.stops[window], rows + AFTER + 1),
    )


def detection(picked: Bool[np.ndarray, " text"], fires: Bool[np.ndarray, " text"]) -> Detection:
    """Balanced accuracy and F1 of the texts picked; a part without texts counts as wrong."""
    recall = picked[fires].mean() if fires.any() else 0.0
    specificity = (~picked[~fires]).mean() if (~fires).any() else 0.0
    f1 = 2 * int((picked & fires).sum()) / max(int(picked.sum() + fires.sum()), 1)
    return Detection(float((recall + specificity) / 2), float(f1), len(fires))
