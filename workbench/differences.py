"""The differences of a comparison, read: how long the mean of x_b − x_a is, what it says, what it does."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.lab import Lab
from workbench.part_tables import read_part
from workbench.parts import part_name

if TYPE_CHECKING:
    import polars as pl

SAID = 5  # tokens of a sentence


@dataclasses.dataclass(frozen=True)
class Differences:
    """`figures`: `site` (of the crosscoder; of its stored activations) and `last` (the last layer), by name."""

    comparison: str
    checkpoints: tuple[str, ...]
    figures: Mapping[str, Any]
    path: Path

    @classmethod
    def of(cls, lab: Lab, comparison: str) -> Differences:
        """The differences of a finished comparison; `Misuse` where it has not been taken apart."""
        artefact = lab.find("evaluation", part_name("differences", comparison))
        checkpoints = tuple(lab.find("comparison", comparison).config["checkpoints"])
        return cls(comparison, checkpoints, artefact.figures, artefact.path)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Earlier and later, in the comparison's order."""
        return list(itertools.combinations(self.checkpoints, 2))

    @property
    def sites(self) -> list[str]:
        """Names of the sites that are told, the crosscoder's first."""
        return list(dict.fromkeys((self.figures["site"], self.figures["last"])))

    def _table(self, name: str, columns: str) -> pl.DataFrame:
        return read_part(self.path, name, ("before", "after", *columns.split()))

    @cached_property
    def means(self) -> pl.DataFrame:
        """before, after, site, facet, group, size (‖δ‖ / E‖x_a‖), low, high, null, null_high, coherence, halves, n,
        blocks (of documents)."""
        return self._table("means", "site facet group size low high null null_high coherence halves n")

    @cached_property
    def lens(self) -> pl.DataFrame:
        """before, after, site, facet, group, head, reading, end (promoted, suppressed), place, id, token, by, n."""
        return self._table("lens", "site facet group head reading end place id token by n")

    @cached_property
    def readout(self) -> pl.DataFrame:
        """before, after, site, head, reading, class, id, token, rank, low, high, null, null_low, null_high, p,
        vocabulary, n."""
        return self._table("readout", "site head reading class token rank low high null null_low null_high p n")

    @cached_property
    def scores(self) -> pl.DataFrame:
        """before, after, site, head, reading, class, score, low, high, null, null_high, p, tokens, n."""
        return self._table("scores", "site head reading class score low high null null_high p n")

    @cached_property
    def components(self) -> pl.DataFrame:
        """before, after, of (difference, stream, shuffled difference), component, share, low, high, n."""
        return self._table("components", "of component share low high n")

    @cached_property
    def contexts(self) -> pl.DataFrame:
        """before, after, component, end (high, low), place, score, text, token, following, document, domain,
        position."""
        return self._table(
            "contexts", "component end place score text token following document domain position"
        )

    @cached_property
    def steering(self) -> pl.DataFrame:
        """before, after, domain, figure (closed, strayed), direction (difference, random), alpha, own (δ as it is),
        value, low, high, n, documents."""
        return self._table("steering", "domain figure direction alpha own value low high n")

    def moved(self, before: str, after: str) -> bool:
        """Whether the two differ at all at the site."""
        row = self._pair(self.means, before, after, site=self.figures["site"], facet="all")
        return bool(row["size"].max())

    def summary(self, before: str, after: str) -> dict[str, Any]:
        """One pair's figures as JSON: size beside noise, what unrelated text promotes, what steering closes."""
        here = {"site": self.figures["site"]}
        mean = self._pair(self.means, before, after, facet="all", **here).row(0, named=True)
        kept = ("size", "low", "high", "null", "null_high", "coherence", "n")
        told: dict[str, Any] = {key: mean[key] for key in kept}
        told["promoted"] = self.promoted(before, after)
        told["scores"] = {
            row["class"]: {key: row[key] for key in ("score", "low", "high", "null", "p", "n")}
            for row in self._plain(self.scores, before, after).iter_rows(named=True)
        }
        closed = self._pair(self.steering, before, after, domain="all", figure="closed")
        for name, own in (("closed_as_it_is", True), ("closed_at_1", False)):
            rows = closed.filter((closed["own"] == own) & ((closed["alpha"] == 1.0) | closed["own"]))
            told[name] = {
                row["direction"]: {key: row[key] for key in ("alpha", "value", "low", "high", "n")}
                for row in rows.iter_rows(named=True)
            }
        return told

    def promoted(self, before: str, after: str, n: int = SAID) -> list[str]:
        """What δ of unrelated text promotes most through the later head, at the site (else the last layer)."""
        rows = self._plain(self.lens, before, after)
        return rows.filter(rows["facet"] == "unrelated", rows["end"] == "promoted")["token"].to_list()[:n]

    def _plain(self, table: pl.DataFrame, before: str, after: str) -> pl.DataFrame:
        """Rows of one pair at the first site that has a lens, plainly through the later head."""
        rows = self._pair(table, before, after, head=after, reading="plain")
        return rows.filter(rows["site"] == rows["site"][0]) if rows.height else rows

    @staticmethod
    def _pair(table: pl.DataFrame, before: str, after: str, **wanted: str) -> pl.DataFrame:
        return table.filter(**{"before": before, "after": after} | wanted)

    def sentences(self, before: str, after: str) -> list[str]:
        """What a person reads of one pair."""
        if not self.moved(before, after):
            return [f"no difference at {self.figures['site']}"]
        told = self.summary(before, after)
        lines = [
            f"mean difference at {self.figures['site']} {told['size']:.4f} [{told['low']:.4f}, {told['high']:.4f}] "
            f"of the stream's length (noise: up to {told['null_high']:.4f})"
        ]
        if own := told["closed_as_it_is"]:
            difference, random = (own[direction] for direction in ("difference", "random"))
            lines[0] += (
                f"; added to {before} it closes {difference['value']:.1%} [{difference['low']:.1%}, "
                f"{difference['high']:.1%}] of KL({after}‖{before}), a random direction {random['value']:.1%}"
            )
        if said := told["promoted"]:
            scores = ", ".join(
                f"{name} above {each['score']:.1%} of the vocabulary (p = {each['p']:.2g})"
                for name, each in told["scores"].items()
            )
            lines.append(f"on the first tokens of prose it promotes {' '.join(said)}: {scores}")
        return lines


def figures_of(found: Differences) -> dict[str, Any]:
    """`summary` of every pair, by `before|after`, without what cannot be said."""
    return {f"{a}|{b}": _known(found.summary(a, b)) for a, b in found.pairs}


def _known(value: Any) -> Any:
    """NaN is null in JSON."""
    if isinstance(value, Mapping):
        return {key: _known(each) for key, each in value.items()}
    return None if isinstance(value, float) and value != value else value
