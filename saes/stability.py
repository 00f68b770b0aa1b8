"""Whether two dictionaries found the same directions: latents matched one to one by their decoders' cosine.

The assignment maximises the summed cosine (Jonker–Volgenant, scipy). Above `OPTIMAL_LATENTS`, where that would
take minutes, only mutual nearest neighbours are matched, and the rest count as matched to nothing. Cosines are
of all models' decoders side by side, in normalised units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saes.controls import random_directions
from saes.dictionary import Dictionary
from saes.errors import DictionaryError

OPTIMAL_LATENTS = 6_000
BOUNDS = (0.7, 0.9)  # cosines from which two latents are called the same
NOBODY = -1


class Matching(NamedTuple):
    """For each latent of the first dictionary: its partner in the second (`NOBODY`: none) and their cosine.

    Latents that were left out, or found no partner, have cosine 0.
    """

    partner: Int[np.ndarray, "latent"]
    cosine: Float[np.ndarray, "latent"]
    optimal: bool

    def mean(self, among: Bool[np.ndarray, "latent"]) -> float:
        """Mean matched cosine of the latents `among`; those without a partner count as 0."""
        return float(self.cosine[among].mean())

    def share(self, bound: float, among: Bool[np.ndarray, "latent"]) -> float:
        """Share of the latents `among` whose matched cosine is at least `bound`."""
        return float((self.cosine[among] >= bound).mean())


def directions(dictionary: Dictionary) -> Float[Tensor, "latent flat"]:
    """Unit decoders, all models side by side, in normalised units."""
    rows = (dictionary.W_dec / dictionary.scales[:, None]).flatten(1)
    return torch.nn.functional.normalize(rows, dim=1)


def match(
    a: Dictionary,
    b: Dictionary,
    among_a: Bool[np.ndarray, "latent"] | None = None,
    among_b: Bool[np.ndarray, "other"] | None = None,
) -> Matching:
    """Match `a`'s latents to `b`'s; `among_*`: those that take part (the ones that fire, say)."""
    if (a.n_models, a.d_out) != (b.n_models, b.d_out):
        raise DictionaryError(
            f"decoders of [{a.n_models}, {a.d_out}] and [{b.n_models}, {b.d_out}] coordinates cannot be matched"
        )
    own = np.arange(a.n_latents) if among_a is None else np.flatnonzero(among_a)
    others = np.arange(b.n_latents) if among_b is None else np.flatnonzero(among_b)
    found = match_directions(directions(a)[own], directions(b)[others])
    partner, cosine = np.full(a.n_latents, NOBODY), np.zeros(a.n_latents)
    has = found.partner != NOBODY
    partner[own[has]] = others[found.partner[has]]
    cosine[own] = found.cosine
    return Matching(partner, cosine, found.optimal)


def match_directions(a: Float[Tensor, "latent flat"], b: Float[Tensor, "other flat"]) -> Matching:
    """Match unit vectors one to one."""
    optimal = max(len(a), len(b)) <= OPTIMAL_LATENTS
    partner, cosine = np.full(len(a), NOBODY), np.zeros(len(a))
    if not len(a) or not len(b):
        return Matching(partner, cosine, optimal)
    if optimal:
        cosines = (a @ b.T).cpu().double().numpy()
        rows, columns = linear_sum_assignment(cosines, maximize=True)
        partner[rows], cosine[rows] = columns, cosines[rows, columns]
        return Matching(partner, cosine, optimal)
    best, value = _nearest(a, b)
    back, _ = _nearest(b, a)
    mutual = back[best] == np.arange(len(a))
    partner[mutual], cosine[mutual] = best[mutual], value[mutual]
    return Matching(partner, cosine, optimal)


def _nearest(
    a: Float[Tensor, "latent flat"], b: Float[Tensor, "other flat"]
) -> tuple[Int[np.ndarray, "latent"], Float[np.ndarray, "latent"]]:
    parts = [(chunk @ b.T).max(dim=1) for chunk in a.split(1024)]
    indices = torch.cat([part.indices for part in parts]).cpu().numpy()
    return indices, torch.cat([part.values for part in parts]).double().cpu().numpy()


def random_matching(n: int, n_other: int, width: int, seed: int = 0) -> Matching:
    """What chance gives: as many random directions of as many coordinates, matched in the same way."""
    return match_directions(
        random_directions(n, width, 2 * seed + 1), random_directions(n_other, width, 2 * seed + 2)
    )


def mean_cosines(matchings: Sequence[Matching]) -> Float[np.ndarray, "latent"]:
    """Each latent's matched cosine, averaged over several other dictionaries."""
    if not matchings:
        raise DictionaryError("stability needs at least one other dictionary, found none")
    return np.mean([found.cosine for found in matchings], axis=0)
