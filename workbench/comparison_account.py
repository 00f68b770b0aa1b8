"""What a finished comparison says, for the shell: one paragraph a pair of checkpoints, one line a checkpoint."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from workbench.comparison import Comparison
from workbench.controls import Controls
from workbench.drift import Drift
from workbench.lab import Lab
from workbench.lives import Lives
from workbench.specificity import Specificity


@dataclasses.dataclass(frozen=True)
class Account:
    """A comparison with the parts that it was taken apart into."""

    figures: Mapping[str, Any]
    comparison: Comparison
    drift: Drift
    specificity: Specificity
    lives: Lives
    controls: Controls | None

    def describe(self) -> str:
        """For people."""
        pairs = [self._pair(a, b) for a, b in itertools.combinations(self.comparison.checkpoints, 2)]
        lines = [f"comparison {self.comparison.name!r}", *pairs, *self.specificity.sentences()]
        lines += [f"lives: {told}" for told in self.lives.sentences()]
        return "\n".join([*lines, self.controls.describe()] if self.controls else lines)

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
        return "\n".join(lines)


def account(lab: Lab, name: str, controls: bool = False) -> Account:
    """The comparison called `name`, which has been taken apart; `controls`: beside shams and siblings."""
    comparison, drift, specificity = Comparison.of(lab, name), Drift.of(lab, name), Specificity.of(lab, name)
    lives = Lives.of(lab, name)
    figures = {
        **lab.find("comparison", name).figures,
        "weights_moved": drift.figures["moved"],
        "exclusive": specificity.figures(),
        "lives": lives.summary(),
    }
    beside = Controls.of(lab, comparison.checkpoints) if controls else None
    if beside is not None:
        figures["controls"] = beside.verdicts()
    return Account(figures, comparison, drift, specificity, lives, beside)
