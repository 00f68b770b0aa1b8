"""Checkpoints opened for their edges, each loaded once where memory permits.

A study reads every checkpoint twice: to find circuits, then to judge all of them in each. What is opened is kept
for the second time while all that is kept takes no more than `ROOM` bytes; what does not fit is loaded anew.
"""

from __future__ import annotations

from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.competence import Competence, competence
from workbench.circuits.pairs import Pairs
from workbench.device import best_device
from workbench.lab import Lab

ROOM = 2**31  # bytes of weights that are kept


class Opened:
    """The models of one study, by name."""

    def __init__(self, lab: Lab, room: int = ROOM) -> None:
        self.lab, self.room = lab, room
        self._kept: dict[str, CircuitModel] = {}

    def first(self, name: str, judge: Pairs, keep: bool = True) -> tuple[Competence, CircuitModel]:
        """How well a checkpoint does the task, and the same model opened for its edges."""
        checkpoint = self.lab.checkpoint(name)
        loaded = checkpoint.model(best_device())
        does = competence(loaded, judge)  # before it is opened, which changes it in place
        model = CircuitModel(checkpoint.bridge(best_device(), loaded))
        if keep and sum(map(_bytes, (*self._kept.values(), model))) <= self.room:
            self._kept[name] = model
        return does, model

    def again(self, name: str) -> CircuitModel:
        """The model for the last time: it is kept no longer."""
        kept = self._kept.pop(name, None)
        return kept or CircuitModel(self.lab.checkpoint(name).bridge(best_device()))


def _bytes(model: CircuitModel) -> int:
    return sum(each.numel() * each.element_size() for each in model.bridge.original_model.parameters())
