"""What writes a latent on a task's prompts, and what the latent writes.

    writers   Δ_c = mean of s ⟨w_c^corr − w_c^clean, e_j⟩ over the places where the latent is on in either prompt,
              s = sign ⟨x^corr − x^clean, e_j⟩: which way a latent changes differs by pair, and a plain mean of both
              ways would be nothing
    logits    d_j through final norm and unembedding: the tokens that it raises and lowers, up to a scale
    direct    (f_j^corr − f_j) ⟨d_j, ∂m/∂x_final⟩ at the last token, the final norm's scale held: what of its score
              goes straight to the logits; the rest goes by way of later layers

c runs over the embedding, heads and MLPs up to the site (`workbench.residual_writers`); their Δ sum to the mean
|change| of the preactivation, which is checked. Only a resid_post has such writers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.circuits.attribution import portions
from workbench.circuits.feature_model import TOKENS_AT_ONCE, FeatureModel
from workbench.circuits.local_replacement import held_norm
from workbench.circuits.pairs import Pairs
from workbench.errors import Misuse
from workbench.intervals import ratio_intervals
from workbench.points import RESID_POST, Site
from workbench.residual_writers import decompose
from workbench.site import direct_logits, final_norm


@dataclasses.dataclass(frozen=True)
class LatentWriters:
    """Δ of every component, NaN for a latent that is on nowhere; `n` places of each. `sums` and `counts`: what Δ is
    made of by pair, since places of one pair are not independent. `preactivation`: its mean |change|."""

    components: tuple[str, ...]
    sums: Float[np.ndarray, "pair component latent"]
    counts: Int[np.ndarray, "pair latent"]
    preactivation: Float[np.ndarray, "latent"]

    @property
    def n(self) -> Int[np.ndarray, "latent"]:
        return self.counts.sum(axis=0)

    @property
    def delta(self) -> Float[np.ndarray, "component latent"]:
        with np.errstate(invalid="ignore"):  # of a latent that is on nowhere
            return self.sums.sum(axis=0) / self.n

    def interval(self, latent: int) -> Float[np.ndarray, "component 2"]:
        """95 % interval over pairs of every component's Δ, of the latent with this place among those asked for."""
        return ratio_intervals(self.sums[..., latent], self.counts[:, latent].astype(np.float64))

    @property
    def residual(self) -> float:
        """The largest |Σ_c Δ_c − Δ preactivation|."""
        gap = np.abs(self.delta.sum(axis=0) - self.preactivation)
        return float(np.nan_to_num(gap).max())


@dataclasses.dataclass(frozen=True)
class LatentWrites:
    """Tokens that a latent raises most and lowers most, and its direct effect on m by pair."""

    raised: Int[np.ndarray, "latent k"]
    lowered: Int[np.ndarray, "latent k"]
    direct: Float[np.ndarray, "latent pair"]


@torch.no_grad()
def latent_writers(model: FeatureModel, pairs: Pairs, site: Site, latents: Sequence[int]) -> LatentWriters:
    """What makes these latents differ between the two prompts."""
    if site.point != RESID_POST:
        raise Misuse(f"{site.name} is written by one MLP: only a resid_post has several writers")
    pairs, coder, chosen = pairs.to(model.model.device), model.coders[site], list(latents)
    encoder = coder.W_enc[0][:, chosen]
    sums, counts, gaps, names = [], [], torch.zeros(()), list[str]()
    for some in portions(pairs, TOKENS_AT_ONCE):
        places = torch.arange(some.clean.shape[1], device=some.clean.device) <= some.last[:, None]
        clean, corrupt = (model.read(ids)[site] for ids in (some.clean, some.corrupt))
        on = ((clean.latents[..., chosen] != 0) | (corrupt.latents[..., chosen] != 0))[places].double()
        (names, here), (_, there) = (
            decompose(model.model, site.layer, ids, places) for ids in (some.clean, some.corrupt)
        )
        change = ((corrupt.x - clean.x)[places] @ encoder).double() * on
        written = ((there - here) @ encoder).double() * on * change.sign()
        of = places.nonzero()[:, 0]  # the pair of each row
        blank = written.new_zeros(len(some), *written.transpose(0, 1).shape[1:])
        sums.append(blank.index_add(0, of, written.transpose(0, 1)).cpu().numpy())
        counts.append(on.new_zeros(len(some), len(chosen)).index_add(0, of, on).long().cpu().numpy())
        gaps = gaps + change.abs().sum(dim=0)
    n_places = np.concatenate(counts)
    with np.errstate(invalid="ignore"):  # of a latent that is on nowhere
        preactivation = gaps.cpu().numpy() / n_places.sum(axis=0)
    return LatentWriters(tuple(names), np.concatenate(sums), n_places, preactivation)


def latent_writes(
    model: FeatureModel, pairs: Pairs, site: Site, latents: Sequence[int], k: int = 10
) -> LatentWrites:
    """What these latents write, by tokens and to m directly."""
    pairs, chosen = pairs.to(model.model.device), list(latents)
    directions = model.coders[site].W_dec[chosen, 0]
    logits = direct_logits(model.model, directions)
    raised, lowered = (logits.topk(k, largest=high).indices.cpu().numpy() for high in (True, False))
    found = []
    for some in portions(pairs, TOKENS_AT_ONCE):
        clean, corrupt = (model.read(ids)[site].latents[..., chosen] for ids in (some.clean, some.corrupt))
        rows = torch.arange(len(some), device=some.clean.device)
        gap = (corrupt - clean)[rows, some.last]
        found.append((gap * (_to_final(model, some)[rows, some.last] @ directions.T)).double().cpu().numpy().T)
    return LatentWrites(raised, lowered, np.concatenate(found, axis=1))


def _to_final(model: FeatureModel, pairs: Pairs) -> Float[Tensor, "pair position d"]:
    """∂m/∂ what the final norm reads, its scale held."""
    norm, kept = final_norm(model.model), list[Tensor]()

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        kept.append(args[0].detach().requires_grad_(True))
        return (kept[0], *args[1:])

    handles = [norm.register_forward_pre_hook(before), norm.register_forward_hook(held_norm)]
    try:
        with torch.enable_grad():
            return torch.autograd.grad(model.m(pairs.clean, pairs).sum(), kept[0])[0]
    finally:
        for handle in handles:
            handle.remove()
