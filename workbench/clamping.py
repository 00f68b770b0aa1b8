"""Clamping latents while a model reads: f_j is set to a value at some tokens, what stands where the dictionary
writes (the residual stream, an MLP's output) moves by the difference and keeps the part that it leaves out,

    x^m ← x^m + Σ_j (target_j − f_j(x)) d_j^m

so that clamping a latent to the value it has changes nothing. A transcoder's f_j(x) are read where the MLP reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from saes.dictionary import Dictionary
from workbench.points import Site as Place
from workbench.site import read_sites, replaced


class Texts(NamedTuple):
    """Token ids padded on the right, and the tokens (of the padded rows) that are clamped."""

    ids: Int[Tensor, "text position"]
    at: Bool[Tensor, "text position"]


@dataclass(frozen=True)
class Site:
    """The models that a dictionary reads, where it writes, and which of them is steered."""

    models: Sequence[PreTrainedModel]
    place: Place
    dictionary: Dictionary
    steered: int
    reads: Place | None = None  # where it reads, if that is not where it writes

    def differences(
        self, texts: Texts, targets: Sequence[Mapping[int, float]]
    ) -> Float[Tensor, "text position d"]:
        """Σ_j (target_j − f_j) d_j of each text at its clamped tokens, zero elsewhere."""
        x = self._read(texts)
        out = x.new_zeros(*texts.ids.shape, self.dictionary.d_out)
        W_dec = self.dictionary.W_dec[:, self.steered]
        for row, wanted in enumerate(targets):
            f = self.dictionary.encode(x[row, texts.at[row]])
            for latent, value in wanted.items():
                out[row, texts.at[row]] += (value - f[:, latent, None]) * W_dec[latent]
        return out

    def patches(
        self, texts: Texts, others: Texts, latents_only: bool = False
    ) -> Float[Tensor, "text position d"]:
        """What stands there on the other texts less that on these, at the clamped tokens; with `latents_only` as
        far as the dictionary reconstructs it."""
        at = None if latents_only else self.place
        there, here = (self._read(t, at)[texts.at] for t in (others, texts))
        if latents_only:
            there, here = (self.dictionary.reconstruct(x) for x in (there, here))
        out = here.new_zeros(*texts.ids.shape, here.shape[-1])
        out[texts.at] = (there - here)[:, self.steered]
        return out

    def _read(self, texts: Texts, at: Place | None = None) -> Float[Tensor, "text position model d"]:
        """What stands at a place of every model; where the dictionary reads, if none is named."""
        place = at or self.reads or self.place
        return torch.stack([read_sites(m, [place], texts.ids)[place] for m in self.models], dim=2).float()

    def random_like(
        self, differences: Float[Tensor, "text position d"], latents: Int[Tensor, "text"]
    ) -> Float[Tensor, "text position d"]:
        """As long as `differences` at every token, along the decoders of other latents."""
        directions = torch.nn.functional.normalize(self.dictionary.W_dec[latents, self.steered], dim=1)
        return differences.norm(dim=2, keepdim=True) * directions[:, None]

    def log_probabilities(
        self, texts: Texts, differences: Float[Tensor, "text position d"] | None = None
    ) -> Float[Tensor, "text position vocab"]:
        """log p of the next token at every position, with the differences added."""
        model = self.models[self.steered]
        with torch.inference_mode():
            if differences is None:
                return model(input_ids=texts.ids, use_cache=False).logits.float().log_softmax(-1)
            with replaced(model, self.place, lambda read, written: written + differences.to(written)):
                return model(input_ids=texts.ids, use_cache=False).logits.float().log_softmax(-1)
