"""Builds `evaluation/latents-<task>-<checkpoint>`: a task's feature circuit in one checkpoint.

`competence.parquet`: how well the checkpoint does the task; where it does not, no other table has a row. A site is
called as in TransformerLens, a node is a latent by number or the error, `ERROR`.

    sites     by site and method: m with the site corrupt less m, the sum of all nodes, the errors' share of it,
              Pearson with exact effects
    nodes     every node with a score, by method
    exact     the foremost latents patched one by one, on the pairs that search and on those that judge
    curve     f by number of latents: with errors, without, of matched ones; `ALL_SITES`: all sites at once
    writers   what makes the foremost latents differ, in the direction in which each pair makes them
    writes    what the foremost latents write to m directly;  tokens: those that they raise and lower
    edges     the strongest edges from nodes of one site to the foremost latents of the next
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saes.dictionary import Dictionary
from workbench.circuits.circuit_build import FIGURES
from workbench.circuits.competence import Competence, competence
from workbench.circuits.feature_circuit import SIGN, SiteScores
from workbench.circuits.feature_faithfulness import Curve
from workbench.circuits.feature_model import FeatureModel
from workbench.circuits.feature_study import JUDGE, SEARCH, FeatureStudy, SiteStudy, amount, study
from workbench.circuits.feature_words import ALL_SITES, ERROR, MATCHED, WITH_ERRORS, WITHOUT_ERRORS
from workbench.circuits.own_tasks import the_task
from workbench.circuits.pairs import Pairs
from workbench.circuits.tasks import USES, task_pairs
from workbench.device import best_device, few_threads
from workbench.dictionary_folder import open_dictionary
from workbench.errors import Misuse
from workbench.grow import Build
from workbench.intervals import ratio_interval, ratio_intervals
from workbench.part_tables import write_part
from workbench.points import Site, parse_site
from workbench.vocabulary import Vocabulary

EDGES = 120  # stored of each two sites
NODE: Mapping[str, Any] = {"site": pl.String, "node": pl.Int64}
ENDS: Mapping[str, Any] = {"low": pl.Float64, "high": pl.Float64, "n": pl.Int64}
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "competence": {"figure": pl.String, "value": pl.Float64, **ENDS},
    "sites": {"site": pl.String, "method": pl.String, "figure": pl.String, "value": pl.Float64, **ENDS},
    "nodes": {**NODE, "method": pl.String, "score": pl.Float64, **ENDS},
    "exact": {**NODE, "pairs": pl.String, "effect": pl.Float64, **ENDS},
    "curve": {
        "site": pl.String, "kind": pl.String, "size": pl.Int64, "draw": pl.Int64, "reach": pl.Float64,
        "f": pl.Float64, **ENDS,
    },
    "writers": {**NODE, "component": pl.String, "delta": pl.Float64, **ENDS, "n_places": pl.Int64},
    "writes": {**NODE, "direct": pl.Float64, **ENDS},
    "tokens": {**NODE, "side": pl.String, "rank": pl.Int64, "token": pl.String},
    "edges": {
        "early": pl.String, "from": pl.Int64, "late": pl.String, "to": pl.Int64, "weight": pl.Float64, **ENDS,
    },
}  # fmt: skip
Row = tuple[Any, ...]


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/latents-<task>-<checkpoint>`."""
    config, task = build.config, the_task(build.config)
    checkpoint = build.lab.checkpoint(config["checkpoint"])
    n, seed, name = config["n_pairs"], config["seed"], config["checkpoint"]
    pairs: dict[str, Pairs] = {use: task_pairs(build.lab, task, n, use, seed, checkpoint=name) for use in USES}
    sites = _dictionaries(build, checkpoint.n_layers)
    with few_threads(checkpoint.d_model):
        model = checkpoint.model(best_device())
        able = competence(model, pairs[JUDGE])
        found = _studied(build, FeatureModel(model, sites), pairs) if able.does_it else None
    rows = Tables(able, found, Vocabulary(checkpoint.tokenizer()))
    for part, schema in SCHEMAS.items():
        table = pl.DataFrame(list(getattr(rows, part)()), schema=dict(schema), orient="row")
        write_part(build.draft.path, part, table)
    return {
        "task": task.name, "question": task.question, "checkpoint": name, "does_it": able.does_it,
        "why_not": able.why_not, "sign": SIGN, "method": f"IG {config['n_steps']}",
        "n_pairs": {use: len(some) for use, some in pairs.items()},
        "dictionaries": {site.name: each for site, each in zip(sites, config["dictionaries"], strict=True)},
        **_checks(found),
    }  # fmt: skip


def _dictionaries(build: Build, n_layers: int) -> dict[Site, Dictionary]:
    """By site, in the order in which the recipe names them."""
    found = {}
    for name in build.config["dictionaries"]:
        opened = open_dictionary(build.parents[f"dictionary/{name}"].path, name)
        site = parse_site(opened.site, n_layers)
        if site in found:
            raise Misuse(f"two dictionaries of feature circuit {build.step.name!r} read {site.name}: name one")
        found[site] = opened
    return found


def _studied(build: Build, model: FeatureModel, pairs: Mapping[str, Pairs]) -> FeatureStudy:
    """The study with its progress: `amount` is what it takes at the most."""
    search, judge, ran = pairs[SEARCH], pairs[JUDGE], 0
    total = amount(len(model.sites), len(search), len(judge))

    def done(n: int) -> None:
        nonlocal ran
        ran += n
        build.progress.advance(n)

    build.progress.start(total, "prompts", label=f"latents of {build.config['checkpoint']}")
    found = study(model, search, judge, build.config["n_steps"], build.config["seed"], done)
    build.progress.advance(total - ran)
    return found


def _checks(found: FeatureStudy | None) -> dict[str, Any]:
    """What is no estimate: whether sums are what they should be."""
    if found is None:
        return {"sites": {}, "edges": []}
    sites = {
        each.site.name: {
            "residual": {method: scores.residual for method, scores in each.scores.items()},
            "foremost": list(each.foremost),
            "no_writers": each.no_writers,
            "writers_residual": None if each.writers is None else each.writers.residual,
        }
        for each in found.sites
    }
    edges = [{"early": e.early.name, "late": e.late.name, "residual": e.residual} for e in found.edges]
    return {"sites": sites, "edges": edges}


class Tables:
    """Rows of every table of `SCHEMAS`."""

    def __init__(self, able: Competence, found: FeatureStudy | None, words: Vocabulary) -> None:
        self.able, self.study, self.words = able, found, words
        self.found: tuple[SiteStudy, ...] = () if found is None else found.sites

    def competence(self) -> Iterator[Row]:
        yield from ((figure, *getattr(self.able, figure), self.able.n) for figure in FIGURES)

    def sites(self) -> Iterator[Row]:
        for each in self.found:
            for method, scores in each.scores.items():
                here, n = (each.site.name, method), len(scores.whole)
                yield (*here, "whole", *_mean(scores.whole))
                yield (*here, "nodes", *_mean(scores.total))
                yield (*here, "error share", *scores.error_share, n)
                yield (*here, "pearson", *each.agreement(method), n)

    def nodes(self) -> Iterator[Row]:
        for each in self.found:
            for method, scores in each.scores.items():
                yield from ((each.site.name, node, method, *figures) for node, *figures in _nodes(scores))

    def exact(self) -> Iterator[Row]:
        for each in self.found:
            for pairs, effects in each.exact.items():
                for node, effect in zip(each.foremost, effects, strict=True):
                    yield (each.site.name, node, pairs, *_mean(effect))

    def curve(self) -> Iterator[Row]:
        curves = {each.site.name: each.curve for each in self.found}
        if self.study is not None and self.study.joint is not None:
            curves[ALL_SITES] = self.study.joint
        for site, each in curves.items():
            yield from ((site, *row, self.able.n) for row in _curve(each))

    def writers(self) -> Iterator[Row]:
        for each in self.found:
            if each.writers is None:
                continue
            n = len(each.writers.counts)
            for at, node in enumerate(each.foremost):
                if not each.writers.n[at]:
                    continue
                ends, places = each.writers.interval(at), int(each.writers.n[at])
                for c, name in enumerate(each.writers.components):
                    delta = float(each.writers.delta[c, at])
                    yield (each.site.name, node, name, delta, *map(float, ends[c]), n, places)

    def writes(self) -> Iterator[Row]:
        for each in self.found:
            for node, direct in zip(each.foremost, each.writes.direct, strict=True):
                yield (each.site.name, node, *_mean(direct))

    def tokens(self) -> Iterator[Row]:
        for each in self.found:
            for side, ids in (("raised", each.writes.raised), ("lowered", each.writes.lowered)):
                for node, row in zip(each.foremost, ids, strict=True):
                    for rank, i in enumerate(row, 1):
                        yield (each.site.name, node, side, rank, self.words[int(i)].shown)

    def edges(self) -> Iterator[Row]:
        for each in self.study.edges if self.study is not None else ():
            for start, end, _ in each.strongest(EDGES):
                weight = _mean(each.of(start, end).astype(np.float64))
                yield (each.early.name, start, each.late.name, end, *weight)


def _mean(values: Float[np.ndarray, "pair"]) -> tuple[float, float, float, int]:
    """The mean over pairs, its interval, n."""
    return float(values.mean()), *ratio_interval(values, np.ones(len(values))), len(values)


def _nodes(scores: SiteScores) -> Iterator[Row]:
    """Latents that have a score, and the error."""
    n, mean = len(scores.whole), scores.mean
    some = np.flatnonzero(mean)
    ends = ratio_intervals(scores.latents[:, some], np.ones(n))
    yield from (
        (int(node), float(mean[node]), *map(float, end), n) for node, end in zip(some, ends, strict=True)
    )
    yield (ERROR, *_mean(scores.errors))


def _curve(each: Curve) -> Iterator[Row]:
    for at, size in enumerate(each.sizes):
        own, beside = each.reach[at]
        yield (WITH_ERRORS, size, 0, own, *each.with_errors[at])
        yield (WITHOUT_ERRORS, size, 0, own, *each.without_errors[at])
        yield from ((MATCHED, size, draw, beside, *f) for draw, f in enumerate(each.matched[at]))
