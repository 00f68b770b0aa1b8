"""Fixed windows of tokens for next-token training: which tokens each batch holds is a function of the seed.

Documents are joined, each led by BOS. A window is BOS and the `n_ctx - 1` tokens that follow a starting
point. Every pass over a stream shifts its starting points, so that no two passes cut it alike.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch.utils.data import Dataset

from workbench.errors import Misuse


def passes(
    stream_length: int, n_windows: int, span: int, rng: np.random.Generator
) -> Int[np.ndarray, "window"]:
    """Starting points of `n_windows` windows of `span` tokens: shuffled passes, each with its own shift."""
    starts: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    total = 0
    while total < n_windows:
        pass_ = np.arange(rng.integers(span), stream_length - span, span)
        rng.shuffle(pass_)
        starts.append(pass_)
        total += len(pass_)
    return np.concatenate(starts)[:n_windows]


def prose_places(n_windows: int, share: float, first: float) -> NDArray[np.bool_]:
    """Which of `n_windows` are prose: `first` of them at the start, changing linearly so that `share` of all are.
    They are spread evenly, so that batches next to each other hold as much of it as each other."""
    last = 2 * share - first
    if not (0 <= first <= 1 and 0 <= last <= 1):
        raise Misuse(
            f"prose_first {first:g} with prose_share {share:g} would end at {last:g}: choose them so that the "
            "share stays between 0 and 1"
        )
    t = np.arange(n_windows + 1) / n_windows
    until = np.floor(n_windows * (first * t + (share - first) * t**2) + 0.5)
    return np.diff(until) > 0


class MixedWindows(Dataset[dict[str, torch.Tensor]]):
    """`n_windows` windows of prose and world tokens, in an order that `seed` decides.

    prose, world: token streams `[token]`; `prose_share` of the windows are prose, `prose_first` of those at the
    start (see `prose_places`). Items are `{"input_ids": [n_ctx], "labels": [n_ctx]}`.
    """

    def __init__(
        self,
        prose: NDArray[np.int32],
        world: NDArray[np.int32],
        n_windows: int,
        n_ctx: int,
        prose_share: float,
        bos: int,
        seed: int,
        prose_first: float | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        span = n_ctx - 1
        is_prose = prose_places(n_windows, prose_share, prose_share if prose_first is None else prose_first)
        is_prose |= len(world) == 0
        n_prose = int(is_prose.sum())
        self._stream = torch.from_numpy(np.concatenate([prose, world]).astype(np.int64))
        starts = np.empty(n_windows, dtype=np.int64)
        starts[is_prose] = passes(len(prose), n_prose, span, rng)
        starts[~is_prose] = passes(len(world), n_windows - n_prose, span, rng) + len(prose)
        self._starts, self._span, self._bos = starts, span, bos

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        start = int(self._starts[i])
        ids = torch.empty(self._span + 1, dtype=torch.int64)
        ids[0] = self._bos
        ids[1:] = self._stream[start : start + self._span]
        return {"input_ids": ids, "labels": ids}
