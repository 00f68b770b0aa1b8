"""A finished feature circuit of a lab, read: what the latents of one checkpoint are worth to one task."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.circuits.feature_words import ERROR, node_name, site_sentences
from workbench.intervals import bracketed
from workbench.lab import Lab
from workbench.part_tables import Tables
from workbench.plan import Plan, latents_name

if TYPE_CHECKING:
    import polars as pl

_ENDS = ("low", "high", "n")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "competence": ("figure", "value", *_ENDS),
    "sites": ("site", "method", "figure", "value", *_ENDS),
    "nodes": ("site", "node", "method", "score", *_ENDS),
    "exact": ("site", "node", "pairs", "effect", *_ENDS),
    "curve": ("site", "kind", "size", "draw", "reach", "f", *_ENDS),
    "writers": ("site", "node", "component", "delta", *_ENDS, "n_places"),
    "writes": ("site", "node", "direct", *_ENDS),
    "tokens": ("site", "node", "side", "rank", "token"),
    "edges": ("early", "from", "late", "to", "weight", *_ENDS),
}
TOLD = ("competence", "sites", "curve", "exact", "writers", "writes", "tokens", "edges")


@dataclasses.dataclass(frozen=True)
class FoundFeatureCircuit(Tables):
    """One artefact: `figures` of its manifest, tables by name, what latents are called."""

    TABLES = COLUMNS
    remedy = "ask for the feature circuit again"

    lab: Lab
    name: str
    config: Mapping[str, Any]
    figures: Mapping[str, Any]
    path: Path

    @classmethod
    def of(cls, lab: Lab, name: str) -> FoundFeatureCircuit:
        """`Misuse` where no such feature circuit is in the recipe or it has not been built."""
        artefact = lab.find("evaluation", name)
        return cls(lab, name, artefact.config, artefact.figures, artefact.path)

    @classmethod
    def stored(cls, lab: Lab, task: str, checkpoint: str) -> FoundFeatureCircuit | None:
        """That of a task in a checkpoint, where it is on the disk as the recipe has it now."""
        step = Plan.of(lab).steps.get(f"evaluation/{latents_name(task, checkpoint)}")
        if step is None or lab.artefact(step.kind, step.name, step.id) is None:
            return None
        return cls.of(lab, step.name)

    @property
    def checkpoint(self) -> str:
        return str(self.figures["checkpoint"])

    @property
    def does_it(self) -> bool:
        return bool(self.figures["does_it"])

    @property
    def sites(self) -> list[str]:
        """Sites in the order in which they are computed; none where the task is not done."""
        return list(self.figures["sites"])

    def dictionary(self, site: str) -> str:
        return str(self.figures["dictionaries"][site])

    def foremost(self, site: str) -> list[int]:
        """The latents that were looked into, largest |IG| first."""
        return list(self.figures["sites"][site]["foremost"])

    @functools.cached_property
    def labels(self) -> dict[tuple[str, int], str]:
        """What the foremost latents are called by, of dictionaries that have a feature table."""
        from workbench.features import FeatureTable

        found: dict[tuple[str, int], str] = {}
        for site in self.sites:
            step = Plan.of(self.lab).steps.get(f"features/{self.dictionary(site)}")
            if step is None or self.lab.artefact(step.kind, step.name, step.id) is None:
                continue
            rows = FeatureTable.of(self.lab, self.dictionary(site)).rows
            chosen = rows.filter(rows["latent"].is_in(self.foremost(site)))
            for latent, own, label, tokens in chosen.select(
                "latent", "own_label", "label", "top_tokens"
            ).iter_rows():
                found[site, latent] = own or label or "  ".join(tokens[:3]) or "never fires"
        return found

    def nodes(self, site: str, method: str = "IG") -> pl.DataFrame:
        """The foremost latents and the error of a site, largest |score| first: node, score, low, high, n, `name`,
        `label`."""
        import polars as pl

        wanted = [*self.foremost(site), ERROR]
        rows = self.table("nodes").filter(pl.col("node").is_in(wanted), site=site, method=method)
        rows = rows.sort(pl.col("score").abs(), descending=True)
        names = [node_name(node) for node in rows["node"]]
        labels = [self.labels.get((site, node), "") for node in rows["node"]]
        return rows.drop("site", "method").with_columns(
            name=pl.Series(names, dtype=pl.String), label=pl.Series(labels, dtype=pl.String)
        )

    def sentences(self, site: str) -> list[str]:
        """What is found at one site."""
        return site_sentences(
            self.figures["sites"][site],
            self.table("sites").filter(site=site),
            self.table("curve").filter(site=site),
        )

    def headline(self) -> str:
        """What is asked, of whom, and whether it does the task."""
        n = self.figures["n_pairs"]
        told = self.table("competence").filter(figure="told_apart").row(0, named=True)
        head = (
            f"{self.checkpoint}: {self.figures['question']}; it chooses rightly in {_figure(told, 'value', 2)} "
            f"(n {n['judge']})"
        )
        if not self.does_it:
            return (
                f"{head}. It does not do the task, so no feature circuit is claimed: {self.figures['why_not']}"
            )
        return f"{head}; scores from {n['search']} pairs, f on {n['judge']} others"

    def edge_sentences(self) -> list[str]:
        """How far the edges between two sites add up to the scores of the earlier one's nodes."""
        return [
            f"edges {each['early']} -> {each['late']}: what reaches all nodes of the later site misses the AtP "
            f"scores of the earlier one's by {each['residual']:.1g} of them"
            for each in self.figures["edges"]
        ]

    def describe(self) -> str:
        """For people."""
        lines = [self.headline()]
        for site in self.sites:
            lines += ["", f"{site} ({self.dictionary(site)})", *self.sentences(site), *self._listed(site)]
        if len(self.sites) > 1:
            lines += ["", *self.edge_sentences()]
        return "\n".join(lines)

    def _listed(self, site: str, most: int = 10) -> list[str]:
        """The foremost nodes as rows: score, exact effect on the judging pairs, direct part, what writes most."""
        exact = {row["node"]: row for row in self.table("exact").filter(site=site, pairs="judge").to_dicts()}
        direct = {row["node"]: row for row in self.table("writes").filter(site=site).to_dicts()}
        grid = [["node", "IG", "alone, other pairs", "direct", "mostly written by", "label"]]
        for row in self.nodes(site).head(most).to_dicts():
            node = row["node"]
            grid.append(
                [
                    row["name"], _figure(row, "score"), _figure(exact.get(node), "effect"),
                    _figure(direct.get(node), "direct"), self.writer(site, node), row["label"],
                ]
            )  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in grid
        ]

    def writer(self, site: str, node: int) -> str:
        """The component with the largest |Δ| of a latent."""
        import polars as pl

        rows = self.table("writers").filter(site=site, node=node)
        return str(rows.sort(pl.col("delta").abs(), descending=True)["component"][0]) if len(rows) else "–"

    def told(self) -> dict[str, Any]:
        """As JSON."""
        foremost = {site: self.nodes(site).to_dicts() for site in self.sites}
        tables = {name: self.table(name).to_dicts() for name in TOLD}
        return {**self.figures, "foremost": foremost, "tables": tables}


def _figure(row: Mapping[str, Any] | None, name: str, digits: int = 3) -> str:
    return "–" if row is None else bracketed(row[name], row["low"], row["high"], digits)
