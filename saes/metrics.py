"""How good a dictionary is, on tokens it was not trained on. Sums are kept per model and divided once at the
end.

FVU_m = Σ_t ‖x^m_t − x̂^m_t‖² / Σ_t ‖x^m_t − x̄^m‖²        L0 = active latents a token dead  = share of
latents that fire on no token             shrinkage_m = mean of ‖x̂^m‖/‖x^m‖, both about b_dec^m
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.arrays import Activations, in_order, read
from saes.dictionary import Dictionary
from saes.errors import DictionaryError


class Scatter:
    """Σ‖x − x̂‖² and Σ‖x − x̄‖² per model, in float64, over batches of any size."""

    def __init__(self) -> None:
        self.n = 0
        self.residual = self.total = self.sum = torch.zeros((), dtype=torch.float64)
        self.shift: Tensor | None = None

    def add(self, x: Float[Tensor, "token model d"], x_hat: Float[Tensor, "token model d"]) -> None:
        if self.shift is None:  # centred near the mean, so that Σx² − (Σx)²/n loses nothing
            self.shift = x.double().mean(dim=0)
        away = x.double() - self.shift
        self.n += x.shape[0]
        self.residual = self.residual + (x - x_hat).double().square().sum(dim=(0, 2))
        self.total = self.total + away.square().sum(dim=(0, 2))
        self.sum = self.sum + away.sum(dim=0)

    def fvu(self) -> Float[Tensor, " model"]:
        if self.n < 2:
            raise DictionaryError(f"FVU needs at least 2 tokens, found {self.n}")
        about_mean = self.total - self.sum.square().sum(dim=1) / self.n
        return self.residual / about_mean


class Firing:
    """How often each latent fires, over batches of any size."""

    def __init__(self, n_latents: int) -> None:
        self.n = 0
        self.fires = torch.zeros(n_latents, dtype=torch.long)

    def add(self, latents: Int[Tensor, " entry"], n_tokens: int) -> None:
        self.n += n_tokens
        self.fires += torch.bincount(latents.cpu(), minlength=len(self.fires))

    def l0(self) -> float:
        return int(self.fires.sum()) / max(self.n, 1)

    def dead_share(self) -> float:
        return int((self.fires == 0).sum()) / len(self.fires)

    def densities(self) -> Float[Tensor, " latent"]:
        return self.fires.double() / max(self.n, 1)


def fvu(x: Float[Tensor, "token model d"], x_hat: Float[Tensor, "token model d"]) -> Float[Tensor, " model"]:
    """Fraction of variance unexplained, one figure a model."""
    scatter = Scatter()
    scatter.add(x, x_hat)
    return scatter.fvu()


def l0(latents: Float[Tensor, "token latent"]) -> float:
    """Mean number of active latents a token."""
    return int((latents != 0).sum()) / latents.shape[0]


def dead_share(latents: Float[Tensor, "token latent"]) -> float:
    """Share of latents that are zero on every token given."""
    return int((latents == 0).all(dim=0).sum()) / latents.shape[1]


def nearest_cosine(
    dictionary: Dictionary, among: Bool[np.ndarray, "latent"] | None = None
) -> Float[Tensor, " latent"]:
    """Cosine of each latent's decoder (all models, normalised units) to its nearest neighbour: interference.

    With `among` (the latents that fire, say) only those have a cosine and count as neighbours; others are NaN.
    """
    rows = torch.nn.functional.normalize((dictionary.W_dec / dictionary.scales[:, None]).flatten(1), dim=1)
    if among is None:
        return nearest_row_cosine(rows)
    found = torch.full((len(rows),), torch.nan, device=rows.device)
    chosen = torch.from_numpy(np.flatnonzero(among)).to(rows.device)
    if len(chosen) > 1:
        found[chosen] = nearest_row_cosine(rows[chosen])
    return found


def nearest_row_cosine(rows: Float[Tensor, "latent flat"]) -> Float[Tensor, " latent"]:
    """Largest cosine of each row with another row."""
    rows = torch.nn.functional.normalize(rows, dim=1)
    best = []
    for start in range(0, len(rows), 1024):
        cosines = rows[start : start + 1024] @ rows.T
        own = torch.arange(cosines.shape[0], device=rows.device)
        cosines[own, own + start] = -1.0
        best.append(cosines.max(dim=1).values)
    return torch.cat(best)


@dataclass(frozen=True)
class Scores:
    """What `evaluate` found; per-model figures are keyed by the model's name."""

    n_tokens: int
    fvu: dict[str, float]
    l0: float
    dead_share: float
    shrinkage: dict[str, float]


def evaluate(
    dictionary: Dictionary,
    activations: Activations,
    limit: int | None = None,
    chunk: int = 4096,
    targets: Activations | None = None,
) -> Scores:
    """FVU, L0, dead share and shrinkage of the inference dictionary on (held-out) activations; of a transcoder
    on the `targets` that it is to write."""
    scatter, firing, ratio = Scatter(), Firing(dictionary.n_latents), torch.zeros(())
    for x, rows in in_order(activations, chunk, limit):
        x = x.to(dictionary.device)
        code = dictionary.encode_sparse(x)
        x_hat = dictionary.output(code, x)
        x = x if targets is None else read(targets, rows).to(x)
        if x.shape != x_hat.shape:
            found, wanted = list(x.shape[1:]), list(x_hat.shape[1:])
            raise DictionaryError(
                f"the targets are [model, d] {found} but it writes {wanted}: give those it was trained on"
            )
        scatter.add(x, x_hat)
        firing.add(code.latents, x.shape[0])
        lengths = (x - dictionary.b_dec).norm(dim=2).clamp_min(1e-12)
        ratio = ratio + ((x_hat - dictionary.b_dec).norm(dim=2) / lengths).double().sum(dim=0)
    return Scores(
        n_tokens=scatter.n,
        fvu=dict(zip(dictionary.names, scatter.fvu().tolist(), strict=True)),
        l0=firing.l0(),
        dead_share=firing.dead_share(),
        shrinkage=dict(zip(dictionary.names, (ratio / scatter.n).tolist(), strict=True)),
    )
