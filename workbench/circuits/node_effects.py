"""What one component does on each prompt: its corrupt value in the clean run, everywhere it writes.

    lost = m_clean − m_p    in logits, by pair: large where the component carries what the clean prompt asks

The share of m_clean − m_corrupt that it is over all pairs is the noise effect of `activation_patching`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from workbench.circuits.activation_patching import NOISE, Patching
from workbench.circuits.graph import EMBED, LOGITS, head_at
from workbench.circuits.grids import Effects, Grid
from workbench.circuits.places import MLP_OUT, RESID_PRE, Cell, Z
from workbench.errors import Misuse


@dataclasses.dataclass(frozen=True)
class NodeEffect:
    """The patch of one component, `grid` with a single cell."""

    node: str
    grid: Grid

    @property
    def lost(self) -> Float[np.ndarray, "pair"]:
        return self.grid.m_from - self.grid.m[:, 0]

    @property
    def share(self) -> Effects:
        """Σ lost / Σ (m_clean − m_corrupt), with its interval; NaN where the two runs do not differ."""
        return Effects(*(part[0] for part in self.grid.effect()))

    def strongest(self, n: int) -> list[tuple[int, float]]:
        """The pairs on which most is lost, and how much."""
        order = np.argsort(-self.lost, kind="stable")[:n]
        return [(int(row), float(self.lost[row])) for row in order]


def cell_of(node: str) -> Cell:
    """What is patched of a component. `Misuse` for the logits, which write nothing."""
    if node == LOGITS:
        raise Misuse(
            "the logits write into no stream, so nothing of theirs can be patched: take what enters them"
        )
    if node == EMBED:
        return Cell(RESID_PRE, 0)
    if node.startswith("m"):
        return Cell(MLP_OUT, int(node[1:]))
    return Cell(Z, *head_at(node))


def node_effect(patching: Patching, node: str) -> NodeEffect:
    """The noise effect of a component on every pair."""
    return NodeEffect(node, patching.joint([[cell_of(node)]], NOISE))
