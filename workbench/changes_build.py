"""Builds the ranked changes of a comparison: of each checkpoint against its parent (against the one before it,
where the parent is not compared), on held-out text.

`entries.parquet`: what `workbench.changes` finds, tokens as the vocabulary shows them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import polars as pl

from workbench.changed import SCHEMA_NAMES
from workbench.changes import DIFFERENCES, Changes, ranked_changes
from workbench.checkpoint import fast_models
from workbench.dictionaries import token_sets
from workbench.grow import Build
from workbench.plan import Plan
from workbench.tokens import TokenSet

COMPARED_TOKENS = 16_000  # of the held-out set
TRAINED = dataclasses.replace(DIFFERENCES, n_steps=150)  # fewer tokens need fewer steps
SCHEMA: Mapping[str, Any] = dict(
    zip(
        SCHEMA_NAMES,
        (
            pl.String, pl.String, pl.Int64, pl.Float64, pl.Float64, pl.Float64, pl.Int64, pl.List(pl.String),
            pl.List(pl.String), pl.List(pl.Float64), pl.List(pl.Int64),
        ),
        strict=True,
    )
)  # fmt: skip


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/changes-<comparison>`."""
    names = build.plan.recipe.comparison(build.config["comparison"]).checkpoints
    tokens = token_sets(build)["heldout"]
    windows = tokens.sample_windows(COMPARED_TOKENS, seed=4)
    models = fast_models(build.lab, names)
    pairs = pairs_of(build.plan, names)
    build.progress.start(len(pairs), "pairs", label="what changed")
    rows: list[tuple[Any, ...]] = []
    figures = {}
    for before, after in pairs:
        found = ranked_changes(models[before], models[after], tokens, windows, config=TRAINED)
        rows += rows_of(before, after, found, tokens)
        figures[f"{before}|{after}"] = {
            "kl": found.kl, "largest": found.largest, "n": found.n, "explained": found.explained,
            "silent": found.silent,
        }  # fmt: skip
        build.progress.advance()
    pl.DataFrame(rows, schema=SCHEMA, orient="row").write_parquet(build.draft.path / "entries.parquet")
    return {"pairs": figures}


def pairs_of(plan: Plan, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """(parent, child); a checkpoint whose parent is not among `names` against the one before it."""
    parents = {name: plan.parent_checkpoint(name) for name in names}
    return [(p if (p := parents[b]) in names else a, b) for a, b in itertools.pairwise(names)]


def rows_of(before: str, after: str, found: Changes, tokens: TokenSet) -> list[tuple[Any, ...]]:
    """Rows of `SCHEMA`."""
    shown = tokens.vocabulary
    return [
        (
            before, after, rank, e.score, e.total, e.share, e.n, [shown[i] for i in e.active],
            [shown[m.token] for m in e.moved], [m.by for m in e.moved], list(e.rows),
        )
        for rank, e in enumerate(found.entries, 1)
    ]  # fmt: skip
