"""The inference dictionary: an SAE (one model) or an N-way crosscoder (several), in raw activation units.

    pre_j = Σ_m ⟨x^m, W_enc^m_j⟩ + b_enc_j        f_j = pre_j if pre_j > threshold_j else 0
    x̂^m   = Σ_j f_j W_dec_j^m + b_dec^m

A `topk` dictionary also keeps only the k largest f_j of each token, an `abstopk` one the k pre_j farthest from
zero, with their signs; a `matching_pursuit` one (tied, W_enc is
W_decᵀ) takes up to k latents one after the other, each by what the ones before it left over.

Training normalises each model's activations by a scale σ_m; here that is folded into the weights, so
activations go in and come out as the model has them, and `scales` keeps the σ_m. Decoder norms that are
compared across models are taken in normalised units, ‖d_j^m‖ = ‖W_dec_j^m‖ / σ_m [Lindsey 2024; Minder 2025].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, einsum

from saes.errors import DictionaryError
from saes.sparse import Code, Pattern, sparse_decode

ACTIVATIONS = ("jumprelu", "topk", "abstopk", "matching_pursuit")
CHUNK = 4096  # tokens whose dense preactivations are held at once


@dataclass(frozen=True)
class Dictionary:
    """N ≥ 1 models, one site, F latents. Every method takes and returns raw activation units."""

    W_enc: Float[Tensor, "model d latent"]
    b_enc: Float[Tensor, " latent"]
    W_dec: Float[Tensor, "latent model d"]
    b_dec: Float[Tensor, "model d"]
    threshold: Float[Tensor, " latent"]
    scales: Float[Tensor, " model"]
    names: tuple[str, ...]
    k: int
    site: str = ""
    activation: str = "jumprelu"  # or another of ACTIVATIONS

    def __post_init__(self) -> None:
        (n, _, f), (d, d_out) = self.W_enc.shape, self._widths()
        expected = {
            "b_enc": (f,), "W_dec": (f, n, d_out), "b_dec": (n, d_out), "threshold": (f,), "scales": (n,),
        }  # fmt: skip
        for name, shape in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise DictionaryError(f"{name} has shape {found}; with W_enc {(n, d, f)} it has to be {shape}")
        if len(self.names) != n or len(set(self.names)) != n:
            raise DictionaryError(f"{n} models need {n} different names, found {list(self.names)}")
        if self.activation not in ACTIVATIONS:
            raise DictionaryError(
                f"there is no activation {self.activation!r}: choose {', '.join(ACTIVATIONS)}"
            )
        if not 1 <= self.k <= f:
            raise DictionaryError(f"k is {self.k}; it has to lie between 1 and the {f} latents")
        if not bool((self.scales > 0).all()) or not bool((self.threshold >= 0).all()):
            raise DictionaryError("scales have to be above 0 and thresholds at least 0")

    def _widths(self) -> tuple[int, int]:
        """Of what is read and of what is written: the same, but for a transcoder."""
        return self.W_enc.shape[1], self.W_enc.shape[1]

    @property
    def n_models(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d(self) -> int:
        return self.W_enc.shape[1]

    @property
    def d_out(self) -> int:
        return self._widths()[1]

    @property
    def n_latents(self) -> int:
        return self.W_enc.shape[2]

    @property
    def device(self) -> torch.device:
        return self.W_enc.device

    def to(self, device: str | torch.device) -> Dictionary:
        here = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in here.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def narrowed(self, latents: Int[Tensor, " chosen"]) -> Dictionary:
        """Some of its latents alone, which fire as they do among all; only of a `jumprelu` dictionary, where they
        do not compete."""
        if self.activation != "jumprelu":
            raise DictionaryError(
                f"latents of a {self.activation} dictionary compete: none fires as it does alone"
            )
        return replace(
            self,
            W_enc=self.W_enc[:, :, latents],
            b_enc=self.b_enc[latents],
            W_dec=self.W_dec[latents],
            threshold=self.threshold[latents],
            k=min(self.k, len(latents)),
        )

    def model_index(self, name: str) -> int:
        if name not in self.names:
            raise DictionaryError(f"this dictionary has no model {name!r}; it reads {', '.join(self.names)}")
        return self.names.index(name)

    def preactivations(self, x: Float[Tensor, "token model d"]) -> Float[Tensor, "token latent"]:
        self._check(x)
        return x.flatten(1) @ self.W_enc.flatten(0, 1) + self.b_enc

    def encode(self, x: Float[Tensor, "token model d"]) -> Float[Tensor, "token latent"]:
        """Dense latents; zero where the preactivation does not pass (see above)."""
        if self.activation == "matching_pursuit":
            return self._pursue(x)
        pre = self.preactivations(x)
        if self.activation == "abstopk":
            farthest = pre.abs().topk(self.k, dim=1).indices
            return torch.zeros_like(pre).scatter(1, farthest, pre.gather(1, farthest))
        on = torch.where(pre > self.threshold, pre, 0.0)
        if self.activation == "jumprelu":
            return on
        best = on.topk(self.k, dim=1)
        return torch.zeros_like(on).scatter(1, best.indices, best.values)

    def _pursue(self, x: Float[Tensor, "token model d"]) -> Float[Tensor, "token latent"]:
        """Matching pursuit; a token is done when it would take a latent again, or none [as SAELens does]."""
        self._check(x)
        residual, W_dec = (x - self.b_dec).flatten(1), self.W_dec.flatten(1)
        latents = residual.new_zeros(len(x), self.n_latents)
        going = torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
        for _ in range(self.k):
            chosen = (residual @ W_dec.T).argmax(dim=1, keepdim=True)
            row = W_dec[chosen.squeeze(1)]
            value = (residual * row).sum(dim=1, keepdim=True).relu() * going
            going = going & (latents.gather(1, chosen) == 0) & (value > 0)
            latents = latents.scatter_add(1, chosen, value)
            residual = residual - value * row
        return latents

    @torch.no_grad()
    def encode_sparse(self, x: Float[Tensor, "token model d"]) -> Code:
        """The same latents as (rows, latents, values) in token order."""
        self._check(x)
        parts = [self._entries(chunk, start) for start, chunk in _chunks(x)]
        if not parts:
            none = torch.zeros(0, dtype=torch.long, device=x.device)
            return Code(none, none, self.b_enc[:0])
        return Code(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _entries(self, x: Tensor, offset: int) -> Code:
        if self.activation != "jumprelu":
            latents_on = self.encode(x)
            rows, latents = latents_on.nonzero(as_tuple=True)
            return Code(rows + offset, latents, latents_on[rows, latents])
        pre = self.preactivations(x)
        rows, latents = (pre > self.threshold).nonzero(as_tuple=True)
        return Code(rows + offset, latents, pre[rows, latents])

    def decode(self, latents: Float[Tensor, "token latent"]) -> Float[Tensor, "token model d_out"]:
        return einsum("tf,fmd->tmd", latents, self.W_dec) + self.b_dec

    def decode_sparse(self, code: Code, n_tokens: int) -> Float[Tensor, "token model d_out"]:
        pattern = Pattern(code.rows, code.latents, n_tokens, self.n_latents)
        flat = sparse_decode(code.values, self.W_dec.flatten(1), pattern)
        return flat.view(n_tokens, self.n_models, self.d_out) + self.b_dec

    def output(self, code: Code, x: Float[Tensor, "token model d"]) -> Float[Tensor, "token model d_out"]:
        """What the dictionary makes of x, whose code is known."""
        return self.decode_sparse(code, x.shape[0])

    def reconstruct(self, x: Float[Tensor, "token model d"]) -> Float[Tensor, "token model d_out"]:
        return self.output(self.encode_sparse(x), x)

    def decoder_norms(self) -> Float[Tensor, "latent model"]:
        """‖d_j^m‖ in normalised units."""
        return self.W_dec.norm(dim=2) / self.scales

    def relative_norms(self) -> Float[Tensor, "latent model"]:
        """w_m = ‖d^m‖ / Σ_m ‖d^m‖; rows sum to one (a latent without a decoder counts as shared equally)."""
        norms = self.decoder_norms()
        total = norms.sum(dim=1, keepdim=True)
        return torch.where(total > 0, norms / total.clamp_min(torch.finfo(norms.dtype).tiny), 1 / self.n_models)

    def contributions(
        self, x: Float[Tensor, "token model d"], latents: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "token chosen model"]:
        """W_enc^m x^m: what each model adds to the preactivation. Their sum plus b_enc is the
        preactivation."""
        self._check(x)
        return einsum("tmd,mdc->tcm", x, self.W_enc[:, :, latents])

    def _check(self, x: Tensor) -> None:
        if x.shape[1:] != (self.n_models, self.d):
            found = list(x.shape)
            raise DictionaryError(
                f"activations have shape {found}; this dictionary reads [token, {self.n_models}, {self.d}]"
            )


def _chunks(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, x.shape[0], CHUNK):
        yield start, x[start : start + CHUNK]
