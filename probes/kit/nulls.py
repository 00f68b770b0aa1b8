"""Figures with intervals and nulls, the ways of making them that probes have in common.

    p = (1 + number of draws as far as the observed) / (1 + number of draws)       never 0 [Phipson and Smyth 2010]

A draw that differs from the observed by rounding alone is as far. No p is below 1 / (1 + number of draws): `enough`
says how many it takes for one to pass beside all others that are held to the level with it.

Cases that are not independent (tokens of one document) are summed by document first: what is drawn, permuted or
flipped is a document. `shuffled` gives labels that say nothing, document by document, for the question whether a
probe claims something where nothing is.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from probes.kit.finding import LEVEL, Figure, Null
from workbench.errors import Misuse
from workbench.intervals import quantiles, resampled_sums, wilson

DRAWS = 999
ALL_FLIPS = 12  # cases up to which every pattern of signs is listed
ROUNDING = 1e-9  # of the largest number
GREATER, LESS, EITHER = "greater", "less", "either"


def against(
    observed: float,
    draws: Sequence[Any] | Float[np.ndarray, " draw"],
    what: str,
    side: str = GREATER,
    centre: float | None = None,
) -> Null:
    """The null that these draws are of; `side` says which way is far from it, `centre` where its middle is, if that
    is known: the mean of draws strays from it."""
    values = np.asarray(draws, float)
    middle = float(values.mean()) if centre is None else centre
    near = ROUNDING * max(float(np.abs(values).max()), abs(observed))
    far = {
        GREATER: values >= observed - near,
        LESS: values <= observed + near,
        EITHER: np.abs(values - middle) >= abs(observed - middle) - near,
    }[side]
    low, high = np.quantile(values, (0.025, 0.975))
    return Null(middle, float(low), float(high), len(values), what, float((1 + far.sum()) / (1 + len(values))))


def enough(draws: int, tests: int) -> int:
    """`draws`, or as many more as let the smallest p there can be pass beside so many tests.

    >>> enough(79, 9), enough(199, 9)
    (179, 199)
    """
    return max(draws, math.ceil(tests / LEVEL) - 1)


def tellable(least: float, tests: int) -> bool:
    """Whether the smallest p that there can be, `least`, would pass beside so many tests."""
    return least * tests <= LEVEL


def predicted(
    observed: float, draws: Sequence[float] | Float[np.ndarray, " draw"], what: str, side: str = EITHER
) -> Null:
    """The null that a few draws are of, taken as normal: Student's t of one more draw,

        t = (observed − mean) / (sd √(1 + 1/n)),  n − 1 degrees of freedom

    for draws that cost a pass each, where hundreds cannot be had. What a random direction does is a sum over many
    coordinates and so near to normal; `low` and `high` hold one more draw in 95 of 100 cases.
    """
    from scipy.stats import t

    values, n = np.asarray(draws, float), len(draws)
    centre, spread = float(values.mean()), float(values.std(ddof=1) * np.sqrt(1 + 1 / n))
    far = {GREATER: observed - centre, LESS: centre - observed, EITHER: abs(observed - centre)}[side]
    if spread == 0:
        return Null(centre, centre, centre, n, what, 1 / (1 + n) if far > 0 else 1.0)
    reach = spread * float(t.ppf(0.975, n - 1))
    p = float(t.sf(far / spread, n - 1)) * (2 if side == EITHER else 1)
    return Null(centre, centre - reach, centre + reach, n, what, p)


def beside(null: Null) -> Null:
    """The same null for a figure that no claim rests on."""
    return dataclasses.replace(null, p=None)


def described(figure: Figure) -> Figure:
    """The same figure where no claim rests on it."""
    return dataclasses.replace(figure, null=beside(figure.null))


def mean_of(
    values: Sequence[Any] | Float[np.ndarray, " case"],
    what: str,
    seed: int = 0,
    side: str = EITHER,
    about: float = 0.0,
    draws: int = DRAWS,
) -> tuple[float, float, float, Null]:
    """Mean of independent cases, its bootstrap interval, and the null that their signs about `about` are random (a
    sign-flip test: right where the null is symmetric; of few cases p is exact, from every pattern of signs).
    Splat it into a `Figure`'s value, low, high and null."""
    cases = np.asarray(values, float) - about
    if len(cases) < 2:
        raise Misuse(
            f"{len(cases)} case bears no interval and no chance ({what}): at least two are needed, so ask about "
            "more of them (--set n=8), or a lab with more held-out text"
        )
    n, mean = len(cases), float(cases.mean())
    null = against(mean, _signs(n, draws, seed) @ cases / n, what, side, centre=0.0)
    sums = resampled_sums(np.stack([cases, np.ones(n)], axis=1), seed)
    low, high = quantiles(sums[:, 0], sums[:, 1], n)
    shifted = Null(null.value + about, null.low + about, null.high + about, null.n, what, null.p)
    return mean + about, float(low) + about, float(high) + about, shifted


def _signs(n: int, draws: int, seed: int) -> Float[np.ndarray, "draw case"]:
    """Signs at random; of few cases all patterns but the one observed, which `against` counts by itself."""
    if n > ALL_FLIPS:
        return np.random.default_rng(seed).choice((-1.0, 1.0), size=(draws, n))
    return np.array(list(itertools.product((1.0, -1.0), repeat=n)))[1:]


def mean_figure(name: str, values: Any, of: str, what: str, **settings: Any) -> Figure:
    """`mean_of` as a figure; settings that a `Figure` has (checkpoint, where) go there, the others to `mean_of`."""
    placed = {key: settings.pop(key) for key in ("checkpoint", "where") if key in settings}
    value, low, high, null = mean_of(values, what, **settings)
    return Figure(name, value, low, high, len(values), of, null, **placed)


def share_figure(
    name: str, hits: int, n: int, of: str, chance: float, what: str, side: str = GREATER, **placed: Any
) -> Figure:
    """A share with its Wilson interval against a chance that is known: an exact binomial test."""
    from scipy.stats import binom, binomtest

    sides = {GREATER: "greater", LESS: "less", EITHER: "two-sided"}
    p = float(binomtest(hits, n, chance, alternative=sides[side]).pvalue)
    low, high = (float(binom.ppf(q, n, chance)) / n for q in (0.025, 0.975))
    return Figure(name, hits / n, *wilson(hits, n), n, of, Null(chance, low, high, n, what, p), **placed)


def shuffled(labels: np.ndarray, groups: Int[np.ndarray, " case"] | None, seed: int) -> np.ndarray:
    """Labels without meaning: dealt anew at random; with `groups`, each group (a document) is given the labels of
    another one, so that cases of one document stay as alike as they were.

    A longer group begins the other's labels again where they end.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        return rng.permutation(labels)
    names = np.unique(groups)
    rows = {name: np.flatnonzero(groups == name) for name in names}
    dealt = np.empty_like(labels)
    for name, giver in zip(names, rng.permutation(names), strict=True):
        dealt[rows[name]] = np.resize(labels[rows[giver]], len(rows[name]))
    return dealt
