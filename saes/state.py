"""How training runs are written down so that killed ones continue bit for bit.

One safetensors file holds the tensors of all that train together; position, configurations and notes are JSON
in its header, so that one atomic rename replaces all of it. The order of the batches depends on (seed, epoch)
alone and nothing else is drawn after the start: there is no random state to save.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saes.errors import StateError
from saes.run import Run

FILE = "state.safetensors"


def write_states(runs: Sequence[Run], folder: Path | str, identity: dict[str, Any]) -> Path:
    """Replace the states in `folder` atomically. `identity` (configurations, data shape) is checked on
    resume."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{i}.{key}": value for i, run in enumerate(runs) for key, value in run.tensors().items()}
    header = {"step": runs[0].step, "notes": [run.note() for run in runs], "identity": identity}
    partial = folder / f".{FILE}.partial"
    save_file(
        {k: v.cpu().contiguous().clone() for k, v in tensors.items()}, partial, {"marble": json.dumps(header)}
    )
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(folder / FILE)
    return folder / FILE


@dataclass(frozen=True)
class RunState:
    """What a state file holds of one run."""

    tensors: dict[str, Tensor]
    note: dict[str, Any]


@dataclass(frozen=True)
class Saved:
    """What a state file holds, checked against what wants to continue it."""

    step: int
    runs: list[RunState]


def read_states(path: Path | str, identity: dict[str, Any], device: str) -> Saved:
    """`path`: the file, or the folder it lies in."""
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise StateError(f"there is no training state at {path}; start the run without resume")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            header = json.loads(file.metadata()["marble"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            then, step, notes = header["identity"], header["step"], header["notes"]
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise StateError(f"{path} is truncated or not a training state; start the run without it") from None
    changed = list(_differences(then, json.loads(json.dumps(identity))))
    if changed:
        raise StateError(f"{path} belongs to another run ({'; '.join(changed)}); start the run without it")
    own = [
        {key.removeprefix(f"{i}."): t for key, t in tensors.items() if key.startswith(f"{i}.")}
        for i in range(len(notes))
    ]
    return Saved(step, [RunState(*of) for of in zip(own, notes, strict=True)])


def _differences(then: Any, now: Any, where: str = "") -> Iterator[str]:
    """Where two JSON values differ, innermost."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**then, **now}:
            yield from _differences(then.get(key), now.get(key), key)
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for one, other in zip(then, now, strict=True):
            yield from _differences(one, other, where)
    elif then != now:
        yield f"{where} was {then}, is {now}"
