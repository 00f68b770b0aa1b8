"""From a latent of an earlier site to the latents of a later one: edges of a sparse feature circuit [Marks 2024].

    weight(u → d) = Σ_position (u^corr − u) · ∂(g_d d)/∂u        g_d = ∂m/∂d at the clean prompt, held

summed over the positions of both: what corrupting u does to m by way of d, to first order. u and d are latents
and errors; with d over *all* nodes of a later site that everything passes (a resid_post) the weights from u sum to
its AtP score, since x = Σ_j f_j d_j + b + e there. That sum is checked: `residual`. Sign as there: an edge that
helps is negative.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.attribution import portions
from workbench.circuits.feature_model import TOKENS_AT_ONCE, FeatureModel
from workbench.circuits.feature_words import ERROR
from workbench.circuits.pairs import Pairs
from workbench.errors import Misuse
from workbench.points import Site
from workbench.site import replaced, watched


@dataclasses.dataclass(frozen=True)
class FeatureEdges:
    """Weights by pair. Rows: the chosen latents of the later site, its other latents together, its error; columns:
    the latents of the earlier site, its error."""

    early: Site
    late: Site
    late_latents: tuple[int, ...]
    by_pair: Float[np.ndarray, "pair to from"]
    early_scores: Float[np.ndarray, "from"]  # AtP, the mean over pairs

    @functools.cached_property
    def weights(self) -> Float[np.ndarray, "to from"]:
        """Means over pairs."""
        return self.by_pair.mean(axis=0, dtype=np.float64)

    @property
    def n_pairs(self) -> int:
        return len(self.by_pair)

    @property
    def residual(self) -> float:
        """Σ |Σ_d weight(u → d) − score(u)| / Σ |score(u)|: 0 where all passes the later site."""
        gap = np.abs(self.weights.sum(axis=0) - self.early_scores).sum()
        return float(gap / max(np.abs(self.early_scores).sum(), 1e-12))

    def of(self, early: int, late: int) -> Float[np.ndarray, "pair"]:
        """One edge's weight by pair; `ERROR` for an error."""
        row = self.by_pair.shape[1] - 1 if late == ERROR else self.late_latents.index(late)
        return self.by_pair[:, row, early]  # the error is the last column: -1

    def strongest(self, n: int) -> list[tuple[int, int, float]]:
        """Earlier latent, later latent (`ERROR` for an error) and weight, of the n largest |weight|; what the other
        latents get together is no edge, nor is what weighs nothing."""
        rows = [*self.late_latents, ERROR]
        table = np.delete(self.weights, len(self.late_latents), axis=0)
        last = table.shape[1] - 1
        order = np.argsort(-np.abs(table), axis=None, kind="stable")[:n]
        places = zip(*np.unravel_index(order, table.shape), strict=True)
        return [(ERROR if u == last else int(u), rows[d], float(table[d, u])) for d, u in places if table[d, u]]


def feature_edges(
    model: FeatureModel,
    pairs: Pairs,
    early: Site,
    late: Site,
    late_latents: Sequence[int],
    done: Callable[[int], None] = lambda n: None,
) -> FeatureEdges:
    """The edges from every node of `early` to these latents of `late`; `done` is told how many pairs were read."""
    for site in (early, late):
        if site not in model.coders:
            raise Misuse(f"there is no dictionary at {site.name}: train one there first")
    if not early.order < late.order:
        raise Misuse(f"{early.name} is not computed before {late.name}: name the earlier site first")
    pairs = pairs.to(model.model.device)
    weights, scores = [], []
    for some in portions(pairs, TOKENS_AT_ONCE):
        into, own = _edges(model, some, early, late, list(late_latents))
        weights.append(into)
        scores.append(own)
        done(len(some))
    early_scores = np.concatenate(scores).mean(axis=0)
    return FeatureEdges(early, late, tuple(late_latents), np.concatenate(weights), early_scores)


def _edges(
    model: FeatureModel, pairs: Pairs, early: Site, late: Site, latents: list[int]
) -> tuple[Float[np.ndarray, "pair to from"], Float[np.ndarray, "pair from"]]:
    """Of some pairs. No pair reads another, so the gradient of a sum over pairs holds each one's own."""
    clean, corrupt = (model.read(ids)[early] for ids in (pairs.clean, pairs.corrupt))
    x = clean.x.detach().requires_grad_(True)
    kept: dict[Site, Tensor] = {}
    with torch.enable_grad():
        with (
            replaced(model.model, early, lambda read, written: x),
            watched(model.model, late, kept.__setitem__),
        ):
            m = model.m(pairs.clean, pairs)
        to_late, own = torch.autograd.grad(m.sum(), [kept[late], x], retain_graph=True)
        parts = model.parts(late, kept[late])
        by_latent = (to_late @ model.coders[late].W_dec[:, 0].T * parts.latents).sum(dim=(0, 1))
        error = (to_late * parts.error).sum()
        others = by_latent.sum() - by_latent[latents].sum()
        targets = [*by_latent[latents], others, error]
        into = [torch.autograd.grad(each, x, retain_graph=True)[0] for each in targets]

    def by_source(gradient: Tensor) -> Float[np.ndarray, "pair from"]:
        inner = gradient @ model.coders[early].W_dec[:, 0].T
        moved = ((corrupt.latents - clean.latents) * inner).sum(dim=1)
        left = ((corrupt.error - clean.error) * gradient).sum(dim=(1, 2))
        return torch.cat([moved, left[:, None]], dim=1).cpu().numpy()

    with torch.no_grad():
        return np.stack([by_source(each) for each in into], axis=1), by_source(own)
