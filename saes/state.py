"""What a training run is between two steps, and how it is written down so that a killed run continues bit for
bit.

One safetensors file holds weights, Adam's moments and the silence counters; position, configuration and the
selection bound are JSON in its header, so that one atomic rename replaces all of it. The order of the batches
depends on (seed, epoch) alone and nothing else is drawn after the start: there is no random state to save.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saes.calibrate import Units
from saes.errors import DictionaryError
from saes.sparse import BatchTopK

FILE = "state.safetensors"
WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")


@dataclass
class State:
    """Mutable, owned by one running generator; weights in normalised units, `[latent, model·d]`."""

    step: int
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    silent_steps: Tensor
    units: Units
    optimizer: torch.optim.Adam
    select: BatchTopK

    @property
    def weights(self) -> list[Tensor]:
        return [getattr(self, name) for name in WEIGHTS]


def write_state(state: State, folder: Path | str, identity: dict[str, Any]) -> Path:
    """Replace the state in `folder` atomically. `identity` (configuration, data shape) is checked on
    resume."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: getattr(state, name).detach() for name in WEIGHTS}
    tensors |= {"silent_steps": state.silent_steps, "mean": state.units.mean, "scales": state.units.scales}
    for name in WEIGHTS:
        for moment, value in state.optimizer.state[getattr(state, name)].items():
            tensors[f"adam.{name}.{moment}"] = value
    header = {"step": state.step, "bound": state.select.bound.hex(), "identity": identity}
    partial = folder / f".{FILE}.partial"
    save_file(
        {k: v.cpu().contiguous().clone() for k, v in tensors.items()}, partial, {"marble": json.dumps(header)}
    )
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(folder / FILE)
    return folder / FILE


@dataclass(frozen=True)
class Saved:
    """What a state file holds, checked against the run that wants to continue it."""

    step: int
    bound: float
    tensors: dict[str, Tensor]


def read_state(path: Path | str, identity: dict[str, Any], device: str) -> Saved:
    """`path`: the file, or the folder it lies in."""
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise DictionaryError(f"there is no training state at {path}; start the run without resume")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            header = json.loads(file.metadata()["marble"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise DictionaryError(
            f"{path} is truncated or not a training state; start the run without resume"
        ) from None
    then, now = header["identity"], json.loads(json.dumps(identity))
    changed = [f"{k} was {then.get(k)}, is {now[k]}" for k in now if then.get(k) != now[k]]
    if changed:
        raise DictionaryError(f"{path} belongs to another run ({'; '.join(changed)}); start without resume")
    return Saved(header["step"], float.fromhex(header["bound"]), tensors)


def restore_moments(state: State, tensors: dict[str, Tensor]) -> None:
    """Put Adam's moments back; the step counter stays where fused Adam wants it, beside the weights."""
    for name in WEIGHTS:
        prefix = f"adam.{name}."
        moments = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if moments:
            state.optimizer.state[getattr(state, name)] = moments
