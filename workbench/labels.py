"""A label for each latent without any outside model, and how well it predicts the latent on texts it was not
chosen on.

A label is a rule (`workbench.label_rules`): a few tokens, a factor, what comes before or after. On one half of
the documents each latent takes its best rule by F1; a later kind has to beat a plainer one by `MARGIN`. On the
other half the rule r (0 or 1) is held against the activation f:

    label_score = corr(r, f) over all tokens         [the correlation score of Bills 2023, of a rule]
    label_f1    = F1 of r against "fires"            label_balanced = (recall + specificity) / 2
    label_null  = the largest corr(r', f) of the labels r' of `N_NULL` other latents
    label_detection            how well it tells texts apart (`workbench.detection`), as explanations are scored

A latent whose own label does no better than `label_null`, or below `MIN_SCORE`, gets none. What checkpoints
wrote themselves is left out: nobody labelled its factors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from saes.index import FeatureIndex
from workbench.detection import detection, mixture
from workbench.label_rules import KINDS, MAX_ITEMS, Candidates, Facts, Rule, holds, rule_sizes
from workbench.tokens import TokenSet

MARGIN = 0.05  # of F1
MIN_SCORE = 0.1
N_NULL = 8  # other latents whose labels are tried on each
AT_ONCE = 256  # latents whose texts are held together


class Agreement(NamedTuple):
    """A rule against a latent, on some tokens; NaN where either is constant."""

    score: Float[np.ndarray, " latent"]
    f1: Float[np.ndarray, " latent"]
    balanced: Float[np.ndarray, " latent"]


def label_columns(
    index: FeatureIndex, token_set: TokenSet, promoted: Int[np.ndarray, "latent n"], seed: int = 0
) -> dict[str, pl.Series]:
    """`label`, `label_kind` and the figures above, a row a latent; `promoted` ids its decoder raises."""
    facts = Facts(token_set)
    chosen_on, scored_on = label_halves(token_set, seed)
    candidates = Candidates(index, facts, chosen_on)
    rules = [chosen(candidates.of(j, promoted[j])) for j in range(index.n_latents)]
    has = np.array([rule is not None for rule in rules])
    kinds, items = _arrays(rules)
    sizes = rule_sizes(facts, kinds, items, scored_on)
    measure = _Scorer(index, facts, scored_on, kinds, items, sizes)
    own = measure.against(np.arange(index.n_latents))
    null = _null(measure, has, seed)
    told = has & (np.nan_to_num(own.score, nan=-1.0) > np.maximum(null, MIN_SCORE))
    words = [r.words(token_set, facts.domains) if r and t else None for r, t in zip(rules, told, strict=True)]
    kept = [r.kind if r and t else None for r, t in zip(rules, told, strict=True)]
    detected = _detected(index, facts, scored_on, kinds, items, np.flatnonzero(has))
    figures = {
        "label_detection": detected[0],
        "label_detection_n": detected[1],
        "label_score": own.score,
        "label_null": null,
        "label_f1": own.f1,
        "label_balanced": own.balanced,
    }
    return {
        "label": pl.Series("label", words, dtype=pl.String),
        "label_kind": pl.Series("label_kind", kept, dtype=pl.String),
    } | {
        name: pl.Series(name, np.where(has, values, np.nan)).fill_nan(None) for name, values in figures.items()
    }


def label_halves(
    token_set: TokenSet, seed: int
) -> tuple[Bool[np.ndarray, " token"], Bool[np.ndarray, " token"]]:
    """Tokens of the documents that choose the labels, and of those that score them; at random by document."""
    draw = np.random.default_rng([seed, 1]).integers(0, 2, token_set.documents.height)
    own = (token_set.documents["domain"] == "rollout").to_numpy()
    half = np.where(own, -1, draw)[np.asarray(token_set.document)]
    return half == 0, half == 1


def chosen(rules: list[Rule]) -> Rule | None:
    """The best rule by F1, a plainer kind where the gain is below `MARGIN`."""
    best: Rule | None = None
    for rule in sorted(rules, key=lambda r: KINDS.index(r.kind)):
        if best is None or rule.f1 > best.f1 + MARGIN:
            best = rule
    return best


def _arrays(rules: list[Rule | None]) -> tuple[np.ndarray, np.ndarray]:
    """Kinds int [rule] and items int [rule, MAX_ITEMS]; a missing rule never holds."""
    kinds = np.array([KINDS.index(r.kind) if r else KINDS.index("token") for r in rules], np.int64)
    items = np.full((len(rules), MAX_ITEMS), -2, np.int64)
    for i, rule in enumerate(rules):
        if rule:
            items[i, : len(rule.items)] = rule.items
    return kinds, items


class _Scorer:
    """Holds any assignment of rules to latents against the activations on the tokens `inside`."""

    def __init__(
        self,
        index: FeatureIndex,
        facts: Facts,
        inside: Bool[np.ndarray, " token"],
        kinds: np.ndarray,
        items: np.ndarray,
        sizes: np.ndarray,
    ) -> None:
        rows = np.asarray(index.tokens)
        kept = np.flatnonzero(inside[rows])
        self._rows = rows[kept].astype(np.int64)
        self._latent = np.repeat(np.arange(index.n_latents), np.diff(index.starts))[kept]
        self._values = np.asarray(index.values)[kept].astype(np.float64)
        self._facts, self._kinds, self._items, self._sizes = facts, kinds, items, sizes
        self._n, self._size = int(inside.sum()), index.n_latents
        self._fires = self._sum(np.ones(len(kept)))
        self._total, self._square = self._sum(self._values), self._sum(self._values**2)

    def _sum(self, weights: np.ndarray) -> np.ndarray:
        return np.bincount(self._latent, weights, minlength=self._size)

    def against(self, rule_of: Int[np.ndarray, " latent"]) -> Agreement:
        """Each latent against the rule of latent `rule_of[latent]`."""
        on = holds(self._facts, self._kinds, self._items, rule_of[self._latent], self._rows).astype(np.float64)
        true, inner, size = self._sum(on), self._sum(on * self._values), self._sizes[rule_of].astype(float)
        n = max(self._n, 1)
        covariance = inner / n - (size / n) * (self._total / n)
        spread = (size / n) * (1 - size / n) * (self._square / n - (self._total / n) ** 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            score = covariance / np.sqrt(spread)
            silent = n - self._fires
            balanced = (true / self._fires + (silent - (size - true)) / silent) / 2
            f1 = 2 * true / (size + self._fires)
        return Agreement(np.where(spread > 0, score, np.nan), f1, balanced)


def _null(measure: _Scorer, has: np.ndarray, seed: int) -> Float[np.ndarray, " latent"]:
    """For each latent the best score that a few other latents' labels reach on it."""
    labelled = np.flatnonzero(has)
    if len(labelled) < 2:
        return np.zeros(len(has))
    rng = np.random.default_rng([seed, 2])
    scores = []
    for _ in range(N_NULL):
        other = rng.choice(labelled, len(has))
        clash = other == np.arange(len(has))
        other[clash] = labelled[(np.searchsorted(labelled, other[clash]) + 1) % len(labelled)]
        scores.append(np.nan_to_num(measure.against(other).score, nan=0.0))
    return np.stack(scores).max(axis=0)


def _detected(
    index: FeatureIndex,
    facts: Facts,
    inside: Bool[np.ndarray, " token"],
    kinds: np.ndarray,
    items: np.ndarray,
    latents: Int[np.ndarray, " labelled"],
) -> tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"]]:
    """Balanced accuracy with which each rule tells its latent's texts apart, and on how many; a rule picks a text
    in which it holds somewhere. NaN where there is no rule or the latent does not fire `inside`."""
    balanced, n = np.full((2, index.n_latents), np.nan)
    rows = np.flatnonzero(inside)
    for at in range(0, len(latents), AT_ONCE):
        chosen = latents[at : at + AT_ONCE]
        drawn = [mixture(index, facts.token_set, int(j), rows) for j in chosen]
        starts, stops = (np.concatenate([part[i] for part in drawn]) for i in (0, 1))
        lengths, counts = stops - starts, [len(part.fires) for part in drawn]
        text = np.repeat(np.arange(len(starts)), lengths)
        inner = np.arange(len(text)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        on = holds(facts, kinds, items, np.repeat(chosen, counts)[text], starts[text] + inner)
        picked = np.bincount(text, on, minlength=len(starts)) > 0
        for j, part, own in zip(chosen, drawn, np.split(picked, np.cumsum(counts)[:-1]), strict=True):
            if len(own):
                balanced[j], _, n[j] = detection(own, part.fires)
    return balanced, n
