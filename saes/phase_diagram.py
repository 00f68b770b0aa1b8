"""Phase diagram of the smallest toy model [Elhage 2022]: two features, one dimension.

Feature 1 has importance 1, feature 2 `relative`. For every density and every relative importance all seeds are
trained at once, and the best is sorted by what became of feature 2:

    not represented  |w_2| is under a bound        dedicated  only |w_2| is above it
    superposed       both are: they share the dimension, as an antipodal pair unless both are nearly always on

Two features have four patterns of activity, so the expected loss needs no samples: we depart from the source in
taking it exactly over patterns and by the midpoint rule over strengths. A cell then has no noise of its own.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, einsum

from saes.errors import DictionaryError
from saes.toy_model import REPRESENTED, descend, reconstruct

PHASES = NOT_REPRESENTED, DEDICATED, SUPERPOSED = ("not represented", "dedicated", "superposed")
LR = 0.03


@dataclass(frozen=True)
class PhaseConfig:
    """A square of `size` × `size` cells, both axes logarithmic."""

    size: int = 17
    lowest_density: float = 0.01
    widest_ratio: float = 10.0  # relative importance runs from 1 over this to this
    n_seeds: int = 6
    steps: int = 400
    points: int = 5  # strengths of a feature in (0, 1)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "n_seeds", "steps", "points"):
            if getattr(self, name) < 1:
                raise DictionaryError(f"{name} is {getattr(self, name)}; it has to be at least 1")
        if not 0 < self.lowest_density < 1 or not self.widest_ratio > 1:
            raise DictionaryError("the lowest density has to lie between 0 and 1, the widest ratio above 1")

    @property
    def densities(self) -> Float[Tensor, " density"]:
        return torch.logspace(torch.tensor(self.lowest_density).log10().item(), 0, self.size)

    @property
    def ratios(self) -> Float[Tensor, " ratio"]:
        widest = torch.tensor(self.widest_ratio).log10().item()
        return torch.logspace(-widest, widest, self.size)


@dataclass(frozen=True)
class PhaseDiagram:
    """What the best seed of each cell does; `phase` numbers `PHASES`."""

    densities: Float[Tensor, " density"]
    ratios: Float[Tensor, " ratio"]
    weights: Float[Tensor, "density ratio feature"]
    phase: Int[Tensor, "density ratio"]


def quadrature(points: int) -> tuple[Float[Tensor, "point feature"], Float[Tensor, "point pattern"]]:
    """Points x of two features, and the weight of each point within the patterns none, first, second, both."""
    middles = (torch.arange(points) + 0.5) / points
    both = torch.cartesian_prod(middles, middles)
    zero = torch.zeros(points)
    x = torch.cat([torch.zeros(1, 2), torch.stack([middles, zero], 1), torch.stack([zero, middles], 1), both])
    pattern = torch.repeat_interleave(torch.arange(4), torch.tensor([1, points, points, points**2]))
    member = torch.nn.functional.one_hot(pattern, 4).float()
    return x, member / member.sum(dim=0)


def pattern_probabilities(densities: Float[Tensor, " density"]) -> Float[Tensor, "density pattern"]:
    """Of none, the first alone, the second alone, and both."""
    on, off = densities, 1 - densities
    return torch.stack([off * off, on * off, off * on, on * on], dim=1)


def phase_diagram(
    config: PhaseConfig, report_every: int = 25
) -> Generator[tuple[int, int], None, PhaseDiagram]:
    """Train every cell; yields (steps done, steps), returns the diagram."""
    densities, ratios = config.densities, config.ratios
    x, share = quadrature(config.points)
    weight = einsum("dp,xp->dx", pattern_probabilities(densities), share)
    weight = weight / densities[:, None]  # a rare feature's loss would vanish beside Adam's epsilon
    importance = torch.stack([torch.ones_like(ratios), ratios], dim=1)
    importance = importance / importance.sum(dim=1, keepdim=True)
    rng = torch.Generator().manual_seed(config.seed)
    start = torch.randn(config.n_seeds, 1, 2, generator=rng)
    W = start.repeat(len(densities), len(ratios), 1, 1, 1).requires_grad_()
    b = torch.zeros(len(densities), len(ratios), config.n_seeds, 2, requires_grad=True)
    optimizer = torch.optim.Adam([W, b], lr=LR)
    for step in range(config.steps):
        missed = (x - reconstruct(x, W, b)).square()
        losses = einsum("drsxf,dx,rf->drs", missed, weight, importance)
        descend(optimizer, losses, LR, step / config.steps)
        if (step + 1) % report_every == 0:
            yield step + 1, config.steps
    best = losses.detach().argmin(dim=2)[:, :, None, None].expand(-1, -1, 1, 2)
    weights = W.detach()[:, :, :, 0].gather(2, best)[:, :, 0]
    return PhaseDiagram(densities, ratios, weights, phases(weights))


def phases(weights: Float[Tensor, "density ratio feature"]) -> Int[Tensor, "density ratio"]:
    """Place in `PHASES` of each pair of weights."""
    first, second = (weights.abs() >= REPRESENTED).unbind(dim=-1)
    return torch.where(second, torch.where(first, 2, 1), 0)
