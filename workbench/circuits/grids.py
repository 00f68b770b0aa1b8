"""A grid of patches: m of every pair with one part of the model replaced, for every part, and what that says.

    effect = Σ(m − m_from) / Σ(m_to − m_from)    over pairs; 0: nothing changed, 1: all of it

A ratio of sums, so that pairs on which the two runs hardly differ do not drown the others; its interval is by
bootstrap over pairs. Where the interval of the mean of m_to − m_from holds 0 there is nothing to share out, and the
effect is NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from workbench.circuits.pairs import Pairs
from workbench.circuits.places import BY_HEAD, Cell, known_point, n_heads
from workbench.errors import Misuse, unknown
from workbench.intervals import resampled_sums

if TYPE_CHECKING:
    import polars as pl

AXES = LAYER, HEAD, POSITION = "layer", "head", "position"


class Effects(NamedTuple):
    """An effect of each cell with its 95 % interval by bootstrap over pairs (NaN of one pair)."""

    value: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class Grid:
    """m of every pair with one part replaced, for each part; NaN at positions behind a prompt's end.

    `m_from` is m where nothing is replaced, `m_to` what an effect of 1 would bring it to.
    """

    point: str
    axes: tuple[str, ...]
    convention: str
    m: Float[np.ndarray, "pair ..."]
    m_from: Float[np.ndarray, "pair"]
    m_to: Float[np.ndarray, "pair"]

    def __post_init__(self) -> None:
        if self.m.ndim != 1 + len(self.axes):
            raise ValueError(f"m has {self.m.ndim - 1} axes beside the pairs, the grid {self.axes}")

    def __len__(self) -> int:
        return len(self.m)

    @property
    def gap(self) -> Effects:
        """The mean of m_to − m_from over the pairs."""
        return _ratios((self.m_to - self.m_from)[:, None], np.ones((len(self), 1)), ())

    @property
    def apart(self) -> bool:
        """The two runs differ by more than the choice of pairs explains: the interval of `gap` is clear of 0."""
        value, low, high = (float(part) for part in self.gap)
        return value != 0 and not low <= 0 <= high

    @property
    def vague(self) -> bool:
        """The interval of `gap` is as wide as `gap` itself: shares of it tell next to nothing."""
        value, low, high = (float(part) for part in self.gap)
        return not high - low < abs(value)

    def effect(self) -> Effects:
        """Σ(m − m_from) / Σ(m_to − m_from) over the pairs that have the position; NaN unless `apart`."""
        moved, there = self._flat()
        gap = (self.m_to - self.m_from)[:, None] * there
        return _ratios(moved, gap if self.apart else 0 * gap, self.m.shape[1:])

    def change(self) -> Effects:
        """The mean of m − m_from, in logits: what is left to say where the two runs do not differ."""
        moved, there = self._flat()
        return _ratios(moved, there.astype(float), self.m.shape[1:])

    def level(self) -> Effects:
        """The mean of m itself, in logits."""
        m = self.m.reshape(len(self), -1)
        there = ~np.isnan(m)
        return _ratios(np.where(there, m, 0.0), there.astype(float), self.m.shape[1:])

    def _flat(self) -> tuple[Float[np.ndarray, "pair cell"], Bool[np.ndarray, "pair cell"]]:
        moved = (self.m - self.m_from.reshape(-1, *(1,) * len(self.axes))).reshape(len(self), -1)
        there = ~np.isnan(moved)
        return np.where(there, moved, 0.0), there


def cells(effects: Effects, axes: Sequence[str]) -> pl.DataFrame:
    """A row a cell: its place, its effect, the interval."""
    import polars as pl

    places = np.indices(effects.value.shape).reshape(len(axes), -1)
    figures = {"effect": effects.value, "low": effects.low, "high": effects.high}
    return pl.DataFrame(dict(zip(axes, places, strict=True)) | {k: v.ravel() for k, v in figures.items()})


def _ratios(
    over: Float[np.ndarray, "pair cell"], under: Float[np.ndarray, "pair cell"], shape: tuple[int, ...]
) -> Effects:
    """Σ over / Σ under of each cell, with intervals; NaN where all of `under` is 0."""
    n_pairs, n_cells = over.shape
    value, low, high = np.full((3, n_cells), np.nan)
    known = under.any(axis=0)
    if known.any():
        both = np.concatenate([over[:, known], under[:, known]], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            value[known] = np.divide(*np.split(both.sum(axis=0), 2))
            if n_pairs > 1:
                drawn = np.divide(*np.split(resampled_sums(both), 2, axis=1))
                low[known], high[known] = np.nanquantile(drawn, (0.025, 0.975), axis=0)
    return Effects(*(part.reshape(shape) for part in (value, low, high)))


def grid_cells(
    model: PreTrainedModel, pairs: Pairs, point: str, axes: Sequence[str]
) -> tuple[list[Cell], tuple[int, ...]]:
    """The cells of a grid, the last axis fastest, and its shape."""
    known_point(point)
    for axis in axes:
        if axis not in AXES:
            raise unknown("axis of a grid", axis, AXES)
    if tuple(axes) != tuple(axis for axis in AXES if axis in axes) or LAYER not in axes:
        raise Misuse(
            f"the axes of a grid are {', '.join(AXES)} in this order, the first in any case: {list(axes)}"
        )
    if HEAD in axes and point not in BY_HEAD:
        raise Misuse(f"{point} has no heads: a grid by head is of {', '.join(BY_HEAD)}")
    sizes = {
        LAYER: model.config.get_text_config().num_hidden_layers,
        HEAD: n_heads(model, point),
        POSITION: pairs.clean.shape[1],
    }
    shape = tuple(sizes[axis] for axis in axes)
    indices = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), axis=1).tolist()
    return [Cell(point, **dict(zip(axes, index, strict=True))) for index in indices], shape


def grid_of(
    pairs: Pairs,
    point: str,
    axes: Sequence[str],
    convention: str,
    m: Float[Tensor, "pair ..."],
    m_from: Float[Tensor, "pair"],
    m_to: Float[Tensor, "pair"],
) -> Grid:
    """The grid, with NaN where a pair has no such position."""
    if POSITION in axes:
        behind = torch.arange(m.shape[-1], device=m.device) > pairs.last.to(m.device)[:, None]
        m = m.masked_fill(behind.view(len(m), *(1,) * (m.dim() - 2), -1), torch.nan)
    arrays = (part.double().cpu().numpy() for part in (m, m_from, m_to))
    return Grid(point, tuple(axes), convention, *arrays)
