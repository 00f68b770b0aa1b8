"""Separately trained SAEs matched, read: whose latents have a counterpart, and what an SAE is worth elsewhere.

SAEs of one starting seed began from the same weights and saw the same batches, so that some of what matches is the
start and no feature. What two seeds of one checkpoint have in common is the floor: a latent that another checkpoint
lacks says nothing of training where another seed of its own checkpoint lacks it as often.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.intervals import Interval, bracketed, wilson
from workbench.part_tables import Part, read_part
from workbench.recipe import STAGES

if TYPE_CHECKING:
    import polars as pl

MATCHED_BY = "mean"  # the criterion of the assignment that is told
SAME, OTHER, FLOOR = KINDS = ("same seed", "other seed", "one checkpoint, two seeds")
BOUNDS = {"cosine": 0.7, "correlation": 0.5}  # from which two latents count as counterparts
WIDTH, LOWEST = 0.02, -10  # of a bin of a distribution; the number of the first, with all that is below it
COLUMNS = {
    "pairs": ("kind", "a", "b", "by", "latent_a", "latent_b", "cosine", "correlation"),
    "nulls": ("a", "b", "by", "cosine", "correlation"),
    "best": ("kind", "own", "other", "latent", "fires", "cosine", "correlation"),
    "shares": ("kind", "a", "b", "by", "figure", "value", "low", "high", "null", "n"),
    "unmatched": ("own", "other", "latent", "fires", "cosine", "correlation", "seed_correlation", "label"),
    "transfer": ("sae", "checkpoint", "figure", "value", "low", "high", "n"),
}


class Without(NamedTuple):
    """Latents of one SAE without counterpart in another: how many of n, and of them those that another seed of its
    own checkpoint has (None where there is none)."""

    hits: int
    n: int
    value: float
    low: float
    high: float
    in_another_seed: int | None


@dataclasses.dataclass(frozen=True)
class Matched(Part):
    """`figures`: `saes` and `seeds` (checkpoint → SAE), `matched` (SAE → latents that took part), `tokens`,
    `unlike` (SAEs that were trained for longer or shorter than the first)."""

    PART = "matching"

    def _table(self, name: str) -> pl.DataFrame:
        return read_part(self.path, name, COLUMNS[name])

    @cached_property
    def pairs(self) -> pl.DataFrame:
        """kind, a, b, by (what the assignment maximises), latent_a, latent_b, cosine, correlation."""
        return self._table("pairs")

    @cached_property
    def nulls(self) -> pl.DataFrame:
        """a, b, by, cosine, correlation: what chance gives the first two, and others like them."""
        return self._table("nulls")

    @cached_property
    def best(self) -> pl.DataFrame:
        """kind, own, other, latent, fires, cosine, cosine_latent, correlation, correlation_latent: the nearest of
        the other SAE, whoever else wants it."""
        return self._table("best")

    @cached_property
    def shares(self) -> pl.DataFrame:
        """kind, a, b, by, figure, value, low, high, null, n."""
        return self._table("shares")

    @cached_property
    def unmatched(self) -> pl.DataFrame:
        """own, other, latent, fires, cosine, correlation, seed_correlation, label."""
        return self._table("unmatched")

    @cached_property
    def transfer(self) -> pl.DataFrame:
        """sae (the checkpoint that it was trained on), checkpoint, figure, value, low, high, n."""
        return self._table("transfer")

    @property
    def saes(self) -> Mapping[str, str]:
        return self.figures["saes"]

    def couples(self, kind: str) -> list[tuple[str, str]]:
        """The pairs of SAEs of a kind, as they were matched."""
        rows = self.shares.filter(kind=kind).select("a", "b").unique(maintain_order=True)
        return list(rows.iter_rows())

    def share(self, a: str, b: str, figure: str, by: str = MATCHED_BY) -> Mapping[str, Any]:
        """One row of `shares`."""
        return self.shares.row(by_predicate=_is(a=a, b=b, by=by, figure=figure), named=True)

    def without(self, own: str, other: str) -> Without:
        """How many latents of an SAE have no counterpart in another."""
        rows = self.best.filter(own=own, other=other)
        far = rows.filter(_all_below())
        known = self.unmatched.filter(own=own, other=other)["seed_correlation"].drop_nulls()
        again = int((known >= BOUNDS["correlation"]).sum()) if self._seed_of(own) else None
        bounds = wilson(far.height, rows.height) if rows.height else Interval(float("nan"), float("nan"))
        return Without(far.height, rows.height, far.height / max(rows.height, 1), *bounds, again)

    def floor_without(self, own: str) -> Without | None:
        """The same between two seeds of its own checkpoint; None where there is no other."""
        again = self._seed_of(own)
        return None if again is None else self.without(own, again)._replace(in_another_seed=None)

    def _seed_of(self, own: str) -> str | None:
        checkpoint = next(name for name, sae in self.saes.items() if sae == own)
        return self.figures["seeds"].get(checkpoint)

    def cell(self, sae: str, checkpoint: str, figure: str) -> Mapping[str, Any]:
        """One cell of the transfer matrix."""
        return self.transfer.row(by_predicate=_is(sae=sae, checkpoint=checkpoint, figure=figure), named=True)

    def distributions(self, a: str, b: str, by: str = MATCHED_BY) -> pl.DataFrame:
        """figure, series, edge (`WIDTH` apart), share of the pairs at it or above, n: the pairs of two SAEs beside
        what chance gives, and beside two seeds of the later one's checkpoint."""
        import polars as pl

        drawn = {"matched": self.pairs.filter(a=a, b=b, by=by), "chance": self.nulls.filter(by=by)}
        for kind, x, y in self.pairs.select("kind", "a", "b").unique(maintain_order=True).iter_rows():
            of_two_seeds = kind == FLOOR and b in (x, y)
            if of_two_seeds or (kind == OTHER and x == a and y == self._seed_of(b)):
                drawn[kind] = self.pairs.filter(a=x, b=y, by=by)
        edges = pl.DataFrame({"bin": range(LOWEST, round(1 / WIDTH) + 1)})
        parts = []
        for (series, rows), figure in itertools.product(drawn.items(), BOUNDS):
            place = (pl.col(figure) / WIDTH).floor().cast(pl.Int64).clip(LOWEST).alias("bin")
            counted = edges.join(rows.group_by(place).len(), on="bin", how="left", maintain_order="left")
            told = counted.select(
                edge=(pl.col("bin") * WIDTH).round(6),
                share=pl.col("len").fill_null(0).reverse().cum_sum().reverse(),
            )
            parts.append(
                told.select(
                    pl.lit(figure).alias("figure"),
                    pl.lit(series).alias("series"),
                    "edge",
                    pl.col("share") / max(rows.height, 1),
                    pl.lit(rows.height).alias("n"),
                )
            )
        return pl.concat(parts)

    def sentences(self, lab: str) -> list[str]:
        """What a person reads."""
        told = [self.pair_sentence(kind, a, b) for kind in KINDS for a, b in self.couples(kind)]
        told += [self.alone_sentence(a, b) for a, b in self.couples(SAME)]
        told.append(self.seed_sentence(lab))
        told += [self.transfer_sentence(name) for name in self.saes]
        if unlike := self.figures["unlike"]:
            told.append(f"{', '.join(unlike)} were trained for longer or shorter: part of what differs is that")
        return told

    def pair_sentence(self, kind: str, a: str, b: str, by: str = MATCHED_BY) -> str:
        """How well two SAEs match."""
        cosine, correlation, near, same = (
            self.share(a, b, figure, by)
            for figure in ("cosine", "correlation", f"correlation ≥ {BOUNDS['correlation']:g}", "same number")
        )
        chance = "" if cosine["null"] is None else f" (rotated {cosine['null']:.2f})"
        shuffled = "" if correlation["null"] is None else f" (shuffled {correlation['null']:.2f})"
        return (
            f"{a} and {b} ({kind}): {cosine['n']:,} pairs, mean cosine {_bounds(cosine)}{chance}, mean correlation "
            f"{_bounds(correlation)}{shuffled}; {near['value']:.0%} of {near['n']:,} latents correlate at "
            f"{BOUNDS['correlation']:g} or more; {same['value']:.0%} are paired with their own number"
        )

    def alone_sentence(self, a: str, b: str) -> str:
        """Latents of the later without counterpart in the earlier, beside what two seeds give."""
        found, floor = self.without(b, a), self.floor_without(b)
        said = (
            f"{b}: {found.hits:,} of {found.n:,} latents ({found.value:.0%} [{found.low:.0%}, {found.high:.0%}]) "
            f"have no counterpart in {a}"
        )
        if floor is None:
            return said
        verdict = "no more than" if found.low <= floor.high else "more than"
        return (
            f"{said}, {verdict} another seed of the same checkpoint lacks ({floor.value:.0%} "
            f"[{floor.low:.0%}, {floor.high:.0%}]); {found.in_another_seed:,} of them that seed has too"
        )

    def seed_sentence(self, lab: str) -> str:
        """What the shared start does, and what a floor would tell where there is none."""
        start = (
            "they began from the same weights and saw the same batches, which makes them alike beyond what they "
            "found"
        )
        if self.figures["seeds"]:
            return f"SAEs of one seed: {start}; read them beside the other seeds"
        command = f"python -m workbench compare {lab} {' '.join(self.saes)} --controls"
        if not set(STAGES[1:]) & set(self.saes):  # they have no controls
            first, seed = next(iter(self.saes)), self.figures["seed"] + 1
            command = f"python -m workbench sae {lab} --checkpoint {first} --seed {seed}"
        return (
            f"SAEs of one seed: {start}. What two trainings on one checkpoint have in common "
            f"would be the floor: `{command}` trains another seed"
        )

    def transfer_sentence(self, sae: str) -> str:
        """An SAE at home and elsewhere."""
        parts = []
        for checkpoint in self.saes:
            fvu, score = (self.cell(sae, checkpoint, figure) for figure in ("fvu", "ce_score"))
            where = "at home" if checkpoint == sae else f"on {checkpoint}"
            parts.append(f"{where} FVU {_bounds(fvu, 3)}, CE score {_bounds(score, 3)}")
        return f"the SAE of {sae}, thresholds and scale as trained: {'; '.join(parts)}"

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        directed = [pair for a, b in self.couples(SAME) for pair in ((b, a), (a, b))]
        return {
            "saes": dict(self.saes),
            "seeds": dict(self.figures["seeds"]),
            "tokens": self.figures["tokens"],
            "shares": self.shares.to_dicts(),
            "unmatched": [{"own": x, "other": y} | self.without(x, y)._asdict() for x, y in directed],
            "seed_floor": {
                own: floor._asdict() for own in self.saes.values() if (floor := self.floor_without(own))
            },
            "transfer": self.transfer.to_dicts(),
        }


def _is(**wanted: str) -> Any:
    import polars as pl

    return pl.all_horizontal(pl.col(name) == value for name, value in wanted.items())


def _all_below() -> Any:
    import polars as pl

    return pl.all_horizontal(pl.col(name) < bound for name, bound in BOUNDS.items())


def _bounds(row: Mapping[str, Any], digits: int = 2) -> str:
    return bracketed(row["value"], row["low"], row["high"], digits)
