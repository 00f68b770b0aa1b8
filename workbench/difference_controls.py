"""What the mean difference of a stage promotes, beside chance, its sham and its sibling: ranks of watched tokens.

A token that the sham's difference (the parent trained on, on its own data) or the sibling's (the stage from another
seed, against the stage) ranks as high is no trace of the stage. Each is read plainly through its own later head, at
the site of its own comparison; those not taken apart are left out.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from workbench.controls import STAGE, comparison_of, pairs_of
from workbench.difference_lens import PLAIN
from workbench.differences import Differences
from workbench.errors import MarbleError
from workbench.lab import Lab
from workbench.plan import Plan

if TYPE_CHECKING:
    import polars as pl

CHANCE = "random directions"
COLUMNS = ("class", "token", "series", "rank", "low", "high", "n")


def readouts(lab: Lab, found: Differences, before: str, after: str) -> pl.DataFrame:
    """class, token, series (the pair, `CHANCE`, sham, sibling), rank, low, high, n. Of chance the median and what
    95 % of the directions lie between."""
    import polars as pl

    own = _readout(found, before, after)
    chance = own.select(
        "class", "token", series=pl.lit(CHANCE), rank="null", low="null_low", high="null_high", n="n"
    )
    tables = [own.with_columns(pl.lit(f"{before} → {after}").alias("series")), chance]
    for kind, other, a, b in _controls(lab, before, after):
        tables.append(_readout(other, a, b).with_columns(pl.lit(f"{kind}: {a} → {b}").alias("series")))
    return pl.concat(table.select(*COLUMNS).cast({"rank": pl.Float64}) for table in tables)


def _readout(found: Differences, before: str, after: str) -> pl.DataFrame:
    """One pair's ranks at the first site that has them."""
    table = found.readout.filter(before=before, after=after, head=after, reading=PLAIN)
    return table.filter(table["site"] == table["site"][0]) if table.height else table


def _controls(lab: Lab, before: str, after: str) -> list[tuple[str, Differences, str, str]]:
    """Kind, differences and pair of each control of the stage `before` → `after` that was taken apart."""
    kept = []
    with contextlib.suppress(MarbleError):  # checkpoints without controls
        recipe, pairs = Plan.of(lab).recipe, pairs_of((after,))
        if (before, after) not in {(pair.before, pair.after) for pair in pairs if pair.kind == STAGE}:
            return []
        for pair in pairs:
            config = comparison_of(recipe, pair)
            if pair.kind != STAGE and config is not None:
                with contextlib.suppress(MarbleError):  # not taken apart yet
                    kept.append((pair.kind, Differences.of(lab, config.name), pair.before, pair.after))
    return kept
