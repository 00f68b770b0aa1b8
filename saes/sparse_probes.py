"""k-sparse probes: how well k units of a pool tell a factor together [Gurnee 2023; Karvonen 2025].

The k units that correlate most with the factor on the first half, each scaled by its deviation there; logistic
regression with a ridge of 1 on the weights (scikit-learn's default), by Newton's method:

    min_β Σ_t w_t log(1 + exp(−y_t ⟨β, x_t⟩)) + ‖β‖²/2        y ∈ {−1, 1}, the intercept free

Where there are more than `MOST` tokens with the factor, or without it, that many drawn at random stand for
them, with weights w to make up for it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saes.candidates import Entries, Units, column

MOST = 4_000
RIDGE = 1.0


class Probe(NamedTuple):
    """Log odds are the `entries` and the intercept."""

    units: Int[np.ndarray, " k"]
    weights: Float[np.ndarray, " k"]
    intercept: float

    def entries(self, units: Units) -> Entries:
        """Σ weight · unit, where it is not zero."""
        total = np.zeros(units.n_tokens, np.float32)
        for unit, weight in zip(self.units, self.weights, strict=True):
            tokens, values = units.entries(int(unit))
            if len(tokens) == len(total):
                total += np.float32(weight) * values
            else:
                total[tokens] += np.float32(weight) * values
        there = np.flatnonzero(total)
        return Entries(there, total[there])


def fit_probe(
    units: Units, chosen: Int[np.ndarray, " k"], on: Bool[np.ndarray, " token"], seed: int = 0
) -> Probe:
    """The probe of the chosen units for the tokens where the factor is on."""
    rows, weights = _drawn(on, seed)
    x = np.stack([column(units, int(u))[rows] for u in chosen], axis=1).astype(np.float64)
    mean = np.average(x, axis=0, weights=weights)
    scale = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights))
    scale = np.where(scale > 0, scale, 1.0)
    beta = logistic((x - mean) / scale, on[rows], weights)
    return Probe(chosen, beta[:-1] / scale, float(beta[-1] - (beta[:-1] * mean / scale).sum()))


def _drawn(on: Bool[np.ndarray, " token"], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows, weights = [], []
    for kind in (on, ~on):
        all_rows = np.flatnonzero(kind)
        kept = all_rows if len(all_rows) <= MOST else rng.choice(all_rows, MOST, replace=False)
        rows.append(kept)
        weights.append(np.full(len(kept), len(all_rows) / max(len(kept), 1)))
    return np.concatenate(rows), np.concatenate(weights)


def logistic(
    x: Float[np.ndarray, "token k"],
    on: Bool[np.ndarray, " token"],
    weights: Float[np.ndarray, " token"],
    ridge: float = RIDGE,
) -> Float[np.ndarray, " k_and_one"]:
    """β with the intercept last; steps are halved until the loss falls."""
    x = np.column_stack([x, np.ones(len(x))])
    penalty = np.append(np.full(x.shape[1] - 1, ridge), 0.0)
    beta = np.zeros(x.shape[1])
    share = float(np.average(on, weights=weights))
    beta[-1] = np.log(share / (1 - share))

    def loss(candidate: np.ndarray) -> float:
        odds = x @ candidate
        return float(weights @ np.logaddexp(0, np.where(on, -odds, odds)) + penalty @ candidate**2 / 2)

    now = loss(beta)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -40, 40)))
        gradient = x.T @ (weights * (p - on)) + penalty * beta
        curved = x.T @ (x * (weights * p * (1 - p))[:, None]) + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curved, gradient)
        size = 1.0
        while (then := loss(beta - size * step)) > now and size > 1e-6:
            size /= 2
        if then > now - 1e-9 * abs(now):
            break
        beta, now = beta - size * step, then
    return beta
