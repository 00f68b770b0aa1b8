"""The lives of a comparison's latents, read: where along the snapshots each was born, turned, died.

What is counted: latents that fire on enough of the sampled tokens, and are above the floor of shuffled patterns in
their own finished checkpoint; of the rest nothing is claimed (`unclear`). Shares have Wilson intervals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.part_tables import Part, read_part
from workbench.specificity import Share

if TYPE_CHECKING:
    import polars as pl

SURE = 0.95  # of the resamples put a birth in the same stage
N_PICKS = 5
COLUMNS = {
    "lives": ("latent", "moment", "strength", "low", "high", "floor", "length", "cosine", "readable"),
    "births": ("latent", "own", "n", "final", "born", "born_stage", "sure", "arrival", "died", "turn"),
    "moments": ("moment", "stage", "step", "axis", "place", "end", "there", "n", "born", "died"),
    "curves": ("stage", "step", "axis", "place", "name", "value"),
}


class Life(NamedTuple):
    """One latent along the axis: its curves beside stage, step, axis and place, and its row of births, which one
    that fires on too few sampled tokens does not have. `half`: the strength from which on it counts as there."""

    latent: int
    curve: pl.DataFrame
    birth: Mapping[str, Any] | None
    half: float | None


class Born(NamedTuple):
    """Where latents come from: `start` were there at the first model of the axis; by stage, those born in it and
    those of them whose stage is sure; died in it; `unclear` are not above the floor. `turned`: of those whose
    direction when the first stage was finished is known, the ones that turned further since than no turn reads."""

    start: Share
    born: Mapping[str, Share]
    sure: Mapping[str, int]
    died: Mapping[str, Share]
    unclear: Share
    turned: Share


@dataclasses.dataclass(frozen=True)
class Lives(Part):
    """`figures`: `axis` (the stages), `beside` (compared checkpoints off the axis), `gone` (without snapshots)."""

    PART = "lives"

    @cached_property
    def lives(self) -> pl.DataFrame:
        """A row a latent and moment: strength, low, high, floor, length, cosine, cosine_low, …, readable."""
        return self._table("lives")

    @cached_property
    def births(self) -> pl.DataFrame:
        """latent, own, n, density, final, born, born_stage, …, sure, arrival, died, …, turn, turn_low, …"""
        return self._table("births")

    @cached_property
    def moments(self) -> pl.DataFrame:
        """The axis: moment, stage, step, axis, place, end; there (low, high) of n latents, born, died."""
        return self._table("moments")

    @cached_property
    def curves(self) -> pl.DataFrame:
        """stage, step, axis, place, name (loss, reward, kl), value."""
        return self._table("curves")

    def _table(self, name: str) -> pl.DataFrame:
        return read_part(self.path, name, COLUMNS[name])

    @property
    def known(self) -> bool:
        """Whether there were snapshots to read."""
        return not self.moments.is_empty()

    def life(self, latent: int) -> Life | None:
        """One latent's; None where it fires on no sampled token."""
        import polars as pl

        rows = self.lives.filter(pl.col("latent") == latent)
        if rows.is_empty():
            return None
        where = self.moments.select("moment", "stage", "step", "axis", "place")
        curve = where.join(rows.drop("latent"), on="moment").sort("moment")
        birth = next(self.births.filter(pl.col("latent") == latent).iter_rows(named=True), None)
        return Life(latent, curve, birth, birth["final"] / 2 if birth else None)

    def born_in(self) -> Born:
        """Births and deaths by stage, of all latents that are asked."""
        import polars as pl

        n = self.births.height
        events = self.births.filter(pl.col("arrival") != "start")
        by_stage = {stage: events.filter(pl.col("born_stage") == stage) for stage in self.figures["axis"]}
        died = self.births["died_stage"].drop_nulls().to_list()
        known = self.births.drop_nulls(["turn_low", "turn_floor"])
        return Born(
            start=Share.of(self.births.filter(pl.col("arrival") == "start").height, n),
            born={stage: Share.of(part.height, n) for stage, part in by_stage.items()},
            sure={stage: part.filter(pl.col("sure") >= SURE).height for stage, part in by_stage.items()},
            died={stage: Share.of(died.count(stage), n) for stage in self.figures["axis"]},
            unclear=Share.of(self.births["born"].null_count(), n),
            turned=Share.of(known.filter(pl.col("turn_low") > pl.col("turn_floor")).height, known.height),
        )

    def picks(self) -> dict[str, list[int]]:
        """Latents worth opening: the last to be born (surest first among those of one moment), the dead, and those
        that the later stages turned most beyond what the method makes of no turn."""
        import polars as pl

        born = self.births.filter(pl.col("born").is_not_null())
        beyond = (pl.col("turn_low") - pl.col("turn_floor")).alias("beyond")
        turned = born.with_columns(beyond).filter(pl.col("beyond") > 0)
        found = {
            "born last": born.sort("born", "sure", "n", descending=True, nulls_last=True),
            "died": born.filter(pl.col("died").is_not_null()).sort("n", descending=True),
            "turned most": turned.sort("beyond", "latent", descending=[True, False]),
        }
        return {what: rows.head(N_PICKS)["latent"].to_list() for what, rows in found.items()}

    def summary(self) -> dict[str, Any]:
        """`born_in` as JSON, with the axis."""
        told: dict[str, Any] = {name: list(self.figures[name]) for name in ("axis", "beside", "gone")}
        if not self.known:
            return told
        found = self.born_in()
        return told | {
            "start": found.start._asdict(),
            "born": {stage: share._asdict() for stage, share in found.born.items()},
            "sure": dict(found.sure),
            "died": {stage: share._asdict() for stage, share in found.died.items()},
            "unclear": found.unclear._asdict(),
            "turned": found.turned._asdict(),
        }

    def sentences(self) -> list[str]:
        """What a person reads: the counts, and which checkpoints have no place or only their end on the axis."""
        if not self.known:
            names = ", ".join(self.figures["axis"])
            return [f"no snapshots of {names} (imported, or snapshots gone): births and deaths cannot be dated"]
        told = [self._counts()]
        if (turned := self.born_in().turned).n:
            first = self.figures["axis"][0]
            told.append(f"of {turned.n} with a known direction at {first}'s end {worded(turned)} turned since")
        if gone := self.figures["gone"]:
            told.append(f"of {', '.join(gone)} only the end is known (imported, or snapshots gone)")
        if beside := self.figures["beside"]:
            line = " → ".join(self.figures["axis"])
            told.append(f"{', '.join(beside)} does not lie on the line {line} and has no part in it")
        return told

    def _counts(self) -> str:
        found, n = self.born_in(), self.births.height
        first = self.moments.row(0, named=True)
        began = f"{first['stage']}'s {'end' if first['end'] else 'step ' + str(first['step'])}"
        born = ", ".join(
            f"{stage} {worded(share)}" + (f", {found.sure[stage]} surely" if share.hits else "")
            for stage, share in found.born.items()
        )
        died = ", ".join(f"{stage} {worded(share)}" for stage, share in found.died.items() if share.hits)
        return (
            f"of {n} latents that fire on enough sampled tokens {worded(found.start)} were there at "
            f"{began}; born in {born}; died: {died or 'none'}; not above shuffled patterns: {found.unclear.hits}"
        )


def worded(share: Share) -> str:
    """A count with its share's interval: '14 (1.0 % [0.6, 1.6])'."""
    if share.value is None or share.low is None or share.high is None:
        return str(share.hits)
    return f"{share.hits} ({100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}])"
