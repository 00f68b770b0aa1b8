"""Linear CKA between every layer of one network and every layer of another, with intervals and a null.

    CKA = ‖Xcᵀ Yc‖²_F / (‖Xcᵀ Xc‖_F ‖Ycᵀ Yc‖_F),   Xc, Yc centred                      [Kornblith 2019]

Rows are the same places of the same texts; the widths may differ. Intervals are a jackknife's: each block of
documents left out in turn, θ ± t·√((B−1)/B Σ (θ_b − θ̄)²). (A bootstrap would be biased: rows drawn twice are alike
in both networks, and its whole interval lies above the figure.) With K = XXᵀ, L = YYᵀ, blocks b of k_b rows and
sums m_b, n_b, and w the weight of each block, the numerator is

    Σ_bc w_b w_c G_bc − 2 Σ_bcd w_b w_c w_d T_bcd / k + (wᵀmmᵀw)(wᵀnnᵀw) / k²,   k = Σ w_b k_b

with G_bc = ⟨K_bc, L_bc⟩ and T_bcd = Σ_{i in b} (x_i·m_c)(y_i·n_d): all of them follow from a few numbers a
block, and the costly products are one a layer, not one a pair. The null lays each text beside other texts, so that
only what all of them share is left: few rows in a wide space have a CKA well above 0 by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t as student

BLOCKS = 16
SHIFTS = 5  # of the null


class Aligned(NamedTuple):
    """CKA of one pair of layers, its 95 % interval over blocks of documents, and what shuffled texts give."""

    cka: float
    low: float
    high: float
    null: float  # mean of the shuffles
    null_high: float  # the largest of them


class Layer(NamedTuple):
    """One layer's rows, centred, as what CKA needs of them; `gram` K is float32, the rest float64."""

    gram: Float[np.ndarray, "word word"]
    on_sums: Float[np.ndarray, "word block"]  # x_i · m_c
    sums: Float[np.ndarray, "block block"]  # m_b · m_c


class Draws(NamedTuple):
    """Weights of the blocks (all, then all but one), the rows that each draw holds, where a block starts."""

    w: Float[np.ndarray, "draw block"]
    k: Float[np.ndarray, "draw"]
    starts: Int[np.ndarray, "block"]


def aligned_cka(
    x: Mapping[int, Float[np.ndarray, "word d"]],
    y: Mapping[int, Float[np.ndarray, "word e"]],
    document: Int[np.ndarray, "word"],
    block_of: Int[np.ndarray, "document"],
    seed: int = 0,
) -> dict[tuple[int, int], Aligned]:
    """CKA of every layer of `x` with every layer of `y`; `document` is that of each row."""
    order = np.lexsort((document, block_of[document]))
    rng = np.random.default_rng(seed)
    draws = _draws(block_of[document[order]])
    moved = shifts(document[order], rng)
    other = {j: layer_of(values[order], draws) for j, values in y.items()}
    below = {j: _size(layer, draws) for j, layer in other.items()}
    found = {}
    for i, values in x.items():
        one = layer_of(values[order], draws)
        size = _size(one, draws)
        rolled = [np.roll(one.gram, (shift, shift), (0, 1)) for shift in moved]
        for j, layer in other.items():
            with np.errstate(divide="ignore", invalid="ignore"):
                drawn = _energy(one, layer, draws) / (size * below[j])
                null = [float(np.vdot(each, layer.gram) / (size[0] * below[j][0])) for each in rolled]
            found[i, j] = _told(drawn, null)
    return found


def layer_of(x: Float[np.ndarray, "word d"], draws: Draws) -> Layer:
    """A layer's rows (blocks end to end), centred: CKA does not change, and sums lose no digits."""
    rows = x.astype(np.float64)
    rows -= rows.mean(axis=0)
    sums = np.add.reduceat(rows, draws.starts, axis=0)
    single = rows.astype(np.float32)
    return Layer(single @ single.T, rows @ sums.T, sums @ sums.T)


def _draws(block: Int[np.ndarray, "word"]) -> Draws:
    _, starts, sizes = np.unique(block, return_index=True, return_counts=True)
    w = np.concatenate([np.ones((1, len(starts))), 1 - np.eye(len(starts))])
    return Draws(w, w @ sizes, starts)


def _energy(one: Layer, other: Layer, draws: Draws) -> Float[np.ndarray, "draw"]:
    """‖Xcᵀ Yc‖² of each draw."""
    w, k, starts = draws
    k = np.maximum(k, 1)  # one block alone, left out, leaves nothing
    product = np.add.reduceat(one.gram * other.gram, starts, axis=0, dtype=np.float64)
    g = np.add.reduceat(product, starts, axis=1)
    both = one.on_sums[:, :, None] * other.on_sums[:, None, :]
    t = np.add.reduceat(both, starts, axis=0)
    whole, first, second = (np.einsum("wb,bc,wc->w", w, each, w) for each in (g, one.sums, other.sums))
    cross = np.einsum("wb,wc,wd,bcd->w", w, w, w, t, optimize=True)
    return np.maximum(whole - 2 * cross / k + first * second / k**2, 0.0)


def _size(layer: Layer, draws: Draws) -> Float[np.ndarray, "draw"]:
    """‖Xcᵀ Xc‖ of each draw."""
    return np.sqrt(_energy(layer, layer, draws))


def _told(drawn: Float[np.ndarray, "draw"], null: list[float]) -> Aligned:
    whole, without = float(drawn[0]), drawn[1:]
    n = len(without)
    half = float("nan")
    if n > 1:
        half = float(student.ppf(0.975, n - 1) * np.sqrt((n - 1) * without.var()))
    by_chance = (float(np.mean(null)), max(null)) if null else (float("nan"), float("nan"))
    return Aligned(whole, max(whole - half, 0.0), min(whole + half, 1.0), *by_chance)


def shifts(document: Int[np.ndarray, "word"], rng: np.random.Generator, n: int = SHIFTS) -> list[int]:
    """By how many rows one side is moved on so that no row stands beside its own document (rows of a document lie
    together); none where one document has half of the rows."""
    rows, longest = len(document), int(np.bincount(document).max())
    if rows < 2 * longest:
        return []
    possible = np.arange(longest, rows - longest + 1)
    return sorted(int(each) for each in rng.choice(possible, size=min(n, len(possible)), replace=False))
