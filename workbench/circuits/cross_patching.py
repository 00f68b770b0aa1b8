"""Cross-model activation patching: what stands in one checkpoint put into another, on the same prompts.

    effect = (m_p − m_B) / (m_A − m_B)    A's value at a part of B, both on the clean prompts

0 leaves B's logit difference, 1 makes it A's: with A better at the task, parts of high effect hold what made it
better [CMAP: Prakash 2024, who report accuracy]. Both ways, since a part may be enough in one checkpoint and
useless without its companions in the other. A value is put in as it is; checkpoints of one family write in one
basis, others need not, and then the effect says that as well. Of a checkpoint and itself every `change` is 0 and
no effect is defined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from workbench.circuits.activation_patching import Patching
from workbench.circuits.grids import LAYER, POSITION, Grid, grid_cells, grid_of
from workbench.circuits.places import Cell
from workbench.errors import Misuse

_CONVENTION = "{} into {}, clean prompts: 0 leaves the logit difference of {}, 1 makes it that of {}"


class BothWays(NamedTuple):
    """A's values in B, and B's in A."""

    a_into_b: Grid
    b_into_a: Grid


def cross_grids(
    a: Patching,
    b: Patching,
    point: str,
    axes: Sequence[str] = (LAYER, POSITION),
    names: tuple[str, str] = ("A", "B"),
) -> BothWays:
    """A patch for every cell along `axes`, both ways; what is no axis is replaced in whole."""
    _checked_alike(a, b)

    def one_way(source: Patching, into: Patching, convention: str) -> Grid:
        cells, shape = grid_cells(into.model, into.pairs, point, axes)
        base, other = into.run(True, [point]), source.run(True, [point])
        if base.value(point, 0).shape != other.value(point, 0).shape:
            raise Misuse(f"{point} has another shape in each of the two checkpoints: patch another point")
        m = into.replay.patched(base, other.value, [[cell] for cell in cells])
        found = m.T.reshape(len(into.pairs), *shape)
        return grid_of(into.pairs, point, axes, convention, found, base.m, other.m)

    first, second = names
    return BothWays(
        one_way(a, b, _CONVENTION.format(first, second, second, first)),
        one_way(b, a, _CONVENTION.format(second, first, first, second)),
    )


def cross_joint(
    source: Patching, into: Patching, sets: Sequence[Sequence[Cell]], names: tuple[str, str]
) -> Grid:
    """One patch for every set of cells at once (a circuit's heads, say), `source` into `into`."""
    _checked_alike(source, into)
    points = {cell.point for cells in sets for cell in cells}
    base, other = into.run(True, points), source.run(True, points)
    first, second = names
    convention = _CONVENTION.format(first, second, second, first)
    m = into.replay.patched(base, other.value, sets)
    return grid_of(into.pairs, "joint", ("set",), convention, m.T, base.m, other.m)


def joint_and_single(source: Patching, into: Patching, parts: Sequence[Cell], names: tuple[str, str]) -> Grid:
    """Parts put in at once, and beside that what each does by itself. Cells of the grid, n parts given:

        0          all of them together
        1          m_B + Σ_i (m_i − m_B), what the single ones change added up, pair by pair
        2 … n + 1  part i alone, m_i

    Where 0 is above 1 the parts need each other; where it is below, one does what another would do as well.
    """
    if not parts:
        raise Misuse("no part is named: name one or more that are to be put in together")
    grid = cross_joint(source, into, [list(parts), *([part] for part in parts)], names)
    single = grid.m[:, 1:] - grid.m_from[:, None]
    added = grid.m_from + single.sum(axis=1)
    return dataclasses.replace(grid, m=np.concatenate([grid.m[:, :1], added[:, None], grid.m[:, 1:]], axis=1))


def _checked_alike(a: Patching, b: Patching) -> None:
    """The same prompts in two models of the same shape."""
    if a.pairs.clean.shape != b.pairs.clean.shape or not torch.equal(a.pairs.clean, b.pairs.clean):
        raise Misuse("the two checkpoints were given different prompts: give both the same pairs")
    shapes = [_shape(each) for each in (a, b)]
    if shapes[0] != shapes[1]:
        raise Misuse(
            "the two checkpoints have layers, heads and widths {} and {}: values of one fit into the other only "
            "where these agree".format(*shapes)
        )


def _shape(patching: Patching) -> tuple[int, int, int]:
    config = patching.model.config.get_text_config()
    return config.num_hidden_layers, config.num_attention_heads, config.hidden_size
