"""Muon for the matrices inside the blocks, AdamW for everything else, as one optimizer.

Muon [Jordan 2024] orthogonalises the momentum of a weight matrix; embeddings, norms and biases are not
such matrices. `torch.optim.Muon` iterates in bfloat16 whatever the processor, one matrix at a time: where
bfloat16 is emulated a step takes a second. This one takes its precision from the device and iterates over all
matrices of one shape together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.device import fast_bfloat16

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan 2024: steepest at zero, singular values end within about 0.3 of 1
N_ITERATIONS = 5
MOMENTUM = 0.95


def orthogonalised(
    matrices: Float[Tensor, "matrix row column"], dtype: torch.dtype
) -> Float[Tensor, "matrix row column"]:
    """About UVᵀ of each matrix USVᵀ, by Newton–Schulz: X ← aX + (bA + cA²)X with A = XXᵀ."""
    a, b, c = QUINTIC
    x = matrices.to(dtype)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(N_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; the step of a matrix [a, b] is lr·√max(1, a/b)."""

    def __init__(self, matrices: Iterable[Tensor], lr: float) -> None:
        super().__init__(matrices, {"lr": lr})
        self.dtype = torch.bfloat16 if fast_bfloat16() else torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.shape].append(weight)
            for shape, weights in alike.items():
                updates = orthogonalised(torch.stack([self._momentum(w) for w in weights]), self.dtype)
                rate = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                for weight, update in zip(weights, updates, strict=True):
                    weight.add_(update, alpha=-rate)

    def _momentum(self, weight: Tensor) -> Tensor:
        buffer = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
        assert weight.grad is not None
        buffer.lerp_(weight.grad, 1 - MOMENTUM)
        return weight.grad.lerp(buffer, MOMENTUM)


class MuonWithAdamW(torch.optim.Optimizer):
    """One optimizer over two; `param_groups` of both are visible to schedules, states save together."""

    def __init__(self, model: torch.nn.Module, muon_lr: float, lr: float) -> None:
        embedding = {
            id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()
        }
        named = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in named if p.ndim == 2 and id(p) not in embedding]
        rest = [p for p in named if p.ndim != 2 or id(p) in embedding]
        self.muon = Muon(matrices, muon_lr)
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
