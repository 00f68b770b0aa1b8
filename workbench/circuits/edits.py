"""What a batch of patches puts where: many sets of cells on the same prompts, at one layer of one pass.

Rows of a batch are [set, pair]: each set's patch on every pair. All cells of one form at a point (a head at a
position, all of a head, all of a position, everything) are put there in one assignment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.places import POINTS, RESID_POST, RESID_PRE, Cell

Put = Callable[[str, int], Float[Tensor, "pair position ..."]]  # what is put at a point of a layer


class Batch(NamedTuple):
    """Sets of cells, ascending by the layer at which each begins, on a slice of the pairs."""

    sets: Sequence[Sequence[Cell]]
    first: Sequence[int]
    pairs: slice

    def edits(self, layer: int, put: Put) -> Iterator[Edit]:
        """What is put where at a layer, in the order in which a block comes by."""
        forms: dict[tuple[int, bool, bool], list[tuple[int, Cell]]] = {}
        for number, cells in enumerate(self.sets):
            for cell in cells:
                if cell.layer == layer:
                    form = POINTS.index(cell.point), cell.head is None, cell.position is None
                    forms.setdefault(form, []).append((number, cell))
        for form in sorted(forms):
            numbers, cells = zip(*forms[form], strict=True)
            point = POINTS[form[0]]
            yield Edit(point, numbers, cells, put(point, layer)[self.pairs])


@dataclasses.dataclass(frozen=True)
class Edit:
    """Cells of one form at one point, and what stands there instead for each pair."""

    point: str
    numbers: Sequence[int]  # of the set to which each cell belongs
    cells: Sequence[Cell]
    value: Float[Tensor, "pair position ..."]

    def into(
        self, x: Tensor, split: Callable[[Tensor], Tensor] = lambda x: x, less: Tensor | None = None
    ) -> Tensor:
        """`x` [set·pair, position, …] with the values, minus `less` of the same shape, in place of its own."""
        x = x.clone()
        rows = split(x).unflatten(0, (-1, len(self.value)))
        at = self._index(x.device)
        value = self.value.expand(len(rows), *self.value.shape)[at]
        rows[at] = value if less is None else value - split(less).unflatten(0, (-1, len(self.value)))[at]
        return x

    def _index(self, device: torch.device) -> tuple[slice | Tensor, ...]:
        """Into [set, pair, position, head …]."""

        def numbered(which: Sequence[int | None]) -> slice | Tensor:
            return slice(None) if which[0] is None else torch.tensor(which, device=device)

        heads = [cell.head for cell in self.cells]
        at = (numbered(self.numbers), slice(None), numbered([cell.position for cell in self.cells]))
        return at if heads[0] is None else (*at, numbered(heads))


def before(cell: Cell) -> Cell:
    """The stream after a layer is what stands before the next."""
    return cell._replace(point=RESID_PRE, layer=cell.layer + 1) if cell.point == RESID_POST else cell
