"""Which latents of a feature table a person asks for: filters, full-text search, order.

A `Searcher` holds what a search reads, lower-cased once for each table: every excerpt, and for each latent its
factor, its tokens, its label. What people and language models say is read anew each time. All texts are compared
with capitals ignored; ␣ is a space. A latent's `hits` are the excerpts that contain the text, and one for each of
its other fields that does.

    change from a to b = (density_b + h) / (density_a + h),   h = half a token's share

so that a latent that never fires in one checkpoint still has a finite change.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from workbench.errors import Misuse, unknown
from workbench.explanations import read_explanations
from workbench.features import DENSITY

if TYPE_CHECKING:
    from workbench.features import FeatureTable

EVERYWHERE, EXAMPLES, FACTOR, PROMOTED, LABEL = "everything", "texts", "factor", "promotes", "label"
PLACES = (EVERYWHERE, EXAMPLES, FACTOR, PROMOTED, LABEL)
ALIVE, DEAD = "alive", "dead"
BEST_MATCH = "best match"
ORDERS: dict[str, tuple[str, bool]] = {  # the column and whether its largest values come first
    "number": ("latent", False),
    "highest number": ("latent", True),
    "most frequent": ("density", True),
    "rarest": ("density", False),
    "strongest": ("max_activation", True),
    "weakest": ("max_activation", False),
    "closest to its factor": ("factor_auroc", True),
    "factor, A to Z": ("factor", False),
    "label score": ("label_score", True),
    "label that tells texts apart best": ("label_detection", True),
    "label, A to Z": ("label", False),
    "starred first": ("star", True),
    "own label, A to Z": ("own_label", False),
    "largest change": ("change", True),
}


@dataclasses.dataclass(frozen=True)
class Query:
    """What is asked for; everything at its default asks for all latents in their own order."""

    text: str = ""
    place: str = EVERYWHERE
    density: tuple[float, float] = (0.0, 1.0)  # both ends included
    factor: str = ""  # contained in the factor's name
    auroc: float = 0.0  # at least; 0 also takes latents without a factor
    alive: str | None = None  # ALIVE, DEAD, or None for both
    change: tuple[str, str] | None = None  # from one checkpoint to another
    at_least: float = 1.0  # bound on that change
    starred: bool = False
    labelled: bool = False  # by a person
    order: str = BEST_MATCH

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise unknown("place to search in", self.place, PLACES)
        if self.order not in (BEST_MATCH, *ORDERS):
            raise unknown("order", self.order, (BEST_MATCH, *ORDERS))
        if self.order == "largest change" and self.change is None:
            raise Misuse("ordering by change needs two checkpoints: choose from which to which")


@dataclasses.dataclass(frozen=True)
class Searcher:
    """One table with its lower-cased texts. Made once for each artefact."""

    table: FeatureTable

    @cached_property
    def excerpts(self) -> pl.DataFrame:
        """latent, text (lower case) of every excerpt."""
        return self.table.excerpts.select("latent", pl.col("text").str.to_lowercase())

    @cached_property
    def fields(self) -> pl.DataFrame:
        """factor, promotes, label, lower case, in the table's order."""
        rows = self.table.table
        label = pl.col("label") if "label" in rows.columns else pl.lit("")
        plain = rows.select(
            pl.col("factor").fill_null("").alias(FACTOR),
            pl.col("promoted").list.join("\n").str.replace_all("␣", " ", literal=True).alias(PROMOTED),
            label.fill_null("").alias(LABEL),
        )
        return plain.select(pl.all().str.to_lowercase())

    def warm(self) -> Searcher:
        """Itself, with the texts read."""
        _ = self.excerpts, self.fields
        return self

    def change(self, of: tuple[str, str]) -> pl.Series:
        """How much more often each latent fires in the second checkpoint than in the first."""
        half = 0.5 / max(1, self.table.index.n_tokens)
        before, after = (self._density(name) for name in of)
        return ((after + half) / (before + half)).alias("change")

    def _density(self, checkpoint: str) -> pl.Series:
        name = f"{DENSITY}{checkpoint}"
        if name not in self.table.table.columns:
            raise unknown("checkpoint with densities", checkpoint, checkpoints(self.table.table))
        return self.table.table[name]

    def hits(self, text: str, place: str) -> pl.Series:
        """For each latent how many of its texts contain `text`."""
        wanted = text.lower().replace("␣", " ")
        found = pl.Series("hits", [0], dtype=pl.UInt32).new_from_index(0, self.table.table.height)
        for name in (FACTOR, PROMOTED, LABEL):
            if place in (EVERYWHERE, name):
                inside = self.fields[name].str.contains(wanted, literal=True)
                inside = inside | self._told(wanted) if name == LABEL else inside
                found = found + inside.cast(pl.UInt32)
        if place in (EVERYWHERE, EXAMPLES):
            inside = self.excerpts["text"].str.contains(wanted, literal=True)
            counted = self.excerpts.filter(inside).group_by("latent").agg(pl.len().alias("n"))
            latents = self.table.table.select("latent").join(counted, on="latent", how="left")
            found = found + latents["n"].fill_null(0).cast(pl.UInt32)
        return found.alias("hits")

    def _told(self, wanted: str) -> pl.Series:
        """Whether a person's label or a language model's explanation contains `wanted`, as they are now."""
        labels = {j: entry.label for j, entry in self.table.annotations.all().items()}
        explained = {j: entry["text"] for j, entry in read_explanations(self.table).items()}
        found = [False] * self.table.table.height
        for said in (labels, explained):
            for latent, text in said.items():
                if text and latent < len(found) and wanted in text.lower():
                    found[latent] = True
        return pl.Series(found, dtype=pl.Boolean)

    def find(self, query: Query, within: pl.DataFrame | None = None) -> pl.DataFrame:
        """Rows of the table that `query` asks for, with `star` and `own_label`, with `hits` where it searches and
        `change` where it compares. `within`: other rows of the same latents to filter, in their own order."""
        rows = self.table.rows
        if query.change is not None:
            rows = rows.with_columns(self.change(query.change))
        if query.text:
            rows = rows.with_columns(self.hits(query.text, query.place)).filter(pl.col("hits") > 0)
        kept = rows.filter(*_filters(query))
        if within is not None:
            extra = [c for c in within.columns if c not in kept.columns]
            kept = within.select("latent", *extra).join(kept, on="latent", how="inner", maintain_order="left")
        return _ordered(kept, query)


def checkpoints(rows: pl.DataFrame) -> list[str]:
    """Those whose densities a table has."""
    return [c.removeprefix(DENSITY) for c in rows.columns if c.startswith(DENSITY)]


def orders_of(column: str) -> list[str]:
    """The orders by a column of the table."""
    return [name for name, (by, _) in ORDERS.items() if by == column]


def _filters(query: Query) -> list[Any]:
    """One polars condition for each bound that is set."""
    low, high = query.density
    found = [pl.col("density").is_between(low, high)]
    if query.factor:
        found.append(pl.col("factor").str.to_lowercase().str.contains(query.factor.lower(), literal=True))
    if query.auroc > 0:
        found.append(pl.col("factor_auroc") >= query.auroc)
    if query.starred:
        found.append(pl.col("star"))
    if query.labelled:
        found.append(pl.col("own_label").is_not_null())
    if query.alive is not None:
        found.append(pl.col("density") > 0 if query.alive == ALIVE else pl.col("density") == 0)
    if query.change is not None:
        found.append(pl.col("change") >= query.at_least)
    return found


def _ordered(rows: pl.DataFrame, query: Query) -> pl.DataFrame:
    if query.order == BEST_MATCH:
        return rows.sort(["hits", "latent"], descending=[True, False]) if query.text else rows
    column, descending = ORDERS[query.order]
    return rows.sort([column, "latent"], descending=[descending, False], nulls_last=True)
