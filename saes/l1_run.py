"""A crosscoder that pays for its latents by an L1 price instead of choosing k of them, for contrast.

    f = ReLU(W_enc z + b_enc)
    loss = mean over coordinates of (z − ẑ)² + λ · mean over tokens of Σ_j f_j Σ_m ‖d_j^m‖

[Lindsey 2024]. The price on the sum of a latent's decoder norms shrinks the smaller of two unequal decoders to
nothing (complete shrinkage) and tears one feature into a latent a model (decoupling): latents that look like one
model's alone and are not [Minder 2025]. λ rises from nothing, then follows L0 towards k, as the L1 price of
SAELens' architectures does (`saes.saelens`). Dense throughout: every latent may be on at every token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saes.calibrate import Units
from saes.config import TrainConfig
from saes.price import ramp, steered, steers
from saes.run import Report
from saes.sparse_run import SparseRun

START = 2.0  # λ in units of 1/(N·d), the scale on which the sources state it


class L1Run(SparseRun):
    """The weights and the optimizer of the sparse path; another step."""

    needs_thresholds = False

    def __init__(self, units: Units, config: TrainConfig) -> None:
        super().__init__(units, config)
        self.price = START / units.mean.numel()

    def advance(self, x: Float[Tensor, "token model d"]) -> Report:
        """One step: encode, decode, price, Adam."""
        config, z = self.config, self.units.normalise(x)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr_at(self.step)
        latents = F.relu(F.linear(z, self.W_enc, self.b_enc))
        norms = self.W_dec.view(config.n_latents, x.shape[1], -1).norm(dim=2).sum(dim=1)
        mse = F.mse_loss(latents @ self.W_dec + self.b_dec, z)
        loss = mse + self.price * ramp(self.step, config.n_steps) * (latents @ norms).mean()
        loss.backward()
        self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        on = latents.detach() > 0
        self.silent_steps = torch.where(on.any(dim=0), 0, self.silent_steps + 1)
        self.step += 1
        l0 = on.sum() / len(x)
        if steers(self.step, config.n_steps):
            self.price = steered(self.price, float(l0), config.k, config.n_steps)
        return Report(loss.detach(), mse.detach(), l0)

    def note(self) -> dict[str, Any]:
        return {"price": self.price.hex(), **super().note()}

    def restore(self, step: int, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
        """Go on from what `tensors` and `note` gave."""
        super().restore(step, tensors, note)
        self.price = float.fromhex(note["price"])
