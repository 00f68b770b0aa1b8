"""Neurons of the model that lie along a latent: those of the site's own MLP that write in its direction, and
those of the next block that read in its direction.

    written  cos(d_j, W_out[:, n])          W_out the MLP's last projection of the site's layer
    read     cos(d_j, γ ⊙ W_in[n])          W_in the next MLP's gate where it has one, else its first
                                            projection, behind its norm's gain γ

Signed cosines; the n largest in size are kept. Random unit vectors in d dimensions have |cos| of about 1/√d.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.site import decoder_layers, gain_of

N_NEURONS = 3
WRITING = ("down_proj", "dense_4h_to_h", "c_proj", "fc2", "fc_out")
READING = ("gate_proj", "dense_h_to_4h", "c_fc", "fc1", "fc_in", "up_proj")
NORMS = ("post_attention_layernorm", "ln_2", "final_layer_norm", "ln2")


class Aligned(NamedTuple):
    """The neurons nearest to each latent, largest |cosine| first."""

    neurons: Int64[np.ndarray, "latent n"]
    cosines: Float32[np.ndarray, "latent n"]


def write_directions(model: PreTrainedModel, layer: int) -> Float[Tensor, "neuron d"] | None:
    """What each neuron of a block's MLP adds to the stream per unit; None for an MLP of unknown kind."""
    found = _first(getattr(decoder_layers(model)[layer], "mlp", None), WRITING)
    if found is None:
        return None
    weight: Tensor = found.get_parameter("weight")
    return weight if "Conv1D" in type(found).__name__ else weight.T


def read_directions(model: PreTrainedModel, layer: int) -> Float[Tensor, "neuron d"] | None:
    """What each neuron of a block's MLP listens to; None past the last block or for an unknown kind."""
    blocks = decoder_layers(model)
    if layer >= len(blocks):
        return None
    found, norm = _first(getattr(blocks[layer], "mlp", None), READING), _first(blocks[layer], NORMS)
    if found is None or norm is None:
        return None
    weight: Tensor = found.get_parameter("weight")
    weight = weight.T if "Conv1D" in type(found).__name__ else weight
    return weight * gain_of(norm)


def _first(parent: nn.Module | None, names: tuple[str, ...]) -> nn.Module | None:
    return next((m for n in names if (m := getattr(parent, n, None)) is not None), None)


@torch.inference_mode()
def aligned(
    decoder: Float[Tensor, "latent d"], directions: Float[Tensor, "neuron d"], n: int = N_NEURONS
) -> Aligned:
    """The `n` directions nearest to each decoder, up to sign."""
    unit = torch.nn.functional.normalize(decoder.float(), dim=1)
    cosines = unit @ torch.nn.functional.normalize(directions.float().to(unit.device), dim=1).T
    best = cosines.abs().topk(min(n, cosines.shape[1]), dim=1).indices
    return Aligned(best.cpu().numpy(), cosines.gather(1, best).cpu().numpy())
