"""Sparse feature circuits: what every latent and every error of a site is worth to a task [Marks 2024].

    score of latent j   Σ_position (f_j^corr − f_j) · ⟨d_j, ∂m/∂x⟩
    score of the error  Σ_position ⟨e^corr − e, ∂m/∂x⟩

    AtP  the gradient at the clean prompt
    IG   its mean at n midpoints of the straight way of the whole site from clean to corrupt [Sundararajan 2017]

Sign: a score estimates m with that node corrupt minus m as it is, so a node that helps the clean answer has a
*negative* score. Latents and error are all that stands at a site (the bias does not change), so along IG their sum
is m with the whole site corrupt less m: `residual` says how nearly. Sites are scored each for itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.attribution import portions
from workbench.circuits.competence import Estimate
from workbench.circuits.feature_model import TOKENS_AT_ONCE, FeatureModel, Parts, put
from workbench.circuits.pairs import Pairs
from workbench.intervals import ratio_interval
from workbench.points import Site

N_STEPS = 10
SIGN = "score = m with this node corrupt − m: a node that helps has a negative score"


@dataclasses.dataclass(frozen=True)
class SiteScores:
    """The nodes of one site.

    `whole` is m with the whole site corrupt less m. `sizes` is how much a latent writes otherwise on the corrupt
    prompts, Σ ‖(f_j^corr − f_j) d_j‖.
    """

    site: Site
    method: str
    latents: Float[np.ndarray, "pair latent"]
    errors: Float[np.ndarray, "pair"]
    whole: Float[np.ndarray, "pair"]
    sizes: Float[np.ndarray, "latent"]

    @property
    def mean(self) -> Float[np.ndarray, "latent"]:
        return self.latents.mean(axis=0)

    @property
    def total(self) -> Float[np.ndarray, "pair"]:
        """All nodes together."""
        return self.latents.sum(axis=1) + self.errors

    @property
    def residual(self) -> float:
        """|Σ nodes − whole| as a share of |whole|, sums over pairs."""
        whole = float(self.whole.sum())
        return abs(float(self.total.sum()) - whole) / max(abs(whole), 1e-12)

    @property
    def error_share(self) -> Estimate:
        """Of the effect of all nodes, what the errors have: Σ errors / Σ nodes. It may lie outside 0 to 1, where
        errors and latents work against each other."""
        total = self.total
        low, high = ratio_interval(self.errors, total)
        return Estimate(float(self.errors.sum() / total.sum()), low, high)


def feature_scores(
    model: FeatureModel,
    pairs: Pairs,
    n_steps: int = N_STEPS,
    done: Callable[[int], None] = lambda n: None,
) -> dict[Site, SiteScores]:
    """AtP (`n_steps` 0) or IG of every node of every site; `done` is told how many pairs have been read."""
    if n_steps < 0:
        raise ValueError(
            f"n_steps is {n_steps}: give 0 for the gradient at the clean prompt, or a number of points"
        )
    pairs = pairs.to(model.model.device)
    sums = {site: _Sums() for site in model.sites}
    for some in portions(pairs, TOKENS_AT_ONCE):
        clean, corrupt = model.read(some.clean), model.read(some.corrupt)
        with torch.no_grad():
            start = model.m(some.clean, some)
        for site in model.sites:
            gradient = path_gradient(model, some, site, clean[site].x, corrupt[site].x, n_steps)
            with torch.no_grad():
                whole = model.m(some.clean, some, {site: put(corrupt[site].x)}) - start
            sums[site].add(model, site, clean[site], corrupt[site], gradient, whole)
        done(len(some))
    method = f"IG {n_steps}" if n_steps else "AtP"
    return {site: sums[site].scores(site, method) for site in model.sites}


def path_gradient(
    model: FeatureModel, pairs: Pairs, site: Site, clean: Tensor, corrupt: Tensor, n_steps: int
) -> Float[Tensor, "pair position d"]:
    """∂m/∂x at the site, at the clean prompt (`n_steps` 0) or averaged over the way to the corrupt one."""
    shares = (np.arange(n_steps) + 0.5) / n_steps if n_steps else np.zeros(1)
    summed = torch.zeros_like(clean)
    for share in shares:
        at = (clean + float(share) * (corrupt - clean)).detach().requires_grad_(True)
        with torch.enable_grad():
            m = model.m(pairs.clean, pairs, {site: put(at)})
            summed += torch.autograd.grad(m.sum(), at)[0]
    return summed / len(shares)


class _Sums:
    """What is summed over portions of the pairs."""

    def __init__(self) -> None:
        self.latents: list[np.ndarray] = []
        self.errors: list[np.ndarray] = []
        self.whole: list[np.ndarray] = []
        self.sizes = np.zeros(())

    @torch.no_grad()
    def add(
        self, model: FeatureModel, site: Site, clean: Parts, corrupt: Parts, gradient: Tensor, whole: Tensor
    ) -> None:
        gap = corrupt.latents - clean.latents
        W_dec = model.coders[site].W_dec[:, 0]
        latents = (gap * (gradient @ W_dec.T)).double()
        errors = ((corrupt.error - clean.error) * gradient).sum(dim=-1).double()
        self.latents.append(latents.sum(dim=1).cpu().numpy())
        self.errors.append(errors.sum(dim=1).cpu().numpy())
        self.whole.append(whole.double().cpu().numpy())
        # behind a prompt's end nothing counts, so neither does what is written there
        counted = (gradient != 0).any(dim=-1)[..., None]
        self.sizes = (
            self.sizes + ((gap.abs() * counted).sum(dim=(0, 1)) * W_dec.norm(dim=1)).double().cpu().numpy()
        )

    def scores(self, site: Site, method: str) -> SiteScores:
        latents, errors, whole = (np.concatenate(each) for each in (self.latents, self.errors, self.whole))
        return SiteScores(site, method, latents, errors, whole, self.sizes)
