"""How far each matrix moved from one checkpoint to a later one, and in what way.

    moved           ‖ΔW‖_F / ‖W‖_F,   ΔW = W' − W
    cosine          ⟨W, W'⟩ / (‖W‖ ‖W'‖)
    effective rank  exp(−Σ p log p),   p = σ(ΔW) / Σ σ(ΔW)                [Roy & Vetterli 2007]
    top energy      Σ of the `TOP` largest σ(ΔW)² / ‖ΔW‖²: 1 for an update of few directions
    unchanged       share of numbers that are the same, as stored and after a cast to bfloat16
                    [Mukherjee 2025: RL updates 5 to 30 % of them, at nearly full rank]

Only parameters that both have, in one shape; vectors (norms, biases) have no rank. Everything in float64.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import Misuse

TOP = 8
_LAYER = re.compile(r"\.(\d+)\.")
SCHEMA: Mapping[str, Any] = {
    "parameter": pl.String, "layer": pl.Int64, "kind": pl.String, "n": pl.Int64, "moved": pl.Float64,
    "cosine": pl.Float64, "effective_rank": pl.Float64, "largest_rank": pl.Int64, "top_energy": pl.Float64,
    "unchanged": pl.Float64, "unchanged_bfloat16": pl.Float64, "change": pl.Float64, "size": pl.Float64,
}  # fmt: skip


class Place(NamedTuple):
    """Where a parameter stands: its layer (None outside of layers) and what it is there."""

    layer: int | None
    kind: str


def place(parameter: str) -> Place:
    """`model.layers.3.mlp.up_proj.weight` is `mlp.up_proj` of layer 3; `transformer.wte.weight` is `wte`."""
    name = parameter.removesuffix(".weight")
    if found := _LAYER.search(name):
        return Place(int(found[1]), name[found.end() :])
    return Place(None, name.split(".")[-1] if not name.endswith(".bias") else ".".join(name.split(".")[-2:]))


def weight_drift(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> pl.DataFrame:
    """A row a parameter (columns: `SCHEMA`); `change` is ‖ΔW‖_F and `size` ‖W‖_F."""
    shared = [n for n, w in before.items() if n in after and after[n].shape == w.shape]
    if not shared:
        raise Misuse("the two models have no parameter of one name and shape: their weights cannot be compared")
    return pl.DataFrame([_row(n, before[n], after[n]) for n in shared], schema=SCHEMA)


def apart(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Parameters that only one of the two has, or that differ in shape."""
    both = {n for n, w in before.items() if n in after and after[n].shape == w.shape}
    return sorted((before.keys() | after.keys()) - both)


def total_moved(drift: pl.DataFrame) -> float:
    """‖ΔW‖ / ‖W‖ over all parameters together."""
    change, size = (float((drift[name] ** 2).sum()) ** 0.5 for name in ("change", "size"))
    return change / size if size else 0.0


@torch.no_grad()
def _row(name: str, before: Tensor, after: Tensor) -> dict[str, Any]:
    first, second = before.double(), after.double()
    delta = second - first
    change, size, other = (float(w.norm()) for w in (delta, first, second))
    layer, kind = place(name)
    row = {
        "parameter": name,
        "layer": layer,
        "kind": kind,
        "n": first.numel(),
        "moved": change / size if size else None,
        "cosine": float((first * second).sum()) / (size * other) if size and other else None,
        "unchanged": float((before == after).double().mean()),
        "unchanged_bfloat16": float((before.bfloat16() == after.bfloat16()).double().mean()),
        "change": change,
        "size": size,
    }
    if first.ndim == 2:
        row |= {"largest_rank": min(first.shape)}
        if change:
            row |= dict(_spectrum(delta))
    return row


def _spectrum(delta: Float[Tensor, "out in"]) -> Iterator[tuple[str, float]]:
    small = delta if delta.shape[0] >= delta.shape[1] else delta.T
    energy = torch.linalg.eigvalsh(small.T @ small).clamp_min(0).flip(0)
    sigma = energy.sqrt()
    share = sigma / sigma.sum()
    yield "effective_rank", float(torch.exp(-torch.special.xlogy(share, share).sum()))
    yield "top_energy", float(energy[:TOP].sum() / energy.sum())
