"""MLP neurons: what goes into a block's last MLP matrix (Llama's `down_proj`), read with a hook.

Memory is bounded: at most `MOST_NEURONS` of a wide MLP are kept, drawn at random, for the rows asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.errors import Misuse
from workbench.harvest import TOKENS_PER_BATCH
from workbench.site import MLPS, checked_layer, decoder_layers, read_resid_post
from workbench.tokens import TokenSet

MOST_NEURONS = 512
EXPERTS = ("experts", "gate", "router")  # what a mixture of experts holds, and no other MLP


def mlp_output(layer: nn.Module) -> nn.Module:
    """The matrix that writes the neurons of a decoder layer to the residual stream."""
    for name in MLPS:
        if (mlp := getattr(layer, name, None)) is not None:
            if any(hasattr(holder, part) for holder in (layer, mlp) for part in EXPERTS):
                raise Misuse(f"{type(layer).__name__} has a mixture of experts: its neurons cannot be read")
            matrices = [m for m in mlp.modules() if getattr(getattr(m, "weight", None), "ndim", 0) == 2]
            if matrices and output_weight(matrices[-1]).shape[0] == output_weight(matrices[0]).shape[1]:
                return matrices[-1]
    raise Misuse(f"{type(layer).__name__} has no MLP that Marble knows: its neurons cannot be read")


def output_weight(last: nn.Module) -> Float[Tensor, "d_out neuron"]:
    """What each neuron writes, of an MLP's last matrix (GPT-2's Conv1D keeps it the other way round)."""
    weight = last.get_parameter("weight").detach().float().cpu()
    return weight if isinstance(last, nn.Linear) else weight.T


def read_neurons(
    model: PreTrainedModel, ids: Int[Tensor, "window position"]
) -> list[Float[Tensor, "window position neuron"]]:
    """The neurons of every layer, from one forward pass."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].view(*ids.shape, -1))

    with contextlib.ExitStack() as hooks:
        for layer in decoder_layers(model):
            handle = mlp_output(layer).register_forward_pre_hook(keep)
            hooks.callback(handle.remove)
        with torch.inference_mode():
            model(ids, use_cache=False)
    return seen


def neurons(
    model: PreTrainedModel,
    layer: int,
    token_set: TokenSet,
    rows: Int[np.ndarray, "chosen"],
    seed: int = 0,
    report: Callable[[int], None] = lambda n: None,
) -> Float[np.ndarray, "neuron chosen"]:
    """Neurons of `layer` on the given rows (ascending) of a token set; `report` is told the rows done."""
    place = np.full(len(token_set), -1)
    place[rows] = np.arange(len(rows))
    windows = np.flatnonzero(np.add.reduceat(place >= 0, token_set.starts))
    out: np.ndarray | None = None
    kept = np.zeros(0, int)
    with torch.inference_mode():
        for batch in token_set.batches(TOKENS_PER_BATCH, windows):
            hidden = _read(model, layer, torch.from_numpy(batch.ids).to(model.device))[:, 1:]
            there = np.where(batch.real, place[batch.rows], -1)
            values = hidden.float().cpu()[torch.from_numpy(there >= 0)].numpy()
            if out is None:
                order = np.random.default_rng(seed).permutation(values.shape[1])
                kept = np.sort(order[:MOST_NEURONS])
                out = np.empty((len(kept), len(rows)), np.float32)
            out[:, there[there >= 0]] = values[:, kept].T
            report(len(values))
    assert out is not None
    return out


def _read(
    model: PreTrainedModel, layer: int, ids: Int[Tensor, "window position"]
) -> Float[Tensor, "window position neuron"]:
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    handle = mlp_output(checked_layer(model, layer)).register_forward_pre_hook(keep)
    try:
        read_resid_post(model, layer, ids)
    finally:
        handle.remove()
    return seen[0].view(*ids.shape, -1)
