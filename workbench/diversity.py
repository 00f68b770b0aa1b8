"""How varied a set of answers is, and how much each repeats itself.

    distinct-n   different n-grams / n-grams, over the whole set                         [Li 2016]
    repeated     bigrams that stood earlier in the same answer / bigrams

distinct-n falls as a set grows: compare sets of one size (`first_tokens`). A bootstrap would draw answers twice and
so find fewer different n-grams than there are; intervals are ± 1.96 jackknife standard errors over answers, which
are, if anything, too wide [Efron and Stein 1981].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Z = 1.959964  # of a 95 % interval


class Distinct(NamedTuple):
    """A share of different items, its 95 % interval (NaN of fewer than two answers), and of how many items."""

    value: float
    low: float
    high: float
    n: int


def grams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    """The n-grams of one answer, in order."""
    return list(zip(*(ids[at:] for at in range(n)), strict=False))


def first_tokens(answers: Sequence[Sequence[int]], budget: int, seed: int = 0) -> list[Sequence[int]]:
    """Answers in a random order that `seed` decides, as many as `budget` tokens hold; the last one may be cut."""
    kept: list[Sequence[int]] = []
    for number in np.random.default_rng(seed).permutation(len(answers)):
        if budget > 0:
            kept.append(answers[number][:budget])
            budget -= len(kept[-1])
    return kept


def distinct(answers: Sequence[Sequence[Hashable]]) -> Distinct:
    """Different items / items over all answers; NaN where there are none. Each answer is its list of items."""
    owners = Counter(item for answer in answers for item in set(answer))
    sizes = np.array([len(answer) for answer in answers])
    alone = np.array([sum(owners[item] == 1 for item in set(answer)) for answer in answers])
    total, types, m = int(sizes.sum()), len(owners), len(answers)
    if total == 0:
        return Distinct(float("nan"), float("nan"), float("nan"), 0)
    value = types / total
    if m < 2 or (sizes == total).any():
        return Distinct(value, float("nan"), float("nan"), total)
    without = (types - alone) / (total - sizes)
    error = Z * float(np.sqrt((m - 1) / m * ((without - without.mean()) ** 2).sum()))
    return Distinct(value, max(0.0, value - error), min(1.0, value + error), total)


def repeated(
    answers: Sequence[Sequence[int]],
) -> tuple[Float[np.ndarray, "answer"], Float[np.ndarray, "answer"]]:
    """Of each answer: its bigrams that stood in it before, and its bigrams."""
    pairs = [grams(answer, 2) for answer in answers]
    n = np.array([len(each) for each in pairs], dtype=float)
    return n - np.array([len(set(each)) for each in pairs]), n
