"""How long a thing takes, said with its spread: the median of repeated runs and the quartiles around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
T = TypeVar("T")


class Seconds(NamedTuple):
    """Median of `n` runs; half of the runs took between `low` and `high`."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, took: Sequence[float]) -> Seconds:
        """From the seconds of each run."""
        low, median, high = np.quantile(took, (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high), len(took))


def timed(run: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
    """What a run gives, and the seconds it takes by the wall clock."""
    began = time.perf_counter()
    result = run(*args, **kwargs)
    return result, time.perf_counter() - began
