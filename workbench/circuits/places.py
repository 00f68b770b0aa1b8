"""The points of a decoder block at which circuits are patched, and the modules at which they stand.

    resid_pre  the stream before the block            resid_post  the stream after it
    q, k, v    by head, before any rotation           z           by head, what W_O is given
    attn_out   what the attention writes              mlp_out     what the MLP writes
    resid_mid  the stream between the two, in families whose MLP reads what the attention wrote

Names are TransformerLens'. With grouped queries k and v have as many heads as there are groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.errors import Misuse, unknown
from workbench.points import MLP_OUT as MLP_SITE
from workbench.points import Site
from workbench.residual_writers import NotASum, attention_out
from workbench.site import checked_layer, site_module

RESID_PRE, RESID_MID, RESID_POST = "resid_pre", "resid_mid", "resid_post"
Q, K, V, Z = "q", "k", "v", "z"
ATTN_OUT, MLP_OUT = "attn_out", "mlp_out"
BY_HEAD = (Q, K, V, Z)
POINTS = (RESID_PRE, *BY_HEAD, ATTN_OUT, RESID_MID, MLP_OUT, RESID_POST)  # as a block reaches them
MLP_IN = "mlp_in"  # where the top block's MLP is given the last position alone; not patched
STREAM = (RESID_PRE, RESID_MID, RESID_POST)


class Cell(NamedTuple):
    """What one patch replaces; `None` means all heads, all positions."""

    point: str
    layer: int
    head: int | None = None
    position: int | None = None


class Place(NamedTuple):
    """Where a point stands: at a module's input or its output, and how that is seen by head."""

    module: nn.Module
    at_input: bool
    split: Callable[[Tensor], Tensor]


def known_point(point: str) -> str:
    """The point, or `Misuse` with the names nearest to it."""
    if point not in POINTS:
        raise unknown("point to patch", point, POINTS)
    return point


def n_heads(model: PreTrainedModel, point: str) -> int:
    """How many heads the point has."""
    config = model.config.get_text_config()
    heads: int = config.num_attention_heads
    return getattr(config, "num_key_value_heads", None) or heads if point in (K, V) else heads


def checked_cells(model: PreTrainedModel, cells: Iterable[Cell], width: int) -> None:
    """`Misuse` for the first cell that the model has not got."""
    for cell in cells:
        checked_layer(model, cell.layer)
        known_point(cell.point)
        if cell.head is not None and cell.point not in BY_HEAD:
            raise Misuse(f"{cell.point} has no heads: of the points to patch {', '.join(BY_HEAD)} have some")
        if cell.head is not None and not 0 <= cell.head < (heads := n_heads(model, cell.point)):
            raise Misuse(f"there is no head {cell.head} at {cell.point}: its heads are 0 to {heads - 1}")
        if cell.position is not None and not 0 <= cell.position < width:
            raise Misuse(f"there is no position {cell.position}: the prompts' positions are 0 to {width - 1}")


def place(model: PreTrainedModel, point: str, layer: int) -> Place:
    """The module of q, k, v, z, attn_out or mlp_out in a layer (the stream stands between modules)."""
    if point in (MLP_IN, MLP_OUT):
        return Place(site_module(model, Site(layer, MLP_SITE)), point == MLP_IN, _whole)
    block = checked_layer(model, layer)
    try:
        out = attention_out(block)
    except NotASum as none:
        raise Misuse(f"{type(model).__name__} has no {point} that Marble knows: {none}") from none
    if point == ATTN_OUT:
        return Place(out, False, _whole)
    heads = n_heads(model, point)
    if point == Z:
        return Place(out, True, lambda x: x.unflatten(-1, (heads, -1)))
    return _projection(model, block, point, heads)


def _projection(model: PreTrainedModel, block: nn.Module, point: str, heads: int) -> Place:
    """q, k or v: what a module of their own gives, or a third of what one module gives for all."""
    third = (Q, K, V).index(point)
    for module in block.modules():
        if (own := getattr(module, f"{point}_proj", None)) is not None:
            return Place(own, False, lambda x: x.unflatten(-1, (heads, -1)))
        if (joint := getattr(module, "c_attn", None)) is not None:  # GPT-2: all q, all k, all v
            return Place(joint, False, lambda x: x.unflatten(-1, (3, heads, -1))[..., third, :, :])
        joint = getattr(module, "query_key_value", None)
        if joint is not None and "NeoX" in type(module).__name__:  # head by head q, k, v
            return Place(joint, False, lambda x: x.unflatten(-1, (heads, 3, -1))[..., third, :])
    raise Misuse(f"{type(model).__name__} has no projection to {point} that Marble knows: patch z instead")


def _whole(x: Tensor) -> Tensor:
    return x
