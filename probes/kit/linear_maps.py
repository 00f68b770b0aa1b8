"""Ridge regression that is told of labels last: cross-validated predictions as one matrix times the labels.

    ŷ = S y        row i of S is from cases of other groups than i's:  S_i = z_i Zᵀ (Z Zᵀ + α n I)⁻¹, centred

[Hoerl and Kennard 1970, in its dual form]. Since S knows no labels, permuted labels cost a product of matrices: a
null can go the whole way, the choice of layer and α included:

    nested: for each fold, (layer, α) with the highest correlation of S' y with y, cross-validated by group inside
    the other folds, then the predictions of that choice for the fold

No group (a president) is both fitted on and predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

ALPHAS = (0.1, 1.0, 10.0)  # times the mean of the kernel's diagonal


class Nested(NamedTuple):
    """`told[case, draw]` are predictions for each column of labels; `chosen[fold, draw]` is the layer."""

    told: Float[np.ndarray, "case draw"]
    chosen: Int[np.ndarray, "fold draw"]


def folds(groups: Int[np.ndarray, " case"], n: int, seed: int = 0) -> Int[np.ndarray, " case"]:
    """The fold of each case; groups are dealt at random."""
    names, of = np.unique(groups, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % n)[of]


def smoother(
    x: Float[np.ndarray, "case d"], fold: Int[np.ndarray, " case"], alpha: float
) -> Float[np.ndarray, "case case"]:
    """S of the module's head; standardised and centred by the cases fitted on."""
    found = np.zeros((len(x), len(x)))
    for each in np.unique(fold):
        inside, out = np.flatnonzero(fold != each), np.flatnonzero(fold == each)
        found[np.ix_(out, inside)] = hat(x[inside], x[out], alpha)
    return found


def hat(
    x: Float[np.ndarray, "fit d"], new: Float[np.ndarray, "new d"], alpha: float
) -> Float[np.ndarray, "new fit"]:
    """Predictions for `new` are this times the labels of `x`."""
    mean, sd = x.mean(axis=0), x.std(axis=0)
    sd = np.where(sd > 0, sd, 1.0)
    z, z_new = (x - mean) / sd, (new - mean) / sd
    kernel, n = z @ z.T, len(x)
    ridge = kernel + alpha * np.trace(kernel) / n * np.eye(n)
    solved = np.linalg.solve(ridge, z @ z_new.T).T
    return solved - solved.mean(axis=1, keepdims=True) + 1 / n  # labels centred, their mean added


def nested(
    layers: Sequence[Float[np.ndarray, "case d"]],
    labels: Float[np.ndarray, "case draw"],
    groups: Int[np.ndarray, " case"],
    n_folds: int = 5,
    seed: int = 0,
) -> Nested:
    """Predictions of every case from other groups, layer and α chosen without it, for each column of labels."""
    fold = folds(groups, n_folds, seed)
    told = np.zeros(labels.shape)
    chosen = np.zeros((n_folds, labels.shape[1]), int)
    options = [(layer, alpha) for layer in range(len(layers)) for alpha in ALPHAS]
    for each in range(n_folds):
        inside, out = np.flatnonzero(fold != each), np.flatnonzero(fold == each)
        inner = folds(groups[inside], n_folds, seed + 1 + each)
        y = labels[inside]
        worth = np.stack([correlation(smoother(layers[a][inside], inner, b) @ y, y) for a, b in options])
        best = worth.argmax(axis=0)
        chosen[each] = np.array([layer for layer, _ in options])[best]
        for option in np.unique(best):
            layer, alpha = options[option]
            these = np.flatnonzero(best == option)
            told[np.ix_(out, these)] = hat(layers[layer][inside], layers[layer][out], alpha) @ y[:, these]
    return Nested(told, chosen)


def correlation(
    one: Float[np.ndarray, "case draw"], other: Float[np.ndarray, "case draw"]
) -> Float[np.ndarray, " draw"]:
    """Pearson's r, column by column; 0 where one of the two is constant."""
    a, b = one - one.mean(axis=0), other - other.mean(axis=0)
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), scale, out=np.zeros(a.shape[1]), where=scale > 1e-12)
