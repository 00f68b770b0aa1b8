"""Ground truth: how well a dictionary's latents follow factors that are known, beside equal numbers of others.

    halves = halved(factor_table)
    truth  = ground_truth({"latents": …, "neurons": …, "pca": …}, halves)

Every pool is asked the same questions (`saes.single_units`) at equal numbers of candidates: at each pool's own
size, every pool that has as many takes part with that many of its units, drawn at random. A unit that says
nothing on the first half is no candidate. Means are over the factors that count; intervals resample the
documents of the second half, the same draws for all pools, and take what was chosen on the first as given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from saes.candidates import Units, draw, levels
from saes.errors import DictionaryError
from saes.factors import Halves
from saes.resampling import Resampled, Resamples, interval, mean_over
from saes.single_units import (
    PROBES,
    Found,
    HalvedPool,
    best_probes,
    best_units,
    matched_correlation,
)

THREADS = min(4, os.cpu_count() or 1)


class Asked(NamedTuple):
    """What one pool answered at one number of candidates."""

    pool: str
    candidates: int
    found: list[Found]
    matched: list[tuple[int, int]]  # (unit, factor)
    mcc: Resampled


class GroundTruth(NamedTuple):
    """All answers, and the pools they came from."""

    asked: list[Asked]
    pools: Mapping[str, HalvedPool]
    resamples: Resamples


class Mean(NamedTuple):
    """A mean over factors with its 95 % interval."""

    mean: float
    low: float
    high: float


def ground_truth(
    pools: Mapping[str, Units], halves: Halves, seed: int = 0, report: Callable[[Any], None] = lambda done: None
) -> GroundTruth:
    """Ask every pool at every number of candidates; probes only at the smallest, where all take part."""
    if halves.first.n_factors == 0:
        raise DictionaryError(
            "no factor is on in enough tokens of enough documents of both halves: give more labelled tokens"
        )
    with ThreadPoolExecutor(THREADS) as threads:  # sorting and matrix products leave the interpreter free
        made = threads.map(lambda name: HalvedPool.of(name, pools[name], halves), pools)
        halved = {pool.name: _reported(pool, report) for pool in made}
    resamples = Resamples.of(halves.second, seed)
    sizes = {name: int(pool.able.sum()) for name, pool in halved.items()}
    empty = [name for name, size in sizes.items() if size == 0]
    if empty:
        raise DictionaryError(f"no unit of {', '.join(empty)} says anything on the first half of the documents")
    questions = [(pool, n) for n in levels(list(sizes.values())) for pool in halved.values()]
    questions = [(pool, n) for pool, n in questions if sizes[pool.name] >= n]
    with ThreadPoolExecutor(THREADS) as threads:
        least = min(sizes.values())
        answers = threads.map(lambda q: _ask(q[0], halves, q[1], resamples, seed, q[1] == least), questions)
        asked = [_reported(answer, report) for answer in answers]
    return GroundTruth(asked, halved, resamples)


def _reported(answer: Any, report: Callable[[Any], None]) -> Any:
    report(answer)
    return answer


def _ask(pool: HalvedPool, halves: Halves, n: int, resamples: Resamples, seed: int, probes: bool) -> Asked:
    among = draw(pool.able, n, seed)
    found = list(best_units(pool, halves, among, resamples))
    for k in PROBES if probes else ():
        found += best_probes(pool, halves, among, resamples, min(k, n))
    matched, mcc = matched_correlation(pool, halves, among, resamples)
    return Asked(pool.name, n, found, matched, mcc)


def means(asked: Asked) -> dict[str, Resampled]:
    """The mean over factors of each `method_metric`, and `mcc`."""
    groups: dict[str, list[Resampled]] = {"mcc": [asked.mcc]}
    for found in asked.found:
        groups.setdefault(f"{found.method}_{found.metric}", []).append(found.measured)
    return {key: mean_over(group) for key, group in groups.items()}


def with_interval(figure: Resampled) -> Mean:
    """The figure with the interval that its resamples give."""
    return Mean(figure.value, *interval(figure.samples))


def ahead(own: Resampled, other: Resampled) -> Resampled:
    """By how much, resample by resample."""
    return Resampled(own.value - other.value, own.samples - other.samples)


def figures(truth: GroundTruth, own: str) -> dict[str, Any]:
    """By number of candidates: each pool's means, and by how much the pool `own` is ahead of each other one."""
    answer: dict[str, Any] = {}
    for n in sorted({a.candidates for a in truth.asked}):
        level = {a.pool: means(a) for a in truth.asked if a.candidates == n}
        told: dict[str, Any] = {
            "pools": {
                p: {k: with_interval(v)._asdict() for k, v in found.items()} for p, found in level.items()
            }
        }
        if own in level:
            told["ahead"] = {
                pool: {k: with_interval(ahead(level[own][k], v))._asdict() for k, v in found.items()}
                for pool, found in level.items()
                if pool != own
            }
        answer[str(n)] = told
    return answer
