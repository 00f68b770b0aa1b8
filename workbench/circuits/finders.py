"""Three ways of finding a circuit's edges, each with a score for every edge and pair.

    eap-ig   gradients along the way from the corrupt prompt (`attribution`); a few passes of every pair
    exact    every edge patched for itself (`edge_patching`); a pass of every pair for each edge
    acdc     edges taken out for good, one after the other (`acdc`), with the threshold τ; as many passes

The first two score alone: the circuit is chosen from their scores. ACDC gives the circuit itself, and its
scores say what m changed by when each edge was tried; circuits of other sizes are chosen from those as from any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from workbench.circuit_config import ACDC, EAP_IG, EXACT, FINDERS, CircuitConfig
from workbench.circuits.acdc import TAU, take_out
from workbench.circuits.attribution import N_STEPS, EdgeScores, edge_scores
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.edge_patching import exact_scores, refuse_many
from workbench.circuits.graph import Edges
from workbench.circuits.pairs import Pairs
from workbench.errors import unknown


@dataclasses.dataclass(frozen=True)
class Finder:
    """Which, and its settings: steps of EAP-IG, threshold of ACDC."""

    name: str = EAP_IG
    n_steps: int = N_STEPS
    tau: float = TAU

    def __post_init__(self) -> None:
        if self.name not in FINDERS:
            raise unknown("finder", self.name, FINDERS)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Finder:
        """As a circuit's configuration has it."""
        asked = CircuitConfig.of(config)
        return cls(asked.finder, asked.n_steps, asked.tau)

    @property
    def by_edge(self) -> bool:
        """It runs every pair once for each edge, and tells of so many runs."""
        return self.name != EAP_IG

    def look(
        self, model: CircuitModel, pairs: Pairs, done: Callable[[int], None] = lambda n: None
    ) -> tuple[EdgeScores, Edges | None]:
        """The scores, and the circuit where the finder gives one."""
        if self.name == EXACT:
            return exact_scores(model, pairs, done=done), None
        if self.name == ACDC:
            refuse_many(model.graph)
            left = take_out(model, pairs, self.tau, lambda n: done(n * len(pairs)))
            return left.scores, left.edges
        return edge_scores(model, pairs, self.n_steps, done=done), None
