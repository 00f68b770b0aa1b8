"""What patching one checkpoint with another's stream and a set of latents brings, read.

`recovered` is 1 − KL(b ‖ b with a's stream and what the set writes differently) / KL(b ‖ b with a's stream)
(`workbench.patch_trial`): 0 is a's stream alone, 1 is b itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.controls import comparison_of, pairs_of
from workbench.errors import MarbleError
from workbench.intervals import bracketed
from workbench.lab import Lab
from workbench.part_tables import Part, read_part
from workbench.plan import Plan

if TYPE_CHECKING:
    import polars as pl

NONE, ALL, BIAS, LATENTS_BIAS, ERROR, EXACT = (
    "none", "all latents", "bias", "all latents + bias", "error", "all latents + bias + error",
)  # fmt: skip
MARKERS_WHOLE, CONTENT_WHOLE, EXCLUSIVE, SPECIFIC, ITSELF = (
    "whole stream at chat markers", "whole stream elsewhere", "exclusive by norm", "specific by scaling", "itself",
)  # fmt: skip
NORM, ATTRIBUTION, RANDOM, MATCHED, SHARED = "norm difference", "attribution", "random", "matched", "shared"
MAIN = "main set"
GOLD_DOMAIN = "chat"  # as token sets name it
EVERY, FIRST, REST, GOLD_CHATS, OWN_SAMPLES = TOKENS = ("all", "first", "rest", "gold chats", "own samples")
PAIR = ("before", "after", "into")
MEASURED = ("tokens", "recovered", "low", "high", "kl", "n", "documents")


class MainSet(NamedTuple):
    """The fewest first latents that, on other documents, recover at least half of what all latents do."""

    order: str
    size: int


@dataclasses.dataclass(frozen=True)
class Patching(Part):
    """The tables of `workbench.patching_build`."""

    PART = "patching"

    @cached_property
    def baselines(self) -> pl.DataFrame:
        """before, after, into (the checkpoint that is patched), set, size (latents), tokens (`TOKENS`), recovered,
        low, high, kl (nats a token), n (tokens), documents."""
        return read_part(self.path, "baselines", (*PAIR, "set", "size", *MEASURED))

    @cached_property
    def curve(self) -> pl.DataFrame:
        """before, after, into, order, draw, size, length (share of all that latents write), tokens, recovered, …"""
        return read_part(self.path, "curve", (*PAIR, "order", "draw", "size", "length", *MEASURED))

    @cached_property
    def doses(self) -> pl.DataFrame:
        """before, after, into, latents (main set or matched), size, dose, tokens, recovered, …"""
        return read_part(self.path, "doses", (*PAIR, "latents", "size", "dose", *MEASURED))

    @cached_property
    def latents(self) -> pl.DataFrame:
        """before, after, order, rank, latent, score, chosen (is of the main set)."""
        return read_part(
            self.path, "latents", ("before", "after", "order", "rank", "latent", "score", "chosen")
        )

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(before, after), all that were patched; none where there are no chats."""
        return [tuple(pair.split("|")) for pair in self.figures["main"]]  # type: ignore[misc]

    def judged(self) -> str:
        """The chats, in words."""
        chats = dict(self.figures["chats"])
        gold = chats.pop(GOLD_DOMAIN, 0)
        own = ", ".join(f"{n} of {name.removeprefix('rollout:')}" for name, n in chats.items())
        return ", ".join(
            part for part in (f"{gold} gold" if gold else "", f"own answers: {own}" if own else "") if part
        )

    def main(self, before: str, after: str) -> MainSet | None:
        """None where all latents together recover nothing."""
        found = self.figures["main"][f"{before}|{after}"]
        return MainSet(**found) if found else None

    def main_latents(self, before: str, after: str) -> list[int]:
        """The latents of the main set, foremost first."""
        return self.latents.filter(before=before, after=after).filter("chosen")["latent"].to_list()

    def rows(
        self, table: pl.DataFrame, before: str, after: str, into: str, tokens: str = EVERY
    ) -> pl.DataFrame:
        """The rows of one pair, one way, over one portion of the tokens."""
        return table.filter(before=before, after=after, into=into, tokens=tokens)

    def score(
        self, before: str, after: str, into: str, set_: str, tokens: str = EVERY
    ) -> dict[str, Any] | None:
        """One row of `baselines`."""
        found = self.rows(self.baselines, before, after, into, tokens).filter(set=set_)
        return found.row(0, named=True) if found.height else None

    def curves(self, before: str, after: str, into: str, tokens: str = EVERY) -> pl.DataFrame:
        """order, size, length, recovered, low, high, draws: of several draws the means, and the ends of all their
        intervals."""
        import polars as pl

        rows = self.rows(self.curve, before, after, into, tokens)
        return (
            rows.group_by("order", "size", maintain_order=True)
            .agg(
                pl.col("length").mean(),
                pl.col("recovered").mean(),
                pl.col("low").min(),
                pl.col("high").max(),
                pl.len().alias("draws"),
                pl.col("n").first(),
                pl.col("documents").first(),
            )
            .sort("order", "size")
        )

    def sentences(self) -> list[str]:
        """What a person reads: one a pair."""
        if not self.pairs:
            return ["no chat with an answer in the token sets: nothing was patched"]
        return [self.sentence(*pair) for pair in self.pairs]

    def sentence(self, before: str, after: str, into: str = "", tokens: str = EVERY) -> str:
        """How much of the way from the other's stream to its own all latents make, which few do, and what else
        does."""
        into = into or after
        given = before if into == after else after
        told = {
            name: self.score(before, after, into, name, tokens)
            for name in (NONE, ALL, BIAS, ERROR, MARKERS_WHOLE)
        }
        if (none := told[NONE]) is None:
            return f"{into} on {given}'s stream: no such tokens"
        head = f"{into} on {given}'s stream: KL {none['kl']:.4f} nats a token (n = {none['n']:,})"
        if none["recovered"] is None:
            return f"{head}: the two streams do not differ, nothing is to be recovered"
        rest = [
            f"{said} {_share(told[name])}"
            for said, name in (
                ("the decoders' bias", BIAS),
                ("the error", ERROR),
                (f"{into}'s stream at chat markers", MARKERS_WHOLE),
            )
        ]
        few = self._few(before, after, tokens) if into == after else ""
        return f"{head}; all latents recover {_share(told[ALL])}, {', '.join(rest)}{few}"

    def _few(self, before: str, after: str, tokens: str) -> str:
        main = self.main(before, after)
        if main is None:
            return "; no set of latents was worth a closer look"
        rows = self.rows(self.doses, before, after, after, tokens).filter(dose=1.0)
        by = {row["latents"]: row for row in rows.iter_rows(named=True)}
        control = f" (matched latents {_share(by[MATCHED])})" if MATCHED in by else ""
        few = f"the first {main.size} by {main.order}" if main.size > 1 else f"the first by {main.order}"
        return f"; {few} {_share(by[MAIN])}{control}"

    def summary(self) -> dict[str, Any]:
        """Every pair as JSON: its sets over all tokens, both ways, and the main set by dose."""
        kept = ("recovered", "low", "high", "kl", "n", "documents")
        found: dict[str, Any] = {}
        for before, after in self.pairs:
            told: dict[str, Any] = {}
            for into in (after, before):
                rows = self.rows(self.baselines, before, after, into)
                told[f"into {into}"] = {
                    row["set"]: {"latents": row["size"]} | {key: row[key] for key in kept}
                    for row in rows.iter_rows(named=True)
                }
            main = self.main(before, after)
            doses = self.rows(self.doses, before, after, after)
            told["main"] = main and main._asdict() | {"latents": self.main_latents(before, after)}
            told["doses"] = doses.select("latents", "size", "dose", *kept).to_dicts()
            found[f"{before}|{after}"] = told
        return found


def beside_controls(lab: Lab, before: str, after: str) -> list[str]:
    """The same sentence of a stage's sham and sibling, where they were patched: what training alone, and another
    seed, give."""
    found: list[str] = []
    with contextlib.suppress(MarbleError):  # no stage of the lab, or not compared
        pairs = [pair for pair in pairs_of((before, after)) if pair.stage == after]
        if pairs[0].before != before:
            return found
        recipe = Plan.of(lab).recipe
        for pair in pairs[1:]:
            if (config := comparison_of(recipe, pair)) is not None:
                with contextlib.suppress(MarbleError):
                    said = Patching.of(lab, config.name).sentence(pair.before, pair.after)
                    found.append(f"{pair.kind}: {said}")
    return found


def _share(row: dict[str, Any] | None) -> str:
    return "–" if row is None else bracketed(row["recovered"], row["low"], row["high"])
