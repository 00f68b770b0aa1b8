"""The ranked changes of a comparison, read."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING

from workbench.part_tables import Part, read_part

if TYPE_CHECKING:
    import polars as pl

SCHEMA_NAMES = (
    "before", "after", "rank", "score", "total", "share", "n", "active", "moved", "by", "rows",
)  # fmt: skip
FIRST = 3  # entries that a sentence names


@dataclasses.dataclass(frozen=True)
class Changed(Part):
    """`figures["pairs"]["a|b"]`: kl (nats per token), largest, n (tokens), explained, silent."""

    PART = "changes"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(a, b) for a, _, b in (pair.partition("|") for pair in self.figures["pairs"])]

    @cached_property
    def entries(self) -> pl.DataFrame:
        """before, after, rank, score (nats at its foremost tokens), total, share, n, active and moved (tokens), by
        (of each moved token's probability), rows."""
        return read_part(self.path, "entries", SCHEMA_NAMES)

    def of_pair(self, before: str, after: str) -> pl.DataFrame:
        """One pair's entries, foremost first."""
        import polars as pl

        return self.entries.filter((pl.col("before") == before) & (pl.col("after") == after)).sort("rank")

    def first(self, before: str, after: str, n: int) -> list[str]:
        """The foremost entries of a pair in words."""
        return [
            f"after {' '.join(row['active'])}: {moves(row['moved'], row['by'])} ({row['score']:.2f} nats)"
            for row in self.of_pair(before, after).head(n).iter_rows(named=True)
        ]

    def sentence(self, before: str, after: str) -> str:
        """One pair in words."""
        found = self.figures["pairs"][f"{before}|{after}"]
        if found["silent"]:
            return (
                f"{before} → {after}: silent: on {found['n']:,} held-out tokens predictions nowhere part by more "
                f"than {found['largest']:.1g} nats"
            )
        told = "; ".join(self.first(before, after, FIRST))
        return f"{before} → {after}: what changed first: {told}"

    def sentences(self) -> list[str]:
        return [self.sentence(*pair) for pair in self.pairs]


def moves(tokens: list[str], by: list[float], at_most: int = 3) -> str:
    """Tokens with how their probability moved, for a line."""
    return ", ".join(f"{token} {value:+.2f}" for token, value in list(zip(tokens, by, strict=True))[:at_most])
