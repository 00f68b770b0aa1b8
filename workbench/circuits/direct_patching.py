"""The direct path from a part to the logits: its new value where the final norm reads, everything else as it was.

    m_direct = m(resid_final + w(a′) − w(a)),  w: what the part writes at the last position

Path patching with the logits as receiver [Wang 2022; Goldowsky-Dill 2023]: blocks above neither see the change nor
answer to it, so no block is run. The final norm is the real one, of the changed stream. Next to the whole effect of
the same patch it says how much of it goes through later layers.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.activation_patching import CONVENTIONS, DENOISE, Patching
from workbench.circuits.grids import HEAD, LAYER, Grid, grid_of
from workbench.circuits.pairs import logit_difference
from workbench.circuits.places import ATTN_OUT, MLP_OUT, Z, place
from workbench.errors import unknown
from workbench.residual_writers import by_head

SENDERS = (Z, ATTN_OUT, MLP_OUT)
DIRECT, PART = "direct", "part"


@torch.inference_mode()
def direct_grid(patching: Patching, point: str, direction: str = DENOISE) -> Grid:
    """The direct effect of every layer's `attn_out` or `mlp_out`, or of every head (`z`)."""
    if point not in SENDERS:
        raise unknown("sender to the logits", point, SENDERS)
    base, put, m_to = patching.exchange([point], direction)
    replay, pairs = patching.replay, patching.pairs
    rows = torch.arange(len(pairs), device=pairs.last.device)
    found = []
    for layer in range(replay.n_layers):
        moved = (put(point, layer) - base.value(point, layer))[rows, pairs.last]
        for written in _written(patching, point, layer, moved):
            read = replay.parts.final_norm(base.resid[-1][rows, pairs.last] + written)
            found.append(logit_difference(replay.parts.unembed(read), pairs.target, pairs.foil))
    m = torch.stack(found, dim=1).view(len(pairs), replay.n_layers, -1)
    axes = (LAYER, HEAD) if point == Z else (LAYER,)
    convention = f"direct path to the logits alone, {CONVENTIONS[direction]}"
    return grid_of(pairs, point, axes, convention, m if point == Z else m[..., 0], base.m, m_to)


def direct_parts(patching: Patching, direction: str = DENOISE) -> Grid:
    """The direct effect of every head, then of the whole attention and of the MLP, a row a layer (`part_names`)."""
    heads, *layers = (direct_grid(patching, point, direction) for point in SENDERS)
    m = np.concatenate([heads.m, *(each.m[..., None] for each in layers)], axis=-1)
    return dataclasses.replace(heads, point=DIRECT, axes=(LAYER, PART), m=m)


def part_names(n_heads: int) -> list[str]:
    """What stands in the columns of `direct_parts`."""
    return [*(f"h{head}" for head in range(n_heads)), "attention", "MLP"]


def _written(
    patching: Patching, point: str, layer: int, moved: Float[Tensor, "pair ..."]
) -> Float[Tensor, "sender pair d_model"]:
    """What each part at the point writes of a change of its value."""
    if point != Z:
        return moved[None]
    out = place(patching.model, ATTN_OUT, layer).module
    return by_head(out, moved.flatten(1), moved.shape[1]).transpose(0, 1)
