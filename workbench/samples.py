"""What the checkpoints of a comparison say by themselves, read: KL on their own samples, how they speak, and which
tokens and latents carry the KL between them on shared text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from workbench.part_tables import Part, read_part

if TYPE_CHECKING:
    import polars as pl

    from workbench.comparison import Comparison

QUESTIONS, PROSE = "questions", "prose"  # kinds of prompt; each task of the questions is one as well
CONTEXT, RAISED = (
    "context",
    "raised",
)  # a prediction goes by the last token read, or by the one that gained most
OWN, SHARED = "own samples", "shared text"
DOMAINS = {QUESTIONS: "chat", PROSE: "prose"}  # where the shared text has what is nearest to a kind of prompt
FIGURES: Mapping[str, str] = {
    "length": "tokens a sample",
    "ended": "share ended by itself",
    "entropy": "next-token entropy (nats)",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "distinct_answers": "share of answers that differ",
    "repeated": "bigrams said before in the answer",
    "accuracy": "share right",
}
CARRIED = ("before", "after", "n", "kl", "density", "share", "low", "high", "lift", "lift_low", "lift_high")


@dataclasses.dataclass(frozen=True)
class Samples(Part):
    """`figures`: `tokens` (of shared text), `samples` by checkpoint, and the `null` of latents by pair."""

    PART = "samples"

    @cached_property
    def kl(self) -> pl.DataFrame:
        """author, p, q, kind, kl (KL(p‖q), nats a sampled token), low, high, n (tokens): texts of p, and of q."""
        return read_part(self.path, "kl", ("author", "p", "q", "kind", "kl", "low", "high", "n"))

    @cached_property
    def said(self) -> pl.DataFrame:
        """checkpoint, kind, figure (see `FIGURES`), value, low, high, n."""
        return read_part(self.path, "said", ("checkpoint", "kind", "figure", "value", "low", "high", "n"))

    @cached_property
    def tokens(self) -> pl.DataFrame:
        """before, after, by (`CONTEXT` or `RAISED`), token_id, token and what falls on it of KL(after‖before)."""
        return read_part(self.path, "tokens", (*CARRIED, "by", "token_id", "token"))

    @cached_property
    def latents(self) -> pl.DataFrame:
        """before, after, latent, label and what falls on it of KL(after‖before): score, correlation, beyond…"""
        more = ("latent", "label", "score", "correlation", "beyond", "beyond_in_domain")
        return read_part(self.path, "latents", (*CARRIED, *more))

    def on_own(self) -> pl.DataFrame:
        """`kl` on p's own samples."""
        import polars as pl

        return self.kl.filter(pl.col("author") == pl.col("p"))

    def beside_shared(self, comparison: Comparison) -> pl.DataFrame:
        """pair, kind, text (`OWN` or `SHARED`), kl, low, high, n: a pair on p's samples, and on the held-out texts
        of the domain that is nearest; where p was asked this kind."""
        import polars as pl

        pair = pl.format("KL({}‖{})", "p", "q").alias("pair")
        columns = (pair, "kind", "text", "kl", "low", "high", "n")
        own = self.on_own().filter(pl.col("kind").is_in(list(DOMAINS)))
        kinds = {domain: kind for kind, domain in DOMAINS.items()}
        shared = comparison.kl.filter(pl.col("domain").is_in(list(kinds))).with_columns(
            pl.col("domain").replace_strict(kinds).alias("kind")
        )
        shared = shared.join(own, ["p", "q", "kind"], how="semi")
        return pl.concat(
            part.with_columns(pl.lit(text).alias("text")).select(columns)
            for text, part in ((OWN, own), (SHARED, shared))
        )

    def figure(self, checkpoint: str, kind: str, figure: str) -> Mapping[str, Any] | None:
        """value, low, high, n of one figure; None where the checkpoint was not asked this kind."""
        found = self.said.filter(checkpoint=checkpoint, kind=kind, figure=figure)
        return found.row(0, named=True) if len(found) else None

    def sentences(self, before: str, after: str) -> list[str]:
        """What a person reads of a pair."""
        lines = [f"on own samples: {', '.join(self._kl(before, after))} nats a token"]
        for kind in (QUESTIONS, PROSE):
            told = [
                f"{FIGURES[name]} {_between(a)} → {_between(b)}"
                for name in ("length", "entropy", "distinct_2")
                if (a := self.figure(before, kind, name)) and (b := self.figure(after, kind, name))
            ]
            lines += [f"behind {kind}: {'; '.join(told)}"] if told else []
        return [*lines, *self._carried(before, after)]

    def _kl(self, before: str, after: str) -> list[str]:
        own = self.on_own()
        return [
            f"KL({p}‖{q}) {_between(row | {'value': row['kl']})} on {kind}"
            for p, q in ((before, after), (after, before))
            for kind in (QUESTIONS, PROSE)
            for row in own.filter(p=p, q=q, kind=kind).iter_rows(named=True)
        ]

    def _carried(self, before: str, after: str) -> list[str]:
        tokens = self.tokens.filter(before=before, after=after, by=RAISED)
        if tokens.is_empty():
            return []
        top, null = tokens.row(0, named=True), self.figures["null"][f"{before}|{after}"]
        latents = self.latents.filter(before=before, after=after)["latent"].head(3).to_list()
        first = f", first {', '.join(map(str, latents))}" if latents else ""
        share = f"{top['share']:.0%} [{top['low']:.0%}, {top['high']:.0%}]"
        many = f"{null['null']['beyond']} of {null['alive']:,} latents carry more than chance{first}"
        where = f"falls where “{top['token']}” gained most"
        return [f"of KL({after}‖{before}) on shared text {share} {where}; {many}"]

    def told(self) -> dict[str, Any]:
        """All but the long lists, as JSON."""
        own = self.on_own()
        named = ("before", "after", "token", "n", "share", "low", "high")
        tokens = self.tokens.filter(by=RAISED).group_by("before", "after", maintain_order=True).head(5)
        return {
            **self.figures,
            "raised": tokens.select(named).to_dicts(),
            "kl": own.select("p", "q", "kind", "kl", "low", "high", "n").to_dicts(),
            "said": self.said.to_dicts(),
        }


def _between(row: Mapping[str, Any]) -> str:
    return f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
