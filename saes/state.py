"""What training runs are between two steps, and how they are written down so that a killed run continues bit
for bit.

One safetensors file holds weights, Adam's moments and the silence counters of all that train together;
position, configurations and the selection bounds are JSON in its header, so that one atomic rename replaces
all of it. The order of the batches depends on (seed, epoch) alone and nothing else is drawn after the start:
there is no random state to save.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saes.calibrate import Units
from saes.errors import DictionaryError
from saes.sparse import BatchTopK, TopK

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
    select: BatchTopK | TopK

    @property
    def weights(self) -> list[Tensor]:
        return [getattr(self, name) for name in WEIGHTS]


def write_states(states: Sequence[State], folder: Path | str, identity: dict[str, Any]) -> Path:
    """Replace the states in `folder` atomically. `identity` (configurations, data shape) is checked on
    resume."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{i}.{key}": value for i, state in enumerate(states) for key, value in _tensors(state).items()}
    bounds = [state.select.bound.hex() for state in states]
    header = {"step": states[0].step, "bounds": bounds, "identity": identity}
    partial = folder / f".{FILE}.partial"
    save_file(
        {k: v.cpu().contiguous().clone() for k, v in tensors.items()}, partial, {"marble": json.dumps(header)}
    )
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(folder / FILE)
    return folder / FILE


def _tensors(state: State) -> dict[str, Tensor]:
    tensors = {name: getattr(state, name).detach() for name in WEIGHTS}
    tensors |= {"silent_steps": state.silent_steps, "mean": state.units.mean, "scales": state.units.scales}
    for name in WEIGHTS:
        for moment, value in state.optimizer.state[getattr(state, name)].items():
            tensors[f"adam.{name}.{moment}"] = value
    return tensors


@dataclass(frozen=True)
class Saved:
    """What a state file holds of one run, checked against what wants to continue it."""

    step: int
    bound: float
    tensors: dict[str, Tensor]


def read_states(path: Path | str, identity: dict[str, Any], device: str) -> list[Saved]:
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
    return [
        Saved(
            header["step"],
            float.fromhex(bound),
            {key.removeprefix(f"{i}."): t for key, t in tensors.items() if key.startswith(f"{i}.")},
        )
        for i, bound in enumerate(header["bounds"])
    ]


def restore_moments(state: State, tensors: dict[str, Tensor]) -> None:
    """Put Adam's moments back; the step counter stays where fused Adam wants it, beside the weights."""
    for name in WEIGHTS:
        prefix = f"adam.{name}."
        moments = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if moments:
            state.optimizer.state[getattr(state, name)] = moments
