"""Matching units to factors, or one dictionary's latents to another's, one to one.

    MCC = mean over the matched pairs of their similarity, the matching that which maximises its sum

(Hungarian method, scipy's). Similarity is |cosine| of decoders where the true directions are known, else
|correlation| of activation and factor. A pool of signed units holds each neuron twice, once with each sign:
there each of the two stands for its own sign, since |r| of the one is r of the other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from saes.errors import DictionaryError


class Matching(NamedTuple):
    """Pairs (row, column), as many as the shorter side has."""

    rows: Int[np.ndarray, " pair"]
    columns: Int[np.ndarray, " pair"]


def match(similarity: Float[np.ndarray, "row column"]) -> Matching:
    """The pairs with the largest sum."""
    if not np.isfinite(similarity).all():
        raise DictionaryError("similarities to be matched have to be finite; leave constant columns out")
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return Matching(rows, columns)


def mcc(similarity: Float[np.ndarray, "row column"]) -> float:
    """Mean |similarity| over optimally matched pairs."""
    size = np.abs(np.asarray(similarity))
    return float(size[match(size)].mean())


def cosines(
    left: Float[np.ndarray, "row d"], right: Float[np.ndarray, "column d"]
) -> Float[np.ndarray, "row column"]:
    """Cosine of every row of the one with every row of the other; 0 for a zero row."""
    left, right = (a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12) for a in (left, right))
    return left @ right.T
