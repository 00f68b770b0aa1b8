"""Linear probes for factors: fitted on one set of documents, their penalty chosen on a second, scored on a third.

    min_{w, b} ‖w‖²/2 + C Σ_t log(1 + exp(−y_t (⟨w, z_t⟩ + b)))     z = (x − mean) / sd of the tokens fitted on

[scikit-learn's LogisticRegression]; C is that of `PENALTIES` with the highest AUROC on the second set. A probe
takes its mean and sd along wherever it is scored.

The control task [Hewitt and Liang 2019] is another labelling of the same tokens that says nothing of their context:
word types drawn at random until their tokens are as many as the factor's. What a probe scores on it is what it can
learn by heart. selectivity = accuracy on the factor − accuracy on its control. Accuracy is balanced, mean of the
shares of tokens with and without that are told, since a factor is rare: a token counts as told where the probe's
odds are above those of the share it was fitted on; 0.5 is chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saes.candidates import Descending, Entries
from saes.factors import MIN_DOCUMENTS, MIN_TOKENS, FactorTable, distinct
from saes.resampling import Resampled, Resamples

PENALTIES = (0.01, 0.1, 1.0)
SHARES = (0.4, 0.2, 0.4)  # of the documents: to fit on, to choose C on, to score on
TOKENS = (3_000, 1_500, 4_000)  # drawn of each
LEAST_SHARE, MOST_SHARE = 0.01, 0.5  # of tokens that a factor is on in
MOST_FACTORS = 24  # the most frequent


class Deal(NamedTuple):
    """Rows of three sets of tokens; no document is in two of them."""

    fit: Int[np.ndarray, " fit"]
    choose: Int[np.ndarray, " choose"]
    score: Int[np.ndarray, " score"]


class Probe(NamedTuple):
    """Log odds of a token are ⟨direction, x⟩ + intercept; `told` are the odds above which it counts as on."""

    direction: Float[np.ndarray, " d"]
    intercept: float
    told: float
    penalty: float

    def odds(self, x: Float[np.ndarray, "token d"]) -> Float[np.ndarray, " token"]:
        """Log odds of each token."""
        return x @ self.direction + self.intercept


def deal(document: Int[np.ndarray, " token"], tokens: Sequence[int] = TOKENS, seed: int = 0) -> Deal:
    """Documents dealt at random by `SHARES`; of each set's tokens at most `tokens`, drawn at random."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.unique(document))
    cuts = np.round(np.cumsum(SHARES)[:-1] * len(order)).astype(int)
    rows = [np.flatnonzero(np.isin(document, part)) for part in np.split(order, cuts)]
    drawn = [
        np.sort(rng.choice(r, most, replace=False)) if len(r) > most else r
        for r, most in zip(rows, tokens, strict=True)
    ]
    return Deal(*drawn)


def frequent(table: FactorTable, dealt: Deal, most: int = MOST_FACTORS) -> Int[np.ndarray, " factor"]:
    """Factors that are on in `LEAST_SHARE` to `MOST_SHARE` of all tokens, and in each of the three sets on and off
    in at least `MIN_TOKENS` tokens, on in `MIN_DOCUMENTS` documents. Of those that are on in the same tokens one
    counts; `most` of them, the most frequent first."""
    share = table.positives / max(len(table), 1)
    enough = (share >= LEAST_SHARE) & (share <= MOST_SHARE)
    for part in (table.on(rows) for rows in dealt):
        enough &= (part.positives >= MIN_TOKENS) & (len(part) - part.positives >= MIN_TOKENS)
        enough &= part.positive_documents >= MIN_DOCUMENTS
    chosen = distinct(table, np.flatnonzero(enough))
    return chosen[np.argsort(-table.positives[chosen], kind="stable")][:most]


def control_labels(ids: Int[np.ndarray, " token"], n_on: int, seed: int) -> Bool[np.ndarray, " token"]:
    """The control task: all tokens of word types drawn at random, `n_on` tokens of them or just under."""
    _, of, counts = np.unique(ids, return_inverse=True, return_counts=True)
    chosen, left = np.zeros(len(counts), bool), n_on
    for at in np.random.default_rng(seed).permutation(len(counts)):
        if counts[at] <= left:
            chosen[at], left = True, left - counts[at]
    return chosen[of]


def fit_probe(
    x: Float[np.ndarray, "fit d"],
    on: Bool[np.ndarray, " fit"],
    held: Float[np.ndarray, "choose d"],
    held_on: Bool[np.ndarray, " choose"],
) -> Probe:
    """The probe of the penalty that ranks the held tokens best."""
    return max((probe_of(x, on, c) for c in PENALTIES), key=lambda probe: auroc(probe.odds(held), held_on))


def probe_of(x: Float[np.ndarray, "fit d"], on: Bool[np.ndarray, " fit"], penalty: float) -> Probe:
    """The probe of one penalty; some of the tokens have to be on and some off."""
    from sklearn.linear_model import LogisticRegression

    mean, sd = x.mean(axis=0), x.std(axis=0)
    sd = np.where(sd > 0, sd, 1.0)
    fitted = LogisticRegression(C=penalty, max_iter=500).fit((x - mean) / sd, on)
    direction, share = fitted.coef_[0] / sd, on.mean()
    intercept = float(fitted.intercept_[0] - direction @ mean)
    return Probe(direction, intercept, float(np.log(share / (1 - share))), penalty)


def auroc(values: Float[np.ndarray, " token"], on: Bool[np.ndarray, " token"]) -> float:
    """Area under the ROC curve; `values` without ties but for equal tokens [Mann and Whitney]."""
    from scipy.stats import rankdata

    n_on = int(on.sum())
    above = rankdata(values)[on].sum() - n_on * (n_on + 1) / 2
    return float(above / (n_on * (len(on) - n_on)))


def ranked(
    resamples: Resamples, odds: Float[np.ndarray, " token"], on: Bool[np.ndarray, " token"]
) -> dict[str, Resampled]:
    """AUROC (`auroc`) and average precision (`ap`) of a probe, with what they would be with other documents."""
    return resamples.ranked(Descending.of(Entries(np.arange(len(odds)), odds)), on)


def accuracy(
    resamples: Resamples, probe: Probe, x: Float[np.ndarray, "token d"], on: Bool[np.ndarray, " token"]
) -> Resampled:
    """Balanced accuracy (see the module's head)."""
    said = probe.odds(x) >= probe.told
    with_, without = (
        resamples.ratio(((said == of) & (on == of)).astype(float), (on == of).astype(float))
        for of in (True, False)
    )
    return Resampled((with_.value + without.value) / 2, (with_.samples + without.samples) / 2)


def less(first: Resampled, second: Resampled) -> Resampled:
    """A difference of two figures of the same resamples."""
    return Resampled(first.value - second.value, first.samples - second.samples)
