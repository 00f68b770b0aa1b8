"""Linear and MLP probes: fitted on one set of cases, C chosen on a second, scored on a third; no document in two.

    linear   multinomial logistic regression, ‖W‖²/2 + C Σ log loss [scikit-learn]
    mlp      one hidden layer of 64, early stopping off, penalty chosen in the same way

Features are standardised with mean and sd of the cases fitted on. A case is told to be of the class whose
probability is furthest above its share of the cases fitted on (a log odds), so that a rare class is told at all.
Accuracy is balanced: the mean over classes of the share told, so that chance is 1 / number of classes whatever
their frequencies. Control tasks are those of `workbench.linear_probes` [Hewitt and Liang 2019].
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from workbench.linear_probes import PENALTIES, SHARES

LINEAR, MLP = "linear", "mlp"
WEIGHT_DECAYS = (1.0, 0.1, 0.01)  # of the MLP
HIDDEN = 64


class Split(NamedTuple):
    """Cases of three sets; no group is in two of them."""

    fit: Int[np.ndarray, " fit"]
    choose: Int[np.ndarray, " choose"]
    score: Int[np.ndarray, " score"]


class Classifier(NamedTuple):
    """A fitted probe; `log_shares` are of the cases fitted on, by class."""

    fitted: Any
    mean: Float[np.ndarray, " d"]
    sd: Float[np.ndarray, " d"]
    penalty: float
    log_shares: Float[np.ndarray, " class"]

    def told(self, x: Float[np.ndarray, "case d"]) -> np.ndarray:
        """The class of each case."""
        return self.fitted.classes_[self._above(x).argmax(axis=1)]

    def odds(self, x: Float[np.ndarray, "case d"]) -> Float[np.ndarray, " case"]:
        """Of two classes, how much more the case is of the later one."""
        above = self._above(x)
        return above[:, 1] - above[:, 0]

    def _above(self, x: Float[np.ndarray, "case d"]) -> Float[np.ndarray, "case class"]:
        p = self.fitted.predict_proba((x - self.mean) / self.sd)
        return np.log(np.maximum(p.astype(np.float64), 1e-300)) - self.log_shares


def split(groups: Int[np.ndarray, " case"], seed: int = 0) -> Split:
    """Groups (documents, words) dealt at random by `workbench.linear_probes.SHARES`."""
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    cuts = np.round(np.cumsum(SHARES)[:-1] * len(order)).astype(int)
    return Split(*(np.flatnonzero(np.isin(groups, part)) for part in np.split(order, cuts)))


def fit(
    x: Float[np.ndarray, "case d"], labels: np.ndarray, parts: Split, kind: str = LINEAR, seed: int = 0,
    penalties: Sequence[float] = (),
) -> Classifier:  # fmt: skip
    """The probe of the penalty that tells most of `parts.choose`, of all or of those given."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    mean, sd = x[parts.fit].mean(axis=0), x[parts.fit].std(axis=0)
    sd = np.where(sd > 0, sd, 1.0)
    z, best, found = (x[parts.fit] - mean) / sd, -1.0, None
    _, n_of_class = np.unique(labels[parts.fit], return_counts=True)
    log_shares = np.log(n_of_class / n_of_class.sum())
    with threadpool_limits(1), warnings.catch_warnings():  # small: two threads take twice as long as one
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that stops early is held to its score
        for penalty in penalties or (PENALTIES if kind == LINEAR else WEIGHT_DECAYS):
            fitted = _made(kind, penalty, seed).fit(z, labels[parts.fit])
            made = Classifier(fitted, mean, sd, penalty, log_shares)
            score = float(balanced(labels[parts.choose], made.told(x[parts.choose])))
            if score > best:
                best, found = score, made
    assert found is not None
    return found


def _made(kind: str, penalty: float, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    if kind == LINEAR:
        return LogisticRegression(C=penalty, max_iter=300)
    return MLPClassifier((HIDDEN,), alpha=penalty, max_iter=60, random_state=seed)


def balanced(truth: np.ndarray, told: np.ndarray) -> float:
    """Mean over the classes that occur of the share of them that is told."""
    return float(np.mean([(told[truth == each] == each).mean() for each in np.unique(truth)]))


def balanced_interval(
    truth: np.ndarray, told: np.ndarray, groups: Int[np.ndarray, " case"], seed: int = 0, n: int = 400
) -> tuple[float, float]:
    """95 % interval of `balanced` by bootstrap over groups."""
    from workbench.intervals import resampled_sums

    classes, of = np.unique(truth, return_inverse=True)
    _, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(group.max()) + 1, 2 * len(classes)))
    np.add.at(sums, (group, of), told == truth)
    np.add.at(sums, (group, len(classes) + of), 1.0)
    right, all_ = np.split(resampled_sums(sums, seed, n), 2, axis=1)
    shares = np.divide(right, all_, out=np.full_like(right, np.nan), where=all_ > 0)
    low, high = np.quantile(np.nanmean(shares, axis=1), (0.025, 0.975))
    return float(low), float(high)


def auroc_samples(
    odds: Float[np.ndarray, " case"],
    on: Bool[np.ndarray, " case"],
    groups: Int[np.ndarray, " case"],
    seed: int = 0,
    n: int = 400,
) -> Float[np.ndarray, " resample"]:
    """AUROC of groups drawn with return, `n` times; equal odds count half. The same seed draws the same groups."""
    names, group = np.unique(groups, return_inverse=True)
    values, place = np.unique(odds, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(values)))
    weights = drawn[:, group[order]].astype(np.float32)
    with_, without = (np.add.reduceat(weights * each[order], starts, axis=1) for each in (on, ~on))
    below = np.cumsum(without, axis=1) - without / 2
    total = with_.sum(axis=1) * without.sum(axis=1)
    return np.divide((with_ * below).sum(axis=1), total, out=np.full(n, np.nan, np.float32), where=total > 0)


def ends(samples: Float[np.ndarray, " resample"]) -> tuple[float, float]:
    """The middle 95 % of resamples; those in which a class is missing are left out."""
    low, high = np.nanquantile(samples, (0.025, 0.975))
    return float(low), float(high)
