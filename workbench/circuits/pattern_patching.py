"""Patching attention patterns: where a head looks, with what it finds there left as it was.

    z' = A_other · v_base    of one head, at all its queries or at one

At the layer of a single patch the values v are still those of the run it is put into, so a changed pattern is a
changed z, and is replayed as such. That A · v gives z in the run itself is checked: families that scale, gate or
normalise in between are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from workbench.circuits.activation_patching import CONVENTIONS, DENOISE, NOISE, Patching
from workbench.circuits.grids import HEAD, LAYER, Grid, grid_cells, grid_of
from workbench.circuits.places import V, Z
from workbench.circuits.replay import Run
from workbench.errors import Misuse, unknown
from workbench.site import attention_kind

PATTERN = "pattern"


def pattern_grid(patching: Patching, direction: str = DENOISE, axes: Sequence[str] = (LAYER, HEAD)) -> Grid:
    """The other run's pattern at every cell along `axes`; a position is that of the query."""
    if direction not in (DENOISE, NOISE):
        raise unknown("direction of patching a pattern", direction, (DENOISE, NOISE))
    base, _, m_to = patching.exchange([V, Z], direction)
    own, other = (patching.pairs.corrupt, patching.pairs.clean)[:: 1 if direction == DENOISE else -1]
    z = _mixed(base, patterns(patching.model, own))
    gap = (z - torch.stack([base.value(Z, layer) for layer in range(len(z))])).abs().max()
    if not float(gap) <= 1e-4 * max(1.0, float(z.abs().max())):
        raise Misuse(
            f"a head's output in {type(patching.model).__name__} is not its pattern times its values, so a pattern "
            "alone cannot be patched: patch z, q, k or v instead"
        )
    z = _mixed(base, patterns(patching.model, other))
    cells, shape = grid_cells(patching.model, patching.pairs, Z, axes)
    m = patching.replay.patched(base, lambda _, layer: z[layer], [[cell] for cell in cells])
    found = m.T.reshape(len(patching.pairs), *shape)
    return grid_of(patching.pairs, PATTERN, axes, CONVENTIONS[direction], found, base.m, m_to)


@torch.inference_mode()
def patterns(
    model: PreTrainedModel, ids: Int[Tensor, "pair position"]
) -> Float[Tensor, "layer pair head query key"]:
    """Where every head looks; fused attention, which does not tell, is put back behind."""
    with attention_kind(model, "eager"):
        found = model(input_ids=ids, output_attentions=True, use_cache=False).attentions
    if not found or any(pattern is None for pattern in found):
        raise Misuse(f"{type(model).__name__} gives no attention patterns: patch z, q, k or v instead")
    return torch.stack(found)


def _mixed(
    run: Run, pattern: Float[Tensor, "layer pair head query key"]
) -> Float[Tensor, "layer pair query head d_head"]:
    """What each head would give W_O, with a run's values and these patterns."""
    v = torch.stack([run.value(V, layer) for layer in range(len(pattern))])
    v = v.repeat_interleave(pattern.shape[2] // v.shape[3], dim=3)  # heads of a group share a value
    return torch.einsum("lphqk,lpkhd->lpqhd", pattern, v)
