"""The neurons of an MLP as activations, computed from its stored inputs, and the matrix that they write with.

They are what goes into the MLP's last matrix W (`workbench.neurons`), so that its output is W h + b.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from saes.arrays import Activations, read, spread
from workbench.neurons import mlp_output, output_weight
from workbench.points import MLP_IN, Site
from workbench.site import checked_layer, site_module

CHECKED_ROWS = 256
TOLERANCE = 0.02  # of the outputs' length; stored activations are rounded to 8 bits


class MlpNeurons:
    """Rows are `[token, 1, neuron]`."""

    def __init__(self, model: PreTrainedModel, layer: int, inputs: Activations) -> None:
        self._mlp = site_module(model, Site(layer, MLP_IN))
        self._last = mlp_output(checked_layer(model, layer))
        self._inputs = inputs

    def of(self, inputs: Activations) -> MlpNeurons:
        """The same neurons on other inputs."""
        made = object.__new__(MlpNeurons)
        made._mlp, made._last, made._inputs = self._mlp, self._last, inputs
        return made

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, rows: np.ndarray) -> Float[Tensor, "token one neuron"]:
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.append(inputs[0])

        weight = self._last.get_parameter("weight")
        handle = self._last.register_forward_pre_hook(keep)
        try:
            with torch.inference_mode():
                self._mlp(self._inputs[rows].to(weight))
        finally:
            handle.remove()
        return seen[0].float().cpu().view(len(rows), 1, -1).clone()

    @property
    def W_out(self) -> Float[Tensor, "d_out neuron"]:
        """What each neuron writes."""
        return output_weight(self._last)

    def write(self, targets: Activations) -> bool:
        """Whether the stored outputs are W h + b. They are not where an MLP has experts, or a norm at its end."""
        rows = spread(targets, CHECKED_ROWS)
        hidden, y = self[rows][:, 0], read(targets, rows)[:, 0]
        if self.W_out.shape != (y.shape[1], hidden.shape[1]):
            return False
        bias = getattr(self._last, "bias", None)
        made = hidden @ self.W_out.T + (0 if bias is None else bias.detach().float().cpu())
        return bool((made - y).norm() <= TOLERANCE * y.norm())
