"""Muon for the matrices inside the blocks, AdamW for everything else, as one optimizer.

Muon [Jordan 2024] orthogonalises the momentum of a weight matrix; embeddings, norms and biases are not
such matrices. `torch.optim.Muon` and `torch.optim.AdamW` do the work; this class only joins them, since
a `Trainer` holds one optimizer and one schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """One optimizer over two; `param_groups` of both are visible to schedules, states save together."""

    def __init__(self, model: torch.nn.Module, muon_lr: float, lr: float) -> None:
        embedding = {
            id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()
        }
        named = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in named if p.ndim == 2 and id(p) not in embedding]
        rest = [p for p in named if p.ndim != 2 or id(p) in embedding]
        self.muon = torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.0)
        self.adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})
        # The parts must see the very group dictionaries that a schedule changes.
        self.muon.param_groups = self.param_groups[: len(self.muon.param_groups)]
        self.adamw.param_groups = self.param_groups[len(self.muon.param_groups) :]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("MuonWithAdamW takes no closure: compute the gradients before step()")
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]


def trapezoid(optimizer: torch.optim.Optimizer, n_steps: int, warmup: float, decay: float) -> Any:
    """Schedule: linear warm-up over a share of the steps, constant, linear decay to 0 over the last share."""
    n_warm, n_decay = max(1, round(warmup * n_steps)), max(1, round(decay * n_steps))

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / n_warm, max(0.0, (n_steps - step) / n_decay))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
