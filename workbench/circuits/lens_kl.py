"""How far what a layer says is from what the model says, through one lens and another.

    KL_l = Σ_t KL(p_t ‖ softmax(lens_l(x_t))) / tokens        on held-out text, interval over documents

Lenses are read side by side on the same tokens: none (logit lens), the checkpoint's own tuned lens, one that was
fitted on an earlier checkpoint. `above` is the difference of two, document by document.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedModel

from workbench.circuits.tuned_lens import TunedLens, kl, read_layers, read_through
from workbench.harvest import TOKENS_PER_BATCH
from workbench.intervals import ratio_intervals
from workbench.splice import tokens_per_batch
from workbench.tokens import TokenSet

TOKENS = 24_000  # of the held-out set
LOGIT_LENS = "logit lens"
MOST_DECADES = 4


def ladder(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from `low` to `high`, for a logarithmic axis; the powers alone where there are
    many.

    >>> ladder(0.15, 3.0), ladder(0.02, 3e3)
    ([0.2, 0.5, 1.0, 2.0], [0.1, 1.0, 10.0, 100.0, 1000.0])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    many = math.log10(high / low) > MOST_DECADES
    every = (float(f"{step}e{power}") for power in powers for step in ((1,) if many else (1, 2, 5)))
    return [each for each in every if low <= each <= high]


class LayerKl(NamedTuple):
    """Nats a token by row (the embedding, each block), with the interval over documents."""

    row: str
    kl: float
    low: float
    high: float
    tokens: int
    documents: int


@dataclasses.dataclass(frozen=True)
class LensKl:
    """Sums over the tokens of each document. The last row is the model's own prediction: 0."""

    rows: tuple[str, ...]
    nats: Mapping[str, Float[np.ndarray, "document row"]]
    tokens: Float[np.ndarray, "document"]

    def by_layer(self, lens: str) -> list[LayerKl]:
        """KL through one lens."""
        return self._told(self.nats[lens])

    def above(self, lens: str, other: str) -> list[LayerKl]:
        """How much more KL is left through `lens` than through `other`."""
        return self._told(self.nats[lens] - self.nats[other])

    def _told(self, nats: Float[np.ndarray, "document row"]) -> list[LayerKl]:
        means, ends = nats.sum(axis=0) / self.tokens.sum(), ratio_intervals(nats, self.tokens)
        counts = int(self.tokens.sum()), len(self.tokens)
        return [
            LayerKl(row, float(mean), float(low), float(high), *counts)
            for row, mean, (low, high) in zip(self.rows, means, ends, strict=True)
        ]


@torch.inference_mode()
def lens_kl(
    model: PreTrainedModel,
    token_set: TokenSet,
    lenses: Mapping[str, TunedLens],
    tokens: int = TOKENS,
    seed: int = 0,
    report: Callable[[int], None] = lambda tokens: None,
) -> LensKl:
    """KL by layer through each of `lenses`, and through none, on windows drawn from `token_set`. `report` is told
    the tokens of each batch."""
    windows = token_set.sample_windows(tokens, seed)
    all_lenses = {name: lens.checked_for(model) for name, lens in lenses.items()}
    rows: list[str] = []
    found: dict[str, list[np.ndarray]] = {name: [] for name in (LOGIT_LENS, *all_lenses)}
    places = []
    for batch in token_set.batches(min(TOKENS_PER_BATCH, tokens_per_batch(model)), windows):
        streams, log_p = read_layers(model, batch)
        rows = ["embedding", *(f"block {layer}" for layer in range(len(streams) - 1))]
        plain = TunedLens.logit_lens(len(streams) - 1, streams[0].shape[-1]).checked_for(model)
        for name, lens in {LOGIT_LENS: plain, **all_lenses}.items():
            read = [kl(log_p, read_through(model, lens(layer, x))) for layer, x in enumerate(streams)]
            found[name].append(torch.stack(read, dim=1).double().cpu().numpy())
        places.append(batch.rows[batch.real])
        report(len(log_p))
    of, document = np.unique(np.asarray(token_set.document)[np.concatenate(places)], return_inverse=True)
    nats = {name: _by_document(np.concatenate(parts), document, len(of)) for name, parts in found.items()}
    return LensKl(tuple(rows), nats, np.bincount(document, minlength=len(of)).astype(float))


def _by_document(
    values: Float[np.ndarray, "token row"], document: np.ndarray, n: int
) -> Float[np.ndarray, "document row"]:
    sums = np.zeros((n, values.shape[1]))
    np.add.at(sums, document, values)
    return sums
