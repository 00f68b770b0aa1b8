"""What a long step has worked out so far, kept in `resume/` of its draft until the artefact is whole.

A step that was interrupted goes on from there. A file stands under its name only when all of it is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def once(path: Path, make: Callable[[Path], None]) -> Path:
    """The file at `path`, made under another name and renamed in whole if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        make(temporary)
        temporary.replace(path)
    return path


def arrays_once(path: Path | None, make: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    """The arrays kept in `path` (.npz), made if it is not there; `None` keeps nothing."""
    if path is None:
        return make()

    def write(temporary: Path) -> None:
        with temporary.open("wb") as handle:
            np.savez(handle, allow_pickle=False, **make())

    with np.load(once(path, write), allow_pickle=False) as held:
        return dict(held)


def rows_once(path: Path, make: Callable[[], list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    """The rows kept in `path` (.json), made if it is not there."""

    def write(temporary: Path) -> None:
        temporary.write_text(json.dumps(make(), ensure_ascii=False), encoding="utf-8")

    return [tuple(row) for row in json.loads(once(path, write).read_text(encoding="utf-8"))]
