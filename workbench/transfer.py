"""Transfer matrix: an SAE trained on checkpoint i, put to checkpoint j's held-out activations.

    FVU, L0, dead share, CE score and KL of SAE_i on j's stream, for every i and j, on the same tokens

[METHODS 2; reused: `saes.heldout`, `workbench.splice`]. The SAE is taken as it is: its own bias, its own scale and
its inference thresholds are kept, and j's stream is given to it raw, not rescaled. `scale` says how much larger j's
stream is than i's (root of the mean variance of a coordinate). Chat markers count in nothing. CE scores are against
zero and against j's mean (over the dictionary set); they hold predictions against the text, and an SAE that gives
back what a stage forgot predicts the text better than the stage does: `kl`, KL(clean‖spliced) in nats a token,
is about what the checkpoint itself predicts. The tokens are a sample: fewer than a dead share is usually
counted on, so that it is larger than in the SAE's own figures, for every cell alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from transformers import PreTrainedModel

from saes.arrays import Activations, Part
from saes.calibrate import Units
from saes.dictionary import Dictionary
from saes.heldout import heldout_sums
from workbench.dictionary_scores import MEAN, ZERO, ablations, reconstruction
from workbench.intervals import ratio_interval, wilson
from workbench.points import Site
from workbench.splice import spliced_nats
from workbench.tokens import TokenSet

TOKENS = 12_000  # for FVU, L0 and dead share
SPLICED_TOKENS = 2_000  # for CE scores, which cost a forward pass each
FIGURES = ("fvu", "kl", "ce_score", "ce_score_mean", "l0", "dead_share", "scale")
SCHEMA: Mapping[str, Any] = {
    "sae": pl.String, "checkpoint": pl.String, "figure": pl.String, "value": pl.Float64, "low": pl.Float64,
    "high": pl.Float64, "n": pl.Int64,
}  # fmt: skip


class Stream(NamedTuple):
    """A checkpoint: its held-out activations, their mean and scale on the dictionary set, its model."""

    heldout: Activations
    units: Units
    load: Callable[[], PreTrainedModel]


def transfer(
    saes: Mapping[str, Dictionary],
    streams: Mapping[str, Stream],
    tokens: TokenSet,
    site: Site,
    report: Callable[[int], None] = lambda n: None,
    n_tokens: int = TOKENS,
    n_spliced: int = SPLICED_TOKENS,
) -> pl.DataFrame:
    """A row for each SAE (by the checkpoint that it was trained on), checkpoint and figure; `report` is told the
    tokens read."""
    rows = [
        (*cell, *figure)
        for name, stream in streams.items()
        for cell, figure in (
            *_reconstructed(saes, streams, name, tokens, report, n_tokens),
            *_spliced(saes, name, stream, tokens, site, report, n_spliced),
        )
    ]
    return pl.DataFrame(rows, schema=dict(SCHEMA), orient="row")


Row = tuple[tuple[str, str], tuple[str, float, float, float, int]]


def _reconstructed(
    saes: Mapping[str, Dictionary],
    streams: Mapping[str, Stream],
    checkpoint: str,
    tokens: TokenSet,
    report: Callable[[int], None],
    n_tokens: int,
) -> Iterator[Row]:
    rows = tokens.rows_of(tokens.sample_windows(n_tokens, seed=6))
    read, size = Part(streams[checkpoint].heldout, rows), streams[checkpoint].units.scales
    _, document = np.unique(np.asarray(tokens.document)[rows], return_inverse=True)
    counted = ~np.asarray(tokens.special)[rows]
    for name, sae in saes.items():
        cell = (name, checkpoint)
        sums = heldout_sums(sae, read, document, counted, report)
        fvu, l0 = sums.fvu(0), sums.l0()
        dead = wilson(int((~sums.alive).sum()), sae.n_latents)
        yield cell, ("fvu", fvu.value, *ratio_interval(*fvu), sums.n_tokens)
        yield cell, ("l0", l0.value, *ratio_interval(*l0), sums.n_tokens)
        yield cell, ("dead_share", sums.dead_share, *dead, sums.n_tokens)
        larger = float(size.item() / streams[name].units.scales.item())
        yield cell, ("scale", larger, float("nan"), float("nan"), sums.n_tokens)


def _spliced(
    saes: Mapping[str, Dictionary],
    checkpoint: str,
    stream: Stream,
    tokens: TokenSet,
    site: Site,
    report: Callable[[int], None],
    n_spliced: int,
) -> Iterator[Row]:
    variants = ablations(stream.units.mean[0])
    variants |= {f"sae {name}": reconstruction(sae, stream.heldout, 0) for name, sae in saes.items()}
    windows = tokens.sample_windows(n_spliced, seed=0)
    counted = ~np.asarray(tokens.special)
    found = spliced_nats(stream.load(), site, tokens, windows, variants, report, counted=counted)
    n = int(found.n_tokens.sum())
    for name in saes:
        apart = found.mean_kl(f"sae {name}"), *found.kl_interval(f"sae {name}")
        yield (name, checkpoint), ("kl", *apart, n)
        for figure, floor in (("ce_score", ZERO), ("ce_score_mean", MEAN)):
            bounds = found.score_interval(f"sae {name}", floor)
            yield (name, checkpoint), (figure, found.score(f"sae {name}", floor), *bounds, n)
