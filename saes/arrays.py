"""Activations on disk, and the order in which a training run reads them.

One .npy a model, `[token, d]`, in one file or in shards (`saes.shards`), float32, float16 or bfloat16 (stored
as its uint16 bits), the same tokens in the same order in each. Shuffling is of indices: blocks of neighbouring
rows are dealt into buffers, a buffer is read in file order and shuffled in memory. The order depends on
(seed, epoch) alone, so a resumed run finds its place by counting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes.errors import DictionaryError
from saes.shards import ShardedArray

BLOCK_ROWS = 64
BUFFER_ROWS = 65_536


@runtime_checkable
class Activations(Protocol):
    """What a dictionary is trained on: rows by index, every model at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray) -> Float[Tensor, "token model d"]: ...


class ActivationArrays:
    """Memory-mapped `[token, d]` arrays, one a model, read as `[token, model, d]` float32."""

    def __init__(self, paths: Sequence[Path | str]):
        if not paths:
            raise DictionaryError("no activation array was given; name one .npy file a model")
        self.paths = [Path(p) for p in paths]
        self.arrays = [ShardedArray(p) for p in self.paths]
        shapes = {a.shape for a in self.arrays}
        if len(shapes) > 1:
            found = ", ".join(f"{p.name} {a.shape}" for p, a in zip(self.paths, self.arrays, strict=True))
            raise DictionaryError(
                f"activation arrays differ in shape ({found}); they have to hold the same tokens"
            )

    def __len__(self) -> int:
        return self.arrays[0].shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self), len(self.arrays), self.arrays[0].shape[1]

    def __getitem__(self, rows: np.ndarray) -> Float[Tensor, "token model d"]:
        return torch.stack([_float32(a[rows]) for a in self.arrays], dim=1)


class TensorActivations:
    """The same, from a tensor that is already in memory."""

    def __init__(self, tensor: Float[Tensor, "token model d"]):
        self.tensor = tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, rows: np.ndarray) -> Float[Tensor, "token model d"]:
        return self.tensor.index_select(0, torch.from_numpy(np.asarray(rows)).to(self.tensor.device)).float()


class Part:
    """Some rows of larger activations, as activations."""

    def __init__(self, activations: Activations, rows: Int[np.ndarray, " row"]) -> None:
        self._activations, self._rows = activations, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: np.ndarray) -> Float[Tensor, "token model d"]:
        return self._activations[self._rows[rows]]


class Paired:
    """What a transcoder reads and what it is to write, side by side: `[token, model, d + d_out]`."""

    def __init__(self, inputs: Activations, targets: Activations) -> None:
        if len(inputs) != len(targets):
            raise DictionaryError(
                f"there are {len(inputs)} rows of inputs and {len(targets)} of targets; "
                "they have to be the same tokens"
            )
        self._inputs, self._targets = inputs, targets

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, rows: np.ndarray) -> Float[Tensor, "token model both"]:
        return torch.cat([self._inputs[rows], self._targets[rows]], dim=2)


class Rows(NamedTuple):
    """A buffer of activations and the row each came from."""

    x: Float[Tensor, "token model d"]
    rows: np.ndarray


def read(activations: Activations, rows: np.ndarray) -> Float[Tensor, "token model d"]:
    """The rows as a tensor; refuses anything that is not a number and says where it is."""
    x = torch.as_tensor(activations[rows])
    bad = ~torch.isfinite(x.sum(dim=(1, 2)))
    if bad.any():
        where = sorted(int(r) for r in rows[bad.nonzero().squeeze(1).cpu().numpy()])
        more = f" and {len(where) - 5} more" if len(where) > 5 else ""
        shown = ", ".join(map(str, where[:5]))
        raise DictionaryError(
            f"activations are not finite in row {shown}{more}; harvest them again or drop those rows"
        )
    return x


def in_order(activations: Activations, chunk: int = 8192, limit: int | None = None) -> Iterator[Rows]:
    """All rows (or the first `limit`) in file order."""
    n = len(activations) if limit is None else min(limit, len(activations))
    for start in range(0, n, chunk):
        rows = np.arange(start, min(n, start + chunk))
        yield Rows(read(activations, rows), rows)


def spread(activations: Activations, n: int) -> np.ndarray:
    """About n row numbers in blocks spread evenly over the set, ascending."""
    total = len(activations)
    if n >= total:
        return np.arange(total)
    blocks = max(1, n // BLOCK_ROWS)
    starts = np.linspace(0, total - min(BLOCK_ROWS, total), blocks).astype(np.int64)
    rows = (starts[:, None] + np.arange(min(BLOCK_ROWS, total))).ravel()
    return np.unique(rows)


def shuffled_buffers(n_rows: int, seed: int) -> Iterator[np.ndarray]:
    """Row numbers without end, a buffer at a time; each epoch names every row once."""
    epoch = 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        blocks = rng.permutation(-(-n_rows // BLOCK_ROWS))
        per_buffer = BUFFER_ROWS // BLOCK_ROWS
        for start in range(0, len(blocks), per_buffer):
            rows = (blocks[start : start + per_buffer, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).ravel()
            yield rng.permutation(rows[rows < n_rows])
        epoch += 1


def shuffled_batches(
    activations: Activations, batch_size: int, seed: int, start: int = 0
) -> Iterator[Float[Tensor, "token model d"]]:
    """Batches `start`, `start + 1`, … of the endless shuffled order."""
    skip = start * batch_size
    left: Tensor | None = None
    for rows in shuffled_buffers(len(activations), seed):
        if skip >= len(rows):
            skip -= len(rows)
            continue
        rows, skip = rows[skip:], 0
        order = np.argsort(rows)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        buffer = read(activations, rows[order])
        position = torch.from_numpy(back).to(buffer.device)
        at = 0
        if left is not None:
            at = min(batch_size - len(left), len(rows))
            left = torch.cat([left, buffer[position[:at]]])
            if len(left) < batch_size:
                continue
            yield left
        while at + batch_size <= len(rows):
            yield buffer.index_select(0, position[at : at + batch_size])
            at += batch_size
        left = buffer[position[at:]] if at < len(rows) else None


def _float32(array: np.ndarray) -> Tensor:
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).float()
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
