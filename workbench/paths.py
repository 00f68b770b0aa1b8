"""The paths from a checkpoint to its child, read: which latents the child turned, and which the new text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saes.stage_paths import BOTH, DATA, DATA_STEPS, MODEL, MODEL_STEPS, TURNED_BY
from workbench.lab import Lab
from workbench.part_tables import read_part
from workbench.plan import Plan
from workbench.specificity import Share

if TYPE_CHECKING:
    import polars as pl

COLUMNS = (
    "latent", "fires_before", "fires_after", "turned_by", "turned_in_null", "turned_in_sham", "model_beyond",
    "data_beyond", "fires_on", *MODEL_STEPS, *DATA_STEPS,
)  # fmt: skip
LEAST = 20  # held-out tokens that a latent fires on before the first step, to have had a direction


@dataclasses.dataclass(frozen=True)
class Paths:
    """`figures`: parent, child, sham (or None), texts, bounds (the cosine of a turn), fvu of the ends."""

    name: str
    figures: Mapping[str, Any]
    path: Path

    @classmethod
    def of(cls, lab: Lab, name: str) -> Paths:
        """`Misuse` where they have not been walked."""
        artefact = lab.find("evaluation", name)
        return cls(name, artefact.figures, artefact.path)

    @cached_property
    def table(self) -> pl.DataFrame:
        """A row a latent: latent, fires_before, fires_after, turned_by, turned_in_null, turned_in_sham (null where
        there is no sham), model_beyond and data_beyond (the larger of the two steps' cosines less its bound),
        fires_on, and the cosine over every step by its name."""
        return read_part(self.path, "paths", COLUMNS, "compare again with --paths")

    @cached_property
    def known(self) -> pl.DataFrame:
        """Those that had a direction before the first step; what the model steps turned most first."""
        import polars as pl

        return self.table.filter(pl.col("fires_before") >= LEAST).sort("model_beyond", "latent")

    def shares(self) -> dict[str, Share]:
        """Turned by what, beside what chance and a sham turn in two steps of as many."""
        n = self.known.height
        told = {by: Share.of(self.known.filter(turned_by=by).height, n) for by in TURNED_BY}
        told["null"] = Share.of(int(self.known["turned_in_null"].sum()), n)
        if self.figures["sham"]:
            told["sham"] = Share.of(int(self.known["turned_in_sham"].sum()), n)
        return told

    def credible(self) -> bool:
        """Whether the child turned more than chance and than its sham, intervals and all."""
        shares = self.shares()
        model = Share.of(shares[MODEL].hits + shares[BOTH].hits, shares[MODEL].n)
        ends = [shares[name].high or 0.0 for name in ("null", "sham") if name in shares]
        return model.low is not None and model.low > max(ends)

    def sentences(self) -> list[str]:
        """What a person reads."""
        import polars as pl

        f, shares = self.figures, self.shares()
        own, everything = (f["texts"][text] for text in ("own", "all"))
        new = ", ".join(domain for domain in everything if domain not in own) or "none"
        beside = f"trained on as it was {_share(shares['null'])}"
        if f["sham"]:
            beside += f", with {f['sham']} in the child's place {_share(shares['sham'])}"
        verdict = "beyond these" if self.credible() else "no more than these"
        said = [
            f"{f['parent']} → {f['child']}: of {self.known.height:,} latents of an SAE of {f['parent']} on its own "
            f"text ({', '.join(own)}) the child turned {_share(shares[MODEL])}, the new text ({new}) "
            f"{_share(shares[DATA])}, both {_share(shares[BOTH])}; {beside}: what the child turned is {verdict}"
        ]
        first = self.known.filter(turned_by=MODEL).filter(~pl.col("turned_in_sham").fill_null(False)).head(3)
        if first.height:
            named = "; ".join(
                f"{row['latent']} ({row[MODEL_STEPS[1]]:.2f} and {row[MODEL_STEPS[0]]:.2f}, on {row['fires_on']})"
                for row in first.iter_rows(named=True)
            )
            said.append(f"{f['parent']} → {f['child']}, turned most by the child alone: {named}")
        return said

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        kept = {key: self.figures[key] for key in ("parent", "child", "sham", "texts", "bounds", "fvu")}
        by = {by: self.known.filter(turned_by=by)["latent"].to_list() for by in (MODEL, DATA)}
        return kept | {
            "shares": {name: share._asdict() for name, share in self.shares().items()},
            "credible": self.credible(),
            "latents": by,
        }


def names_between(lab: Lab, checkpoints: tuple[str, ...]) -> list[str]:
    """Those between some checkpoints that are finished."""
    plan = Plan.of(lab)
    return [
        walk.name
        for walk in plan.recipe.paths
        if {walk.parent, walk.child} <= set(checkpoints)
        and lab.artefact("evaluation", walk.name, plan.step("evaluation", walk.name).id) is not None
    ]


def walked(lab: Lab, checkpoints: tuple[str, ...]) -> list[Paths]:
    """The finished paths between some checkpoints."""
    return [Paths.of(lab, name) for name in names_between(lab, checkpoints)]


def _share(share: Share) -> str:
    if share.value is None or share.low is None or share.high is None:
        return str(share.hits)
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"
