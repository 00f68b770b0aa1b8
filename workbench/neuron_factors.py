"""MLP neurons of one layer: what goes into the down projection, token by token, and which factors it follows.

A neuron fires on every token and (in a gated MLP) in either sign, so nothing is sparse here. Values are kept as
float16 on disk: 65,536 possible values, so that ranks are counted instead of sorted.

    AUROC = (rank sum of the tokens with the factor − n₊(n₊ + 1)/2) / (n₊ n₋)      [Mann and Whitney]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from transformers import PreTrainedModel

from saes.factors import MIN_TOKENS
from workbench.errors import Failure, Misuse
from workbench.harvest import TOKENS_PER_BATCH
from workbench.site import checked_layer, read_resid_post
from workbench.tokens import TokenSet

DOWN = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "w2")  # what families call the way out of their MLP
UNITS_AT_ONCE = 64


def down_projection(model: PreTrainedModel, layer: int) -> nn.Module:
    """The module that reads a layer's neurons."""
    for name, module in checked_layer(model, layer).named_modules():
        if name.rpartition(".")[2] in DOWN and "attn" not in name and "attention" not in name:
            return module
    raise Misuse(
        f"{type(model).__name__} has no MLP whose way out is called {', '.join(DOWN)}: "
        "its neurons cannot be read"
    )


def harvest_neurons(
    model: PreTrainedModel,
    layer: int,
    token_set: TokenSet,
    wanted: Bool[np.ndarray, "token"],
    path: Path,
    report: Callable[[int], None] = lambda n: None,
) -> Float16[np.ndarray, "wanted neuron"]:
    """Write the neurons of the wanted tokens to `path`, in the set's order; returned as a memory map."""
    place = np.cumsum(wanted) - 1
    windows = np.flatnonzero(np.logical_or.reduceat(wanted, token_set.starts))
    seen: list[Tensor] = []
    hook = down_projection(model, layer).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    out: np.memmap | None = None
    try:
        for batch in token_set.batches(TOKENS_PER_BATCH, windows):
            seen.clear()
            read_resid_post(model, layer, torch.from_numpy(batch.ids).to(model.device))
            keep = batch.real & wanted[batch.rows]
            values = seen[0][:, 1:].cpu()[torch.from_numpy(keep)].half()
            if not torch.isfinite(values).all():
                raise Failure(f"neurons of layer {layer} are not finite in float16: its weights are broken")
            if out is None:
                shape = (int(wanted.sum()), values.shape[1])
                out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
            out[place[batch.rows[keep]]] = values.numpy()
            report(len(batch.ids))
    finally:
        hook.remove()
    if out is None:
        raise Failure("no held-out token is labelled with factors: neurons have nothing to be measured by")
    out.flush()
    return np.load(path, mmap_mode="r", allow_pickle=False)


def dense_aurocs(
    values: Float16[np.ndarray, "token unit"], labels: csr_matrix, inside: Bool[np.ndarray, "token"]
) -> Float[np.ndarray, "unit factor"]:
    """AUROC of every unit for every factor over the tokens `inside`; NaN where a factor is too rare."""
    labels = labels[np.flatnonzero(inside)].T.tocsr()
    positives = np.asarray(labels.sum(axis=1)).ravel()
    negatives = int(inside.sum()) - positives
    found = np.empty((values.shape[1], len(positives)))
    for start in range(0, values.shape[1], UNITS_AT_ONCE):
        block = np.asarray(values[:, start : start + UNITS_AT_ONCE])[inside]
        ranks = np.stack([midranks(column) for column in block.T], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            area = ((labels @ ranks).T - positives * (positives + 1) / 2) / (positives * negatives)
        found[start : start + UNITS_AT_ONCE] = area
    found[:, (positives < MIN_TOKENS) | (negatives < MIN_TOKENS)] = np.nan
    return found


def midranks(values: Float16[np.ndarray, "token"]) -> Float[np.ndarray, "token"]:
    """Ranks from 1, equal values sharing their mean, by counting each of the 65,536 values of float16."""
    bits = np.ascontiguousarray(values + np.float16(0)).view(np.uint16)  # + 0 makes −0 the 0 it equals
    key = np.where(bits & 0x8000, 0xFFFF - bits, bits | 0x8000)  # ordered as the numbers are
    counts = np.bincount(key, minlength=65_536)
    return (np.cumsum(counts) - (counts - 1) / 2)[key]
