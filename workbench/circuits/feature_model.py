"""A checkpoint read through sparse dictionaries at one site or several: x = Σ_j f_j d_j + b + e.

The nodes of a site are its latents and one error, e = x − x̂ [Marks 2024]. A run can be made with any of them at the
value that they have on the corrupt prompt,

    x ← x + Σ_{j ∉ kept} (f_j^corr − f_j) d_j  (+ e^corr − e, where the error is not kept)

with f and e those of this very run. With all of a site's nodes corrupt, x^corr stands there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from saes.dictionary import Dictionary
from saes.transcoder import Transcoder
from workbench.circuits.pairs import Pairs, logit_difference
from workbench.errors import Misuse
from workbench.points import MLP_IN, Site
from workbench.site import last_logits, read_sites, replaced, site_module

TOKENS_AT_ONCE = 2_048  # their dense latents are held

Stream = Float[Tensor, "pair position d"]
Latents = Float[Tensor, "pair position latent"]
Change = Callable[[Tensor], Tensor]


class Parts(NamedTuple):
    """What stands at a site, taken apart."""

    x: Stream
    latents: Latents
    error: Stream


class Kept(NamedTuple):
    """The nodes of a site that stay as they are in this run, by row."""

    latents: Bool[Tensor, "pair latent"]
    error: bool


def put(value: Stream) -> Change:
    """Whatever stands at the site, `value` does now."""
    return lambda x: value


def _of_written(change: Change) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda read, written: change(written)


class FeatureModel:
    """One model with an SAE for each site, the sites in the order in which they are computed."""

    def __init__(self, model: PreTrainedModel, coders: Mapping[Site, Dictionary]) -> None:
        if not coders:
            raise Misuse("a feature circuit needs a dictionary: give one site at least")
        for site, coder in coders.items():
            if isinstance(coder, Transcoder) or coder.n_models != 1 or site.point == MLP_IN:
                raise Misuse(
                    f"the dictionary at {site.name} is no SAE of what one checkpoint writes there: a feature "
                    "circuit takes SAEs of resid_post or mlp_out"
                )
            site_module(model, site)
        self.model = model
        self.coders = {site: coders[site].to(model.device) for site in sorted(coders, key=lambda s: s.order)}

    @property
    def sites(self) -> list[Site]:
        return list(self.coders)

    def latents(self, site: Site, x: Stream) -> Latents:
        """f, differentiable."""
        return self.coders[site].encode(x.float().flatten(0, 1)[:, None]).view(*x.shape[:2], -1)

    def decoded(self, site: Site, latents: Latents) -> Stream:
        """Σ_j f_j d_j, without the bias."""
        return latents @ self.coders[site].W_dec[:, 0]

    def parts(self, site: Site, x: Stream) -> Parts:
        latents = self.latents(site, x)
        return Parts(x, latents, x - self.decoded(site, latents) - self.coders[site].b_dec[0])

    @torch.no_grad()
    def read(self, ids: Int[Tensor, "pair position"]) -> dict[Site, Parts]:
        """What stands at every site."""
        found = read_sites(self.model, self.sites, ids)
        return {site: self.parts(site, found[site].clone()) for site in self.sites}

    def m(
        self, ids: Int[Tensor, "pair position"], pairs: Pairs, changes: Mapping[Site, Change] | None = None
    ) -> Float[Tensor, "pair"]:
        """m of a run of `ids` in which what stands at some sites is changed."""
        with contextlib.ExitStack() as hooks:
            for site, change in (changes or {}).items():
                hooks.enter_context(replaced(self.model, site, _of_written(change)))
            logits = last_logits(self.model, ids, pairs.last)
        return logit_difference(logits.float(), pairs.target, pairs.foil)

    @torch.no_grad()
    def m_keeping(
        self, pairs: Pairs, corrupt: Mapping[Site, Parts], kept: Mapping[Site, Kept]
    ) -> Float[Tensor, "pair"]:
        """m of each clean prompt with every node that is not kept at its value on the corrupt prompt."""

        def change_at(site: Site) -> Change:
            there, stay = corrupt[site], kept[site]

            def change(x: Tensor) -> Tensor:
                here = self.parts(site, x)
                gap = torch.where(stay.latents[:, None], 0.0, there.latents - here.latents)
                moved = x + self.decoded(site, gap)
                return moved if stay.error else moved + there.error - here.error

            return change

        return self.m(pairs.clean, pairs, {site: change_at(site) for site in kept})
