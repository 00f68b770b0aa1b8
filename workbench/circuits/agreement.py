"""How nearly estimates of edges' effects are the effects: EAP and EAP-IG beside every edge patched for itself.

    Pearson, Spearman   of the mean scores of all edges
    foremost tenth      |A ∩ B| / n of the n = round(edges / 10) of largest |score|

Most edges do next to nothing, and the ranks of those are noise: Spearman is low where Pearson and the foremost
tenth are high, and says little of the circuit. Intervals are over pairs drawn with return, for both scores at once.
Drawing makes the scores of edges that do next to nothing noisier, in part alike in both, so an interval of Spearman
may lie to one side.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from workbench.circuits.competence import Estimate
from workbench.intervals import resampled_sums

PEARSON, SPEARMAN, FOREMOST = MEASURES = ("pearson", "spearman", "foremost tenth")
TENTH = 0.1

ByEdge = Float[np.ndarray, "pair edge"]
Scores = Float[np.ndarray, "draw edge"]


def agreement(estimate: ByEdge, exact: ByEdge, seed: int = 0) -> Mapping[str, Estimate]:
    """Each of `MEASURES` of the means over pairs, with its interval; NaN where all edges score alike."""
    n_pairs, n_edges = exact.shape
    if estimate.shape != exact.shape or n_edges < 2:
        raise ValueError(
            f"scores of {estimate.shape} and {exact.shape}: expected the same pairs, two edges or more"
        )
    sums = resampled_sums(np.concatenate([estimate, exact], axis=1).astype(float), seed)
    drawn = _measured(*np.split(sums / n_pairs, 2, axis=1))
    means = (each.mean(axis=0, dtype=float)[None] for each in (estimate, exact))
    found = {}
    for name, (value,) in _measured(*means).items():
        known = drawn[name][~np.isnan(drawn[name])]
        low, high = np.quantile(known, (0.025, 0.975)) if len(known) and n_pairs > 1 else (np.nan, np.nan)
        found[name] = Estimate(float(value), float(low), float(high))
    return found


def _measured(a: Scores, b: Scores) -> Mapping[str, Float[np.ndarray, "draw"]]:
    return {PEARSON: _pearson(a, b), SPEARMAN: _pearson(_ranks(a), _ranks(b)), FOREMOST: _foremost(a, b)}


def _pearson(a: Scores, b: Scores) -> Float[np.ndarray, "draw"]:
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (a, b))
    sizes = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), sizes, out=np.full(len(a), np.nan), where=sizes > 0)


def _ranks(scores: Scores) -> Scores:
    from scipy.stats import rankdata

    return np.asarray(rankdata(scores, axis=1))


def _foremost(a: Scores, b: Scores) -> Float[np.ndarray, "draw"]:
    n = max(1, round(TENTH * a.shape[1]))
    inside = []
    for scores in (a, b):
        order = np.argsort(-np.abs(scores), axis=1, kind="stable")[:, :n]
        inside.append(np.zeros(scores.shape, dtype=bool))
        np.put_along_axis(inside[-1], order, True, axis=1)
    return np.asarray((inside[0] & inside[1]).sum(axis=1) / n)
