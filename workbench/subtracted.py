"""Builds what one checkpoint's activations have more than another's at the same tokens: a_later − a_earlier.

A difference dictionary is an SAE of these [difference-SAE, METHODS of model diffing]: what both checkpoints hold
alike is not there to be explained. Rows, files and figures are as those of `workbench.activations`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from saes.arrays import ActivationArrays
from saes.shards import ArrayWriter, pieces_of
from workbench.dictionary_folder import dictionary_sentences
from workbench.grow import Build
from workbench.harvest import STORED
from workbench.tokens import SETS

ROWS_AT_ONCE = 65_536


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `activations/<later>-minus-<earlier>…`; the parents are the later ones, then the earlier ones."""
    later, earlier = build.parents.values()
    dtype = later.figures["dtype"]
    build.progress.start(sum(later.figures["tokens"].values()), "tokens", label=build.step.name)
    for name in SETS:
        with dictionary_sentences(build.step.name):
            pair = ActivationArrays([each.path / f"{name}.npy" for each in (later, earlier)])
        first = 0
        for piece, array in zip(pieces_of(later.path / f"{name}.npy"), pair.arrays[0].parts, strict=True):
            writer = ArrayWriter(build.draft.path / piece.name, array.shape, STORED[dtype])
            try:
                for start in range(0, len(array), ROWS_AT_ONCE):
                    rows = np.arange(start, min(start + ROWS_AT_ONCE, len(array)))
                    both = pair[first + rows]
                    writer.put(start, _as_stored(both[:, 0] - both[:, 1], dtype))
                    build.progress.advance(len(rows))
            finally:
                writer.close()
            first += len(array)
    return dict(later.figures)


def _as_stored(difference: torch.Tensor, dtype: str) -> np.ndarray:
    cast = difference.to(getattr(torch, dtype))
    return cast.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else cast.numpy()
