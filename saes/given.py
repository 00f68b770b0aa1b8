"""What the command line reads: arrays, a transcoder's target, and which rows of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from saes.arrays import ActivationArrays, Activations, Part
from saes.errors import DictionaryError
from saes.shards import open_mask, set_names

KINDS = ("sae", "crosscoder", "transcoder")


class Data(NamedTuple):
    """What is read, a transcoder's target, and the files of what is read."""

    activations: Activations
    targets: Activations | None
    paths: list[Path]

    @property
    def written(self) -> Activations:
        """What is to be written: the target, else what is read."""
        return self.activations if self.targets is None else self.targets

    def shapes(self) -> list[list[int]]:
        """[model, d] of each of its parts."""
        parts = [self.activations] if self.targets is None else [self.activations, self.targets]
        return [list(part[np.zeros(1, dtype=np.int64)].shape[1:]) for part in parts]


def open_data(sources: Iterable[Path], target: Path | None, exclude: Path | None) -> Data:
    """The arrays, and the target if there is one, without the rows that the mask `exclude` marks."""
    arrays = ActivationArrays(files_of(sources))
    targets = None if target is None else ActivationArrays([target])
    if exclude is None:
        return Data(arrays, targets, arrays.paths)
    rows = np.flatnonzero(~open_mask(exclude, len(arrays)))
    if not len(rows):
        raise DictionaryError(f"{exclude} marks every row: nothing is left to read")
    if targets is not None and len(targets) != len(arrays):
        raise DictionaryError(f"{target} has {len(targets)} rows and the activations {len(arrays)}: equal them")
    return Data(Part(arrays, rows), None if targets is None else Part(targets, rows), arrays.paths)


def check_kind(kind: str, data: Data) -> None:
    """Refuse a `kind` that the arrays do not make."""
    if kind and kind not in KINDS:
        raise DictionaryError(f"there is no kind {kind!r}: choose {', '.join(KINDS)}")
    made = "transcoder" if data.targets is not None else "sae" if len(data.paths) == 1 else "crosscoder"
    if kind and kind != made:
        wants = {"sae": "one array", "crosscoder": "several arrays", "transcoder": "one array and a --target"}
        raise DictionaryError(f"a {kind} takes {wants[kind]}; what was given makes a {made}")


def like(data: Data, others: Data) -> Data:
    """`others`, if they hold as many models of the same width."""
    if data.shapes() != others.shapes():
        raise DictionaryError(
            f"{others.paths[0]} and what belongs to it are [model, d] {others.shapes()}, "
            f"the activations {data.shapes()}; they have to be of one kind"
        )
    return others


def files_of(sources: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        inside = set_names(sorted(source.glob("*.npy"))) if source.is_dir() else [source]
        if not inside:
            raise DictionaryError(f"{source} holds no .npy file; give activation arrays or a folder of them")
        found += inside
    return found
