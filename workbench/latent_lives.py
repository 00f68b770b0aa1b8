"""Births and deaths of latents along a row of models, from how strongly each has them (`workbench.joint_decoders`).

`end` is the moment that a latent's own decoder is of; β_end its strength there.

    there       β ≥ ½ β_end, and above the floor of shuffled patterns
    born        the first moment from which it is there at every one up to its end; none where it is not above the
                floor at its end: nothing is claimed of it
    died        the first moment after its end from which β stays below ½ β_end to the last
    arrival     `start`: born at the first moment; `new`: the moment before, less than half of its length was there
                in any direction; `turned`: more, in a direction above noise; else `unclear`
    departure   the same of the moment that it died: `gone`, `turned`, `unclear`

Births are of their own direction, and their bounds come from blocks of documents: `sure` is the share of resamples
that put the birth in the same stage.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

HALF = 0.5
RESAMPLES = 200
START, NEW, TURNED, GONE, UNCLEAR = "start", "new", "turned", "gone", "unclear"


class Lifetimes(NamedTuple):
    """Moments of birth and death; -1 for none."""

    born: Int[np.ndarray, "*sample latent"]
    died: Int[np.ndarray, "*sample latent"]


class Bounds(NamedTuple):
    """95 % of resampled births lie between; `sure`: the share of resamples in which the stage is the same."""

    low: Int[np.ndarray, "latent"]
    high: Int[np.ndarray, "latent"]
    sure: Float[np.ndarray, "latent"]


def there(
    strength: Float[np.ndarray, "*sample latent moment"],
    floor: Float[np.ndarray, "latent moment"],
    end: Int[np.ndarray, "latent"],
) -> Bool[np.ndarray, "*sample latent moment"]:
    """At least half as strong as at its end, and above the floor."""
    return (strength >= HALF * _at(strength, end)[..., None]) & (strength > floor)


def lifetimes(
    strength: Float[np.ndarray, "*sample latent moment"],
    floor: Float[np.ndarray, "latent moment"],
    end: Int[np.ndarray, "latent"],
) -> Lifetimes:
    """Births and deaths, each for itself."""
    number = np.arange(strength.shape[-1])
    here = there(strength, floor, end)
    missing = ~here & (number <= end[:, None])
    born = np.where(missing, number, -1).max(axis=-1) + 1  # after the last moment at which it is missing
    established = _at(here, end)
    weak = strength < HALF * _at(strength, end)[..., None]
    last = np.where(~weak, number, -1).max(axis=-1)  # its end is never weak, so `last` is not before it
    died = (last + 1 < strength.shape[-1]) & established & (last >= end)
    return Lifetimes(np.where(established, born, -1), np.where(died, last + 1, -1))


def resampled(
    strength: Float[np.ndarray, "latent moment"],
    influence: Float[np.ndarray, "block latent moment"],
    seed: int = 0,
    n: int = RESAMPLES,
) -> Float[np.ndarray, "sample latent moment"]:
    """Strengths when blocks of documents are drawn with return, to first order."""
    blocks = len(influence)
    drawn = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), size=n) - 1.0
    flat = drawn.astype(np.float32) @ influence.reshape(blocks, -1).astype(np.float32)
    return strength.astype(np.float32) + flat.reshape(n, *strength.shape)


def birth_bounds(
    born: Int[np.ndarray, "latent"],
    samples: Int[np.ndarray, "sample latent"],
    stage: Int[np.ndarray, "moment"],
) -> Bounds:
    """Bounds of births, among the resamples in which the latent is there at its end."""
    known = (samples >= 0).sum(axis=0)
    ordered = np.sort(np.where(samples >= 0, samples, len(stage)), axis=0)

    def quantile(q: float) -> np.ndarray:
        at = np.rint(q * np.maximum(known - 1, 0)).astype(int)
        found = np.take_along_axis(ordered, at[None], axis=0)[0]
        return np.where((known > 0) & (born >= 0), found, -1)

    same = (samples >= 0) & (stage[samples] == stage[born])
    # what was there at the first moment was not born in the first stage
    same &= (samples == 0) == (born == 0)
    sure = np.where(born >= 0, same.mean(axis=0), np.nan)
    return Bounds(quantile(0.025), quantile(0.975), sure)


def manner(
    found: Lifetimes,
    length: Float[np.ndarray, "latent moment"],
    known: Bool[np.ndarray, "latent moment"],
    end: Int[np.ndarray, "latent"],
) -> tuple[list[str | None], list[str | None]]:
    """How each arrived and how it left, None where it did not; `known`: its direction is above noise."""
    enough = length >= HALF * _at(length, end)[:, None]

    def seen(j: int, moment: int, without: str) -> str:
        if not enough[j, moment]:
            return without
        return TURNED if known[j, moment] else UNCLEAR

    arrivals: list[str | None] = []
    departures: list[str | None] = []
    for j, (born, died) in enumerate(zip(found.born.tolist(), found.died.tolist(), strict=True)):
        came = START if born == 0 else seen(j, born - 1, NEW)
        arrivals.append(came if born >= 0 else None)
        departures.append(seen(j, died, GONE) if died >= 0 else None)
    return arrivals, departures


def _at(values: np.ndarray, moment: Int[np.ndarray, "latent"]) -> np.ndarray:
    """The value of each latent at its own moment."""
    return np.asarray(values[..., np.arange(len(moment)), moment])
