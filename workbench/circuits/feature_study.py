"""A task's feature circuit in one checkpoint: all that is worked out of it, by site [Marks 2024].

    scores    IG and AtP of every node on the pairs that search; the foremost by |IG|
    exact     each of the foremost patched for itself, on the pairs that search and on those that judge
    agreement Pearson of a method's scores and the exact effects of the foremost, on the same pairs
    curve     f of the foremost on the pairs that judge; of several sites also with all of them corrupt at once
    reach     what writes each of the foremost, and what it writes
    edges     from every node of a site to the foremost of the next one

The foremost are chosen by the scores that they are shown with: their effects on the judging pairs are not.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from workbench.circuits.competence import Estimate
from workbench.circuits.feature_circuit import SiteScores, feature_scores
from workbench.circuits.feature_edges import FeatureEdges, feature_edges
from workbench.circuits.feature_faithfulness import DRAWS, SIZES, Curve, curve, exact_effects, foremost
from workbench.circuits.feature_model import FeatureModel
from workbench.circuits.feature_reach import LatentWriters, LatentWrites, latent_writers, latent_writes
from workbench.circuits.pairs import Pairs
from workbench.intervals import RESAMPLES
from workbench.points import RESID_POST, Site
from workbench.residual_writers import NotASum

FOREMOST = 20
IG, ATP = "IG", "AtP"
SEARCH, JUDGE = "search", "judge"
Done = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class SiteStudy:
    """One site. `writers` is None where `no_writers` says why."""

    site: Site
    scores: Mapping[str, SiteScores]  # by method
    foremost: tuple[int, ...]
    exact: Mapping[str, Float[np.ndarray, "latent pair"]]  # by use of the pairs
    curve: Curve
    writers: LatentWriters | None
    no_writers: str
    writes: LatentWrites

    def agreement(self, method: str) -> Estimate:
        """Scores beside exact effects on the pairs that search."""
        scores = self.scores[method].latents[:, list(self.foremost)]
        return pearson(scores, self.exact[SEARCH].T)


@dataclasses.dataclass(frozen=True)
class FeatureStudy:
    """All sites; `joint` is the curve of several sites at once."""

    sites: tuple[SiteStudy, ...]
    joint: Curve | None
    edges: tuple[FeatureEdges, ...]


def study(
    model: FeatureModel,
    search: Pairs,
    judge: Pairs,
    n_steps: int,
    seed: int = 0,
    done: Done = lambda n: None,
) -> FeatureStudy:
    """Everything above; `done` is told how many prompts were run, about `amount` in all."""
    methods = {IG: n_steps, ATP: 0}
    scores = {method: feature_scores(model, search, n, done) for method, n in methods.items()}
    pairs = {SEARCH: search, JUDGE: judge}
    sites = tuple(
        _site(model, site, {method: each[site] for method, each in scores.items()}, pairs, seed, done)
        for site in model.sites
    )
    joint = curve(model, scores[IG], judge, seed=seed, done=done) if len(sites) > 1 else None
    edges = tuple(
        feature_edges(model, search, early.site, late.site, late.foremost, done)
        for early, late in itertools.pairwise(sites)
    )
    return FeatureStudy(sites, joint, edges)


def amount(n_sites: int, n_search: int, n_judge: int) -> int:
    """Prompts that `study` runs at the most."""
    curves = n_sites + (n_sites > 1)
    per_curve = n_judge * ((2 + DRAWS) * (len(SIZES) + 2) + 1)
    return (
        2 * n_search + n_sites * FOREMOST * (n_search + n_judge) + curves * per_curve + (n_sites - 1) * n_search
    )


def _site(
    model: FeatureModel,
    site: Site,
    scores: Mapping[str, SiteScores],
    pairs: Mapping[str, Pairs],
    seed: int,
    done: Done,
) -> SiteStudy:
    alone = FeatureModel(model.model, {site: model.coders[site]})
    chosen = tuple(latent for _, latent in foremost({site: scores[IG]})[:FOREMOST])
    writers, why = None, ""
    if site.point != RESID_POST:
        why = f"{site.name} is written by one MLP alone"
    else:
        try:
            writers = latent_writers(alone, pairs[SEARCH], site, chosen)
        except NotASum as error:
            why = str(error)
    return SiteStudy(
        site,
        scores,
        chosen,
        {use: exact_effects(alone, some, site, chosen, done) for use, some in pairs.items()},
        curve(alone, {site: scores[IG]}, pairs[JUDGE], seed=seed, done=done),
        writers,
        why,
        latent_writes(alone, pairs[SEARCH], site, chosen),
    )


def pearson(
    first: Float[np.ndarray, "pair figure"], second: Float[np.ndarray, "pair figure"], seed: int = 0
) -> Estimate:
    """Correlation over figures of their means over pairs, with its 95 % interval over pairs drawn with return; NaN
    where the means of either do not differ."""
    n = len(first)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    drawn = _correlations(weights @ first, weights @ second)
    value = float(_correlations(first.mean(axis=0, keepdims=True), second.mean(axis=0, keepdims=True))[0])
    if math.isnan(value) or n < 2:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def _correlations(
    a: Float[np.ndarray, "row figure"], b: Float[np.ndarray, "row figure"]
) -> Float[np.ndarray, "row"]:
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (a, b))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis=1) / np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
