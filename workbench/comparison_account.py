"""What a finished comparison says, for the shell: one paragraph a pair of checkpoints, then what holds for all."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from workbench.changed import Changed
from workbench.comparison import Comparison
from workbench.controls import Controls
from workbench.differences import Differences, figures_of
from workbench.drift import Drift
from workbench.gains import Gains
from workbench.lab import Lab
from workbench.lives import Lives
from workbench.matched_saes import chosen
from workbench.matching import Matched
from workbench.patching import Patching
from workbench.paths import Paths, walked
from workbench.plan import Plan
from workbench.probe_transfer import ProbeTransfer
from workbench.samples import Samples
from workbench.specificity import Specificity


@dataclasses.dataclass(frozen=True)
class Account:
    """A comparison with the parts that it was taken apart into."""

    comparison: Comparison
    counts: Mapping[str, Any]
    drift: Drift
    samples: Samples
    differences: Differences
    specificity: Specificity
    lives: Lives
    changed: Changed
    gains: Gains
    patching: Patching
    probe_transfer: ProbeTransfer
    matched: Matched | None
    matching: list[str]  # what that says, or why there is none
    paths: list[Paths]
    controls: Controls | None
    contrast: Specificity | None

    def describe(self) -> str:
        """For people."""
        pairs = [self._pair(a, b) for a, b in itertools.combinations(self.comparison.checkpoints, 2)]
        lines = [f"comparison {self.comparison.name!r}", *pairs, *self.specificity.sentences()]
        lines += [f"lives: {told}" for told in self.lives.sentences()]
        lines += [*self.changed.sentences(), *self.gains.sentences()]
        if self.contrast:
            lines += [f"an L1 crosscoder, for contrast: {told}" for told in self.contrast.sentences()]
        lines += [f"patched: {told}" for told in self.patching.sentences()]
        lines += [f"matching: {told}" for told in self.matching]
        lines += [f"paths: {told}" for each in self.paths for told in each.sentences()]
        return "\n".join([*lines, self.controls.describe()] if self.controls else lines)

    @property
    def figures(self) -> dict[str, Any]:
        """For machines."""
        told = {
            **self.counts,
            "weights_moved": self.drift.figures["moved"],
            "exclusive": self.specificity.figures(),
            "samples": self.samples.told(),
            "differences": figures_of(self.differences),
            "lives": self.lives.summary(),
            "changes": self.changed.figures["pairs"],
            "gains": self.gains.summary(),
            "patching": self.patching.summary(),
            "probe_transfer": self.probe_transfer.summary(),
            "matching": self.matched.summary() if self.matched else {"missing": self.matching[0]},
            "paths": [each.summary() for each in self.paths],
        }
        told |= {"exclusive_l1": self.contrast.figures()} if self.contrast else {}
        return told | ({"controls": self.controls.verdicts()} if self.controls else {})

    def _pair(self, before: str, after: str) -> str:
        import polars as pl

        pair = (pl.col("before") == before) & (pl.col("after") == after)
        layers = self.drift.layers.filter(pair)
        moved = self.drift.figures["moved"][f"{before}|{after}"]
        lines = [f"{before} → {after}: weights moved by {moved:.3f} of their length"]
        for figure, said in (("moved", "activations moved by"), ("cka", "CKA")):
            told = ", ".join(
                f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
                for row in layers.filter(pl.col("figure") == figure).sort("layer").iter_rows(named=True)
                if row["value"] is not None
            )
            lines.append(f"    {said} {told} by layer")
        kl = self.comparison.kl.filter(pl.col("domain") == "all")
        both = [
            f"KL({p}‖{q}) {row['kl']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            for p, q in ((before, after), (after, before))
            for row in kl.filter((pl.col("p") == p) & (pl.col("q") == q)).iter_rows(named=True)
        ]
        lines.append(f"    {', '.join(both)} nats a token")
        told_by = (self.samples, self.differences, self.probe_transfer)
        lines += [f"    {sentence}" for part in told_by for sentence in part.sentences(before, after)]
        return "\n".join(lines)


def account(lab: Lab, name: str, controls: bool = False, contrast: str | None = None) -> Account:
    """The comparison called `name`, which has been taken apart; `controls`: beside shams and siblings; `contrast`:
    the comparison of the same checkpoints through an L1 crosscoder."""
    comparison = Comparison.of(lab, name)
    own = chosen(Plan.of(lab).recipe, comparison.checkpoints)
    matched = Matched.of(lab, name) if own.complete else None
    return Account(
        comparison,
        lab.find("comparison", name).figures,
        Drift.of(lab, name),
        Samples.of(lab, name),
        Differences.of(lab, name),
        Specificity.of(lab, name),
        Lives.of(lab, name),
        Changed.of(lab, name),
        Gains.of(lab, name),
        Patching.of(lab, name),
        ProbeTransfer.of(lab, name),
        matched,
        matched.sentences(lab.name) if matched else [own.sentence(lab.name)],
        walked(lab, comparison.checkpoints),
        Controls.of(lab, comparison.checkpoints) if controls else None,
        Specificity.of(lab, contrast) if contrast else None,
    )
