"""Which latent of another dictionary is the same one: by where it points and by where it fires.

    cosine       ⟨d_i, d_j⟩ / (‖d_i‖ ‖d_j‖)                 of their decoders (`workbench.feature_geometry`)
    correlation  corr(f_i, f_j) over all held-out tokens     silent tokens count as zero
    score        the mean of the two, or the one there is

Cosines exist between decoders of equal width, correlations between dictionaries whose indexes count the same
tokens: checkpoints of one family read the same held-out tokens in the same order. Two that descend from one
parent share a basis, so the cosine is at home there; two seeds do not, and only the correlation says anything.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from workbench.errors import Misuse
from workbench.feature_geometry import cosines

if TYPE_CHECKING:
    from saes.index import FeatureIndex
    from workbench.features import FeatureTable


class Match(NamedTuple):
    """One latent of the other dictionary; None where a figure does not exist."""

    latent: int
    score: float
    cosine: float | None
    correlation: float | None


@dataclasses.dataclass(frozen=True)
class Matches:
    """How well every latent of another dictionary matches one latent."""

    cosines: Float[np.ndarray, " latent"] | None
    correlations: Float[np.ndarray, " latent"] | None

    @property
    def scores(self) -> Float[np.ndarray, " latent"]:
        known = [part for part in (self.cosines, self.correlations) if part is not None]
        return np.mean(known, axis=0)

    def of(self, latent: int) -> Match:
        """The figures of one latent."""
        cosine, correlation = (
            None if part is None else float(part[latent]) for part in (self.cosines, self.correlations)
        )
        return Match(latent, float(self.scores[latent]), cosine, correlation)

    def best(self, but: int | None = None) -> Match:
        """The latent with the largest score, `but` left out."""
        scores = self.scores.copy()
        if but is not None:
            scores[but] = -np.inf
        return self.of(int(scores.argmax()))


def correlations(first: FeatureIndex, latent: int, second: FeatureIndex) -> Float[np.ndarray, " latent"]:
    """corr(f_latent, f_j) for every j of `second`, from both indexes' entries; 0 where either never fires."""
    n = first.n_tokens
    tokens, values = first.entries(latent)
    dense = np.zeros(n)
    dense[tokens] = values
    own = np.asarray(second.values, dtype=np.float64)
    inner, total, square = (
        _summed(second, part) for part in (own * dense[np.asarray(second.tokens)], own, own**2)
    )
    covariance = inner / n - dense.mean() * (total / n)
    spread = np.sqrt(dense.var() * np.maximum(square / n - (total / n) ** 2, 0.0))
    return np.divide(covariance, spread, out=np.zeros(second.n_latents), where=spread > 0)


def _summed(index: FeatureIndex, entries: np.ndarray) -> np.ndarray:
    """Sum of `entries` by latent."""
    running = np.concatenate([[0.0], np.cumsum(entries)])
    return np.diff(running[index.starts])


def matches(first: FeatureTable, latent: int, second: FeatureTable) -> Matches:
    """How well each latent of `second` matches one of `first`; `Misuse` where nothing can be compared."""
    first.row(latent)
    try:
        pointing = cosines(first.dictionary, latent, second.dictionary)
    except Misuse:
        pointing = None
    same_tokens = first.token_set.folder == second.token_set.folder
    firing = correlations(first.index, latent, second.index) if same_tokens else None
    if pointing is None and firing is None:
        raise Misuse(
            f"{first.name!r} and {second.name!r} read models of different width on different tokens: neither "
            "cosine nor correlation can be taken; choose a latent by its number"
        )
    return Matches(pointing, firing)


def twins(tables: list[FeatureTable], own: FeatureTable) -> list[FeatureTable]:
    """Those of other checkpoints that are of the same kind, width and site as `own`: an SAE of sft has those of
    base and grpo."""
    return [t for t in tables if _kind(t) == _kind(own) and t.checkpoints != own.checkpoints]


def _kind(table: FeatureTable) -> tuple[object, ...]:
    return len(table.checkpoints), table.layer, table.point, table.minus, table.table.height
