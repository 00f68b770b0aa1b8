"""What the trainer asks of a dictionary in training, whoever trains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from saes.dictionary import Dictionary


@dataclass(frozen=True)
class Report:
    """Of one batch. Tensors, not numbers: reading them waits for the device, which happens only where a Step
    is made."""

    loss: Tensor
    mse: Tensor  # per coordinate in normalised units: the batch's FVU
    l0: float | Tensor


def moments(optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An Adam's moments and step counters by name; empty before its first step."""
    return {f"adam.{name}.{m}": v for name, w in weights.items() for m, v in optimizer.state[w].items()}


def restore_moments(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `moments` gave; fused Adam keeps its step counter beside the weights."""
    for name, weight in weights.items():
        prefix = f"adam.{name}."
        optimizer.state[weight] = {
            key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
        }


@runtime_checkable
class Run(Protocol):
    """Mutable, owned by one running generator."""

    step: int

    @property
    def needs_thresholds(self) -> bool:
        """Whether the finished dictionary's thresholds have yet to be calibrated."""

    def advance(self, x: Float[Tensor, "token model d"]) -> Report:
        """One training step on raw activations."""

    def dead_share(self) -> float: ...

    def tensors(self) -> dict[str, Tensor]:
        """The state, but for what `note` holds."""

    def note(self) -> dict[str, Any]:
        """The rest of the state, as JSON can hold it."""

    def restore(self, step: int, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
        """Go on from a state."""

    def dictionary(self, names: tuple[str, ...], site: str) -> Dictionary:
        """The inference dictionary in raw units."""
