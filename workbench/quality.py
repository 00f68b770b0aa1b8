"""How good a dictionary is, read: its figures beside its controls, and what two seeds have in common.

`controls.parquet` has a row for each (control, checkpoint, figure): value, and a 95 % interval by bootstrap
over documents (of `dead_share` Wilson's, of `nearest_cosine` by bootstrap over latents; null for counts). Chat
markers are left out, but in the figures whose name ends in `_all`. Controls:

    dictionary   the dictionary itself
    seed-<n>     the same training from other starting weights, all over one pass
    pca          as many principal components as it has latents on
    neurons      as many coordinates, those farthest from their mean
    random       as many latents in random directions, L0 and scale fitted
    untrained    the same training on the model before its first step; scored on that model's activations
    gaussian     the same training on Gaussian activations of equal mean and covariance; scored on such

Of a transcoder the output is what is judged, and its controls are those of `workbench.transcoder_quality`.

`nearest-<control>.npy` float32 [latent] is the cosine to the nearest decoder among the latents that fire (NaN
for those that do not), `fires-<control>.npy` int64 [latent] how many of the held-out tokens each fires on.
`stability.parquet` compares seeds with as many random directions; `matched.npy` and `matched-random.npy`
float64 [latent] hold each latent's cosine to its partner, averaged over the other seeds (0: silent, or none).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import Failure, unknown
from workbench.lab import Lab
from workbench.part_tables import read_part

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

DICTIONARY, PCA, NEURONS, RANDOM = "dictionary", "pca", "neurons", "random"
UNTRAINED, GAUSSIAN, SEED = "untrained", "gaussian", "seed-"
LINEAR, LINEAR_K = "linear", "linear-k"  # of a transcoder
LEARNED = (DICTIONARY, RANDOM, UNTRAINED, GAUSSIAN)  # those whose decoders can crowd each other
SEEDS, BY_CHANCE = "seeds", "random"
BINS = 50  # of cosines from 0 to 1
DEAD_TOKENS = 200_000  # held-out tokens without firing, from which a latent is called dead

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "controls": ("control", "checkpoint", "figure", "value", "low", "high", "n"),
    "stability": ("subject", "figure", "value", "low", "high", "n"),
}
# Figures of `controls.parquet`; `alive` is a count, `alive_per_dimension` that count over d_model.
FIGURES = (
    "fvu", "l0", "dead_share", "alive", "alive_per_dimension", "shrinkage", "nearest_cosine",
    "ce_score", "ce_score_mean", "kl", "fvu_all", "l0_all",
)  # fmt: skip


def artefact_name(dictionary: str) -> str:
    """What the quality of a dictionary is called among the lab's evaluations."""
    return f"quality-{dictionary}"


def dead_on_few(tokens: int) -> str:
    """What has to be said beside a dead share that was counted on too few tokens; nothing where they suffice."""
    if tokens >= DEAD_TOKENS:
        return ""
    return (
        f"dead share is counted on {tokens:,} held-out tokens: a latent is called dead only when it never fires "
        f"on {DEAD_TOKENS:,}, so rare ones are among them (raise heldout_tokens in the recipe)"
    )


def binned(values: Mapping[str, np.ndarray], bins: int) -> pl.DataFrame:
    """control, edge, share: shares of values in equal bins from 0 to 1; negative ones count as 0."""
    import numpy as np
    import polars as pl

    edges = np.linspace(0, 1, bins + 1)
    rows = []
    for name, own in values.items():
        counts, _ = np.histogram(np.clip(own, 0, 1), edges)
        shares = counts / max(1, len(own))
        rows += [
            {"control": name, "edge": float(e), "share": float(s)} for e, s in zip(edges, shares, strict=False)
        ]
    return pl.DataFrame(rows, schema={"control": pl.String, "edge": pl.Float64, "share": pl.Float64})


@dataclasses.dataclass(frozen=True)
class Quality:
    """A finished evaluation, read."""

    dictionary: str
    path: Path
    figures: Mapping[str, Any]

    @classmethod
    def of(cls, lab: Lab, dictionary: str) -> Quality:
        """The quality of a dictionary; `Misuse` where it is not there, or not yet."""
        artefact = lab.find("evaluation", artefact_name(dictionary))
        return cls(dictionary, artefact.path, artefact.figures)

    @cached_property
    def controls(self) -> pl.DataFrame:
        """control, checkpoint, figure, value, low, high, n (tokens)."""
        return self._table("controls")

    @cached_property
    def stability(self) -> pl.DataFrame:
        """subject (`seeds`, `random`), figure (`cosine`, `share_0.7`, …), value, low, high, n (latents)."""
        return self._table("stability")

    @property
    def of_transcoder(self) -> bool:
        """Whether it makes an MLP's output from its input: only such has a linear map beside it."""
        return LINEAR in set(self.controls["control"])

    @property
    def missing(self) -> Mapping[str, str]:
        """Controls that could not be made, each with its reason."""
        return self.figures["missing"]

    def value(self, control: str, figure: str, checkpoint: str | None = None) -> float:
        """One figure; of the first checkpoint unless another is named."""
        import polars as pl

        rows = self.controls.filter((pl.col("control") == control) & (pl.col("figure") == figure))
        if checkpoint is not None:
            rows = rows.filter(pl.col("checkpoint") == checkpoint)
        if not rows.height:
            known = self.controls.select("control", "figure").unique().rows()
            raise unknown("figure", f"{control} {figure}", [" ".join(row) for row in known])
        return float(rows["value"][0])

    def nearest(self, control: str = DICTIONARY) -> np.ndarray:
        """Float[latent]: cosine to the nearest decoder; NaN where a latent never fires."""
        return self._array(f"nearest-{control}")

    def fires(self, control: str = DICTIONARY) -> np.ndarray:
        """Int[latent]: held-out tokens that a latent fires on."""
        return self._array(f"fires-{control}")

    def matched(self, by_chance: bool = False) -> np.ndarray:
        """Float[latent]: mean cosine to the partners in the other seeds."""
        return self._array("matched-random" if by_chance else "matched")

    def describe(self) -> str:
        """The main figures of every control, for a terminal."""
        import polars as pl

        shown = ("fvu", "ce_score", "l0", "alive", "shrinkage")
        first = self.controls["checkpoint"][0]
        rows = self.controls.filter(pl.col("checkpoint") == first)
        known = {(r["control"], r["figure"]): r["value"] for r in rows.iter_rows(named=True)}
        lines = [
            f"{self.dictionary} ({first}) beside its controls",
            " " * 12 + "".join(f"{n:>11}" for n in shown),
        ]
        for control in rows["control"].unique(maintain_order=True):
            cells = [known.get((control, figure)) for figure in shown]
            lines.append(f"{control:12}" + "".join(f"{'–' if c is None else f'{c:.4g}':>11}" for c in cells))
        found = {(r["subject"], r["figure"]): r["value"] for r in self.stability.iter_rows(named=True)}
        lines.append(
            f"between seeds: mean cosine {found[SEEDS, 'cosine']:.3f} "
            f"(random {found[BY_CHANCE, 'cosine']:.3f}), {found[SEEDS, 'share_0.7']:.0%} at 0.7 or more, "
            f"{found[SEEDS, 'share_0.9']:.0%} at 0.9 or more"
        )
        lines += [f"no {control} control: {reason}" for control, reason in self.missing.items()]
        if said := dead_on_few(self.figures["tokens"]):
            lines.append(f"note: {said}")
        return "\n".join(lines)

    def nearest_shares(self, bins: int = BINS) -> pl.DataFrame:
        """control, edge (left, of equal bins), share of the control's latents that fire: where their nearest
        neighbours lie. Of those controls whose decoders can crowd each other."""
        import numpy as np

        have = set(self.controls["control"])
        arrays = {name: np.asarray(self.nearest(name)) for name in LEARNED if name in have}
        return binned({name: values[~np.isnan(values)] for name, values in arrays.items()}, bins)

    def matched_shares(self, bins: int = BINS) -> pl.DataFrame:
        """control (`seeds`, `random`), edge, share: the cosines of the latents that fire to their partners."""
        alive = self.fires() > 0
        return binned({SEEDS: self.matched()[alive], BY_CHANCE: self.matched(by_chance=True)[alive]}, bins)

    def _array(self, name: str) -> np.ndarray:
        import numpy as np

        path = self.path / f"{name}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Failure(f"{path} cannot be read ({error}): evaluate {self.dictionary!r} again") from error

    def _table(self, name: str) -> pl.DataFrame:
        return read_part(self.path, name, COLUMNS[name], f"evaluate {self.dictionary!r} again")
