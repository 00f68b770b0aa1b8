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


def passes(
    stream_length: int, n_windows: int, span: int, rng: np.random.Generator
) -> Int[np.ndarray, "window"]:
    """Starting points of `n_windows` windows of `span` tokens: shuffled passes, each with its own shift."""
    starts: list[NDArray[np.int64]] = []
    total = 0
    while total < n_windows:
        pass_ = np.arange(rng.integers(span), stream_length - span, span)
        rng.shuffle(pass_)
        starts.append(pass_)
        total += len(pass_)
    return np.concatenate(starts)[:n_windows]


class MixedWindows(Dataset[dict[str, torch.Tensor]]):
    """`n_windows` windows of prose and world tokens, interleaved at random by `seed`.

    prose, world: token streams `[token]`; `prose_share` of the windows are prose.
    Items are `{"input_ids": [n_ctx], "labels": [n_ctx]}`.
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
    ) -> None:
        rng = np.random.default_rng(seed)
        span = n_ctx - 1
        n_prose = round(prose_share * n_windows) if len(world) else n_windows
        self._stream = torch.from_numpy(np.concatenate([prose, world]).astype(np.int64))
        starts = np.concatenate(
            [
                passes(len(prose), n_prose, span, rng),
                passes(len(world), n_windows - n_prose, span, rng) + len(prose),
            ]
        )
        rng.shuffle(starts)
        self._starts, self._span, self._bos = starts, span, bos

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        start = int(self._starts[i])
        ids = torch.empty(self._span + 1, dtype=torch.int64)
        ids[0] = self._bos
        ids[1:] = self._stream[start : start + self._span]
        return {"input_ids": ids, "labels": ids}
