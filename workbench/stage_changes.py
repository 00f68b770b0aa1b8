"""What a stage of training changes in superposition: figures of neighbouring stages subtracted, later − earlier.

    polysemantic share   units that follow several factors / units that follow any      of neurons, of latents
    nearest cosine       median over living latents of max_{j ≠ i} cos(d_i, d_j)
    FVU                  Σ ‖x − x̂‖² / Σ ‖x − x̄‖²
    alive per dimension  latents that fire / d_model

Each difference has a 95 % interval over what its figure is a mean over. Neuron i of a child is neuron i of its
parent and both read the same documents, so neurons and documents are resampled together; latents of two SAEs
are different latents and are drawn apart. Alive latents get Newcombe's interval (two Wilson ones combined): where
every latent fires, a bootstrap has no width at all.

None of this says that the *stage* did it: an SAE trained again on one checkpoint differs too. The noise floor is
the larger of the two differences, at the earlier and at the later checkpoint, between the SAE and one trained
from another seed. No SAE's seed moves a neuron: their share has no floor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from saes.heldout import Ratio
from workbench.intervals import Interval, newcombe, quantiles, resampled_medians, resampled_sums

SCHEMA = {
    "figure": pl.String, "earlier": pl.String, "later": pl.String, "before": pl.Float64, "after": pl.Float64,
    "change": pl.Float64, "low": pl.Float64, "high": pl.Float64, "floor": pl.Float64, "clear": pl.Boolean,
    "over": pl.String, "n": pl.Int64,
}  # fmt: skip


class Stage(NamedTuple):
    """What the figures of one checkpoint, seen through one SAE, are made of."""

    neurons: Int[np.ndarray, "neuron"]  # factors that each follows
    latents: Int[np.ndarray, "latent"]
    nearest: Float[np.ndarray, "alive"]  # cosine to the nearest decoder
    alive: Bool[np.ndarray, "latent"]
    fvu: Ratio  # by document
    d_model: int


class Figure(NamedTuple):
    """A figure of a stage, the interval of its change, and what both are over."""

    level: Callable[[Stage], float]
    interval: Callable[[Stage, Stage], Interval]
    over: Callable[[Stage], int]  # how many that is; a row tells the smaller of its stages' two
    units: str


def changes(stages: Mapping[str, Stage], reseeded: Mapping[str, Stage]) -> pl.DataFrame:
    """A row for each figure and each pair of neighbours in `stages`; `reseeded` are the same checkpoints through
    SAEs of another seed. `clear`: the interval is on one side of zero and the change is beyond the floor."""
    rows = []
    for name, figure in FIGURES.items():
        for earlier, later in itertools.pairwise(stages):
            first, second = stages[earlier], stages[later]
            before, after = figure.level(first), figure.level(second)
            low, high = figure.interval(first, second)
            floor = None
            if figure.units != "neurons":
                floor = max(abs(figure.level(reseeded[c]) - figure.level(stages[c])) for c in (earlier, later))
            clear = (low > 0 or high < 0) and (floor is None or abs(after - before) > floor)
            values = (_known(v) for v in (before, after, after - before, low, high, floor))
            n = min(figure.over(first), figure.over(second))
            rows.append((name, earlier, later, *values, clear, figure.units, n))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _counts(factors: Int[np.ndarray, "unit"]) -> Float[np.ndarray, "unit 2"]:
    """Whether a unit follows several factors, and whether any."""
    return np.stack([factors > 1, factors > 0], axis=1).astype(float)


def _polysemantic(factors: Int[np.ndarray, "unit"]) -> float:
    several, any_ = _counts(factors).sum(axis=0)
    return several / any_ if any_ else math.nan


def _between(
    first: Float[np.ndarray, "resample 2"], second: Float[np.ndarray, "resample 2"], n: int
) -> Interval:
    """Of a difference of two ratios; resamples in which either has nothing below the line say nothing."""
    below = first[:, 1] * second[:, 1]
    return quantiles(second[:, 0] * first[:, 1] - first[:, 0] * second[:, 1], below, n)


def _together(first: Float[np.ndarray, "unit 2"], second: Float[np.ndarray, "unit 2"]) -> Interval:
    """One draw of units for both."""
    drawn = resampled_sums(np.concatenate([first, second], axis=1))
    return _between(drawn[:, :2], drawn[:, 2:], len(first))


def _apart(first: Float[np.ndarray, "unit 2"], second: Float[np.ndarray, "other 2"]) -> Interval:
    """A draw of units for each."""
    n = min(len(first), len(second))
    return _between(resampled_sums(first, seed=0), resampled_sums(second, seed=1), n)


def _medians(first: Float[np.ndarray, "alive"], second: Float[np.ndarray, "other"]) -> Interval:
    if min(len(first), len(second)) < 2:
        return Interval(math.nan, math.nan)
    drawn = resampled_medians(second, seed=1) - resampled_medians(first, seed=0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(float(low), float(high))


def _newcombe(first: Stage, second: Stage) -> Interval:
    """Of the two shares of living latents, each times its d_sae / d_model."""
    counted = [(int(stage.alive.sum()), len(stage.alive)) for stage in (first, second)]
    scales = [len(stage.alive) / stage.d_model for stage in (first, second)]
    return newcombe(counted[0], counted[1], (scales[0], scales[1]))


def _per_dimension(stage: Stage) -> float:
    return float(stage.alive.sum() / stage.d_model)


FIGURES: Mapping[str, Figure] = {
    "polysemantic_neurons": Figure(
        lambda s: _polysemantic(s.neurons),
        lambda a, b: _together(_counts(a.neurons), _counts(b.neurons)),
        lambda s: int((s.neurons > 0).sum()),
        "neurons",
    ),
    "polysemantic_latents": Figure(
        lambda s: _polysemantic(s.latents),
        lambda a, b: _apart(_counts(a.latents), _counts(b.latents)),
        lambda s: int((s.latents > 0).sum()),
        "latents",
    ),
    "nearest_cosine": Figure(
        lambda s: float(np.median(s.nearest)) if len(s.nearest) else math.nan,
        lambda a, b: _medians(a.nearest, b.nearest),
        lambda s: len(s.nearest),
        "latents",
    ),
    "fvu": Figure(
        lambda s: s.fvu.value,
        lambda a, b: _together(np.stack(a.fvu, axis=1), np.stack(b.fvu, axis=1)),
        lambda s: int((s.fvu.denominator > 0).sum()),
        "documents",
    ),
    "alive_per_dimension": Figure(_per_dimension, _newcombe, lambda s: len(s.alive), "latents"),
}
