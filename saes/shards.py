"""A long array on disk in pieces: `heldout.npy`, or `heldout-00000-of-00003.npy` and so on, rows in order.

The path that names a set is that of the single file; where it is missing its shards are looked for. Pieces may
hold different numbers of rows. `ArrayWriter` writes one piece, rows in any order, without mapping it: the
memory of a process that writes does not grow, and a disk that fills up is an error, not a signal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy.lib import format as npy

from saes.errors import DictionaryError

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.npy")
_KINDS = ("float32", "float16", "uint16")


def shard_paths(path: Path, n: int) -> list[Path]:
    """Where a set named `path` lies in `n` pieces: one is the path itself."""
    if n == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{i:05d}-of-{n:05d}.npy") for i in range(n)]


def set_names(files: Iterable[Path]) -> list[Path]:
    """The sets that these files belong to, each once, in the files' order."""
    return list(dict.fromkeys(_set_of(file) for file in files))


def _set_of(file: Path) -> Path:
    found = _SHARD.fullmatch(file.name)
    return file.with_name(f"{found['stem']}.npy") if found else file


def pieces_of(path: Path) -> list[Path]:
    """The files of a set, in order; refuses one that lacks a piece."""
    if path.exists():
        return [path]
    found = [p for p in path.parent.glob(f"{path.stem}-*-of-*.npy") if _set_of(p) == path]
    if not found:
        raise DictionaryError(f"{path} does not exist")
    totals = {int(p.stem.rsplit("-", 1)[1]) for p in found}
    if len(totals) > 1:
        raise DictionaryError(f"{path} lies in pieces of different sets ({sorted(totals)}); keep one of them")
    wanted = shard_paths(path, totals.pop())
    lacking = [p.name for p in wanted if p not in found]
    if lacking:
        raise DictionaryError(
            f"{path} lacks {', '.join(lacking[:3])} of its {len(wanted)} pieces; harvest it again"
        )
    return wanted


class ShardedArray:
    """Memory-mapped pieces `[token, d]`, read by row number as if they were one array."""

    def __init__(self, path: Path) -> None:
        self.parts = [_open(piece) for piece in pieces_of(path)]
        if len({(part.shape[1], part.dtype) for part in self.parts}) > 1:
            found = ", ".join(f"{part.shape} {part.dtype}" for part in self.parts)
            raise DictionaryError(f"the pieces of {path} are of different kinds ({found}); harvest it again")
        self.starts = np.cumsum([0] + [len(part) for part in self.parts])

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.starts[-1]), self.parts[0].shape[1]

    @property
    def dtype(self) -> np.dtype:
        return self.parts[0].dtype

    def __getitem__(self, rows: Int[np.ndarray, " row"]) -> np.ndarray:
        if len(self.parts) == 1:
            return self.parts[0][rows]
        rows = np.asarray(rows)
        if rows.size and not 0 <= rows.min() <= rows.max() < self.starts[-1]:
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {self.starts[-1]}")
        which = np.searchsorted(self.starts, rows, side="right") - 1
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        for number in np.unique(which):
            own = which == number
            out[own] = self.parts[number][rows[own] - self.starts[number]]
        return out


def _open(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DictionaryError(f"{path} does not exist") from None
    except (ValueError, EOFError, OSError) as error:
        raise DictionaryError(f"{path} is not a whole .npy array ({error})") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise DictionaryError(f"{path} is an archive of arrays; give one .npy file a model")
    if array.ndim != 2 or array.dtype.name not in _KINDS or 0 in array.shape:
        raise DictionaryError(
            f"{path} holds {array.dtype} of shape {array.shape}; "
            "expected [token, d] in float32, float16, or bfloat16 as uint16"
        )
    return array


def open_mask(path: Path, n_rows: int) -> np.ndarray:
    """A bool [token] array that belongs to `n_rows` rows of activations."""
    try:
        mask = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DictionaryError(f"{path} cannot be read as a mask ({error})") from None
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (n_rows,):
        found = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else "an archive"
        raise DictionaryError(f"{path} holds {found}; expected bool ({n_rows},), one a row of the activations")
    return np.asarray(mask)


class ArrayWriter:
    """Writes a `[token, d]` .npy, rows in any order; with `resume` it goes on in the file that is there."""

    def __init__(self, path: Path, shape: tuple[int, int], dtype: type, resume: bool = False) -> None:
        self.row_bytes = shape[1] * np.dtype(dtype).itemsize
        self.dtype, self.file = np.dtype(dtype), path.open("r+b" if resume else "w+b")
        if resume:
            npy.read_magic(self.file)
            npy.read_array_header_1_0(self.file)
        else:
            header = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(self.file, header)
        self.offset = self.file.tell()
        self.file.truncate(self.offset + shape[0] * self.row_bytes)

    def put(self, row: int, values: np.ndarray) -> None:
        """Write consecutive rows, the first of them at `row`."""
        self.file.seek(self.offset + row * self.row_bytes)
        self.file.write(np.ascontiguousarray(values, self.dtype).data.cast("B"))

    def flush(self) -> None:
        """Return when everything written is on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()
