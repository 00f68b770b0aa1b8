"""One dictionary in training on the sparse path: `batchtopk`, `topk`, `matryoshka_batchtopk`.

In normalised units z^m = (x^m − μ^m)/σ_m, with the models' coordinates side by side:

    f = ReLU(W_enc z + b_enc),  s_j = Σ_m ‖d_j^m‖,  keep the k·B largest f_j·s_j of the batch
    loss = (1/N) Σ_m ‖x^m − x̂^m‖² / (d·σ_m²) + AuxK = mean over coordinates of (z − ẑ)² + AuxK

[Bussmann 2024; Lindsey 2024; Minder 2025]. The norms s_j only select; no gradient passes through them. k
falls from `k_start`, the learning rate ends at zero. `topk` keeps the k largest of each token instead;
`matryoshka_batchtopk` takes the mean of the losses of nested reconstructions [Bussmann 2025].

A transcoder [Dunefsky 2024] has a target t beside its input z, in units of its own, and writes
t̂ = Σ_j f_j d_j + b_dec (+ W_skip z) in place of ẑ: an SAE is the one whose target is its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saes.auxk import auxk_loss
from saes.calibrate import Units
from saes.config import TOPK, TrainConfig
from saes.dictionary import Dictionary
from saes.run import Report, moments, restore_moments
from saes.selection import BatchTopK, TopK, native_bfloat16
from saes.sparse import Pattern, sparse_decode, sparse_encode
from saes.transcoder import Transcoder

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
BETAS = (0.9, 0.99)  # 0.999 remembers the first steps' large gradients for most of a run of under 1,000 steps


class SparseRun:
    """Weights `[latent, model·d]` in normalised units, their optimizer, the selection, the silence counters."""

    def __init__(
        self,
        units: Units,
        config: TrainConfig,
        target_units: Units | None = None,
        start: Dictionary | None = None,
    ) -> None:
        self.config, self.units, self.step = config, units, 0
        self.is_transcoder = target_units is not None
        self.target_units = units if target_units is None else target_units
        d_out = self.target_units.mean.shape[1] if self.is_transcoder else None
        if start is None:
            weights = starting_weights(units.mean.shape[0], units.mean.shape[1], d_out, config)
        else:
            weights = weights_of(start, units)
        self._place(weights, torch.zeros(config.n_latents, dtype=torch.long))

    def _place(self, weights: Mapping[str, Tensor], silent_steps: Tensor) -> None:
        device = self.config.device
        names = (*WEIGHTS, "W_skip") if self.config.skip else WEIGHTS
        self.weights = {name: weights[name].to(device).requires_grad_() for name in names}
        self.W_enc, self.b_enc, self.W_dec, self.b_dec = (self.weights[name] for name in WEIGHTS)
        self.silent_steps = silent_steps.to(device)
        if self.config.dedicated:
            self.owned = dedicated(self.units.mean.shape[0], self.units.mean.shape[1], self.config).to(device)
            with torch.no_grad():
                self.W_enc.mul_(self.owned)
                self.W_dec.mul_(self.owned)
        self.units, self.target_units = self.units.to(device), self.target_units.to(device)
        self.optimizer = torch.optim.Adam(
            list(self.weights.values()), lr=self.config.lr, betas=BETAS, fused=True
        )
        proposal = torch.bfloat16 if device == "cpu" and native_bfloat16() else None
        self.select = TopK(proposal) if self.config.arch == TOPK else BatchTopK(proposal)

    def advance(self, x: Float[Tensor, "token model d"]) -> Report:
        """One step: select, encode, decode, AuxK, Adam."""
        config = self.config
        z, target = self._normalised(x)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr_at(self.step)
        norms = self.W_dec.detach().view(config.n_latents, x.shape[1], -1).norm(dim=2).sum(dim=1)
        n_entries = round(config.k_at(self.step) * z.shape[0])
        pattern, pre = self.select(z, self.W_enc, self.b_enc, norms, n_entries)
        latents = torch.relu(sparse_encode(z, self.W_enc, self.b_enc, pattern, pre))
        reconstructions = self._nested(latents, pattern, z)
        errors = [F.mse_loss(z_hat, target) for z_hat in reconstructions]
        z_hat, mse = reconstructions[-1], errors[-1]
        on = latents.detach() > 0
        fires = torch.zeros_like(self.b_enc.detach()).index_add_(0, pattern.latents, on.to(z.dtype))
        self.silent_steps = torch.where(fires > 0, 0, self.silent_steps + 1)
        loss = mse if len(errors) == 1 else torch.stack(errors).mean()
        if config.aux_coeff > 0:
            aux = auxk_loss(z, target, z_hat, self.W_enc, self.b_enc, self.W_dec, self.silent_steps, config)
            loss = loss if aux is None else loss + aux
        loss.backward()
        self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return Report(loss.detach(), mse.detach(), on.sum() / len(x))

    def _clip(self) -> None:
        """Scale the gradients down to the norm `grad_clip`; on a CPU, which need not wait to know, only where
        they are longer."""
        if self.config.dedicated:  # Adam leaves a zero that never has a gradient where it is
            for weight in (self.W_enc, self.W_dec):
                if weight.grad is not None:
                    weight.grad.mul_(self.owned)
        weights = list(self.weights.values())
        norm = torch.nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
        if norm.device.type != "cpu" or norm > self.config.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(weights, self.config.grad_clip, norm)

    def _normalised(self, x: Float[Tensor, "token model d"]) -> tuple[Tensor, Tensor]:
        """Input and target; a transcoder's activations hold both side by side (`saes.arrays.Paired`)."""
        if not self.is_transcoder:
            z = self.units.normalise(x)
            return z, z
        d = self.units.mean.shape[1]
        return self.units.normalise(x[:, :, :d]), self.target_units.normalise(x[:, :, d:])

    def _nested(
        self, latents: Float[Tensor, " entry"], pattern: Pattern, z: Float[Tensor, "token d"]
    ) -> list[Float[Tensor, "token d_out"]]:
        """Reconstructions from the first `level` latents, for each level: each entry is decoded once.

        Entries ascend within a token, so those of one level lie together: with a row for every token and level,
        one decode gives what each level adds, and nothing has to wait for the device to say how much that is.
        """
        levels = self.config.levels
        start = self.b_dec + z @ self.weights["W_skip"].T if self.config.skip else self.b_dec
        if len(levels) == 1:
            return [sparse_decode(latents, self.W_dec, pattern) + start]
        n = len(levels)
        level = torch.bucketize(pattern.latents, torch.tensor(levels, device=z.device), right=True)
        split = Pattern(pattern.rows * n + level, pattern.latents, pattern.n_tokens * n, pattern.n_latents)
        added = sparse_decode(latents, self.W_dec, split).view(pattern.n_tokens, n, -1)
        return list((added.cumsum(dim=1) + start.unsqueeze(-2)).unbind(dim=1))

    def dead_share(self) -> float:
        """Share of latents silent for as many steps as count as dead."""
        return float((self.silent_steps >= self.config.dead_after).float().mean())

    def tensors(self) -> dict[str, Tensor]:
        """All of the run's state but what `note` holds."""
        tensors = {name: weight.detach() for name, weight in self.weights.items()}
        tensors |= {"silent_steps": self.silent_steps, "mean": self.units.mean, "scales": self.units.scales}
        if self.is_transcoder:
            own = self.target_units
            tensors |= {"target_mean": own.mean, "target_scales": own.scales}
        return tensors | moments(self.optimizer, self.weights)

    def note(self) -> dict[str, Any]:
        return {"bound": self.select.bound.hex()}

    def restore(self, step: int, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
        """Go on from what `tensors` and `note` gave."""
        self.step = step
        self.units = Units(tensors["mean"], tensors["scales"])
        self.target_units = self.units
        if self.is_transcoder:
            self.target_units = Units(tensors["target_mean"], tensors["target_scales"])
        self._place(tensors, tensors["silent_steps"])
        restore_moments(self.optimizer, self.weights, tensors)
        self.select.bound = float.fromhex(note["bound"])

    @torch.no_grad()
    def dictionary(self, names: tuple[str, ...], site: str) -> Dictionary:
        """Fold μ and σ into the weights, and scale every latent so that Σ_m‖d_j^m‖ is N over the mean σ.

        The latter changes no reconstruction; for one model it makes every decoder row a unit vector in raw
        units, so that activations of different latents compare. Thresholds are zero until calibrated.
        """
        mean, sigma = self.units.mean.double(), self.units.scales.double()
        mean_out, sigma_out = self.target_units.mean.double(), self.target_units.scales.double()
        n, d = mean.shape
        W_enc = self.W_enc.detach().double().view(-1, n, d)
        W_dec = self.W_dec.detach().double().view(len(W_enc), n, -1)
        size = W_dec.norm(dim=2).sum(dim=1).clamp_min(1e-12) * sigma_out.mean() / n
        raw_enc = W_enc / sigma[:, None] * size[:, None, None]
        b_enc = self.b_enc.detach().double() * size - torch.einsum("fmd,md->f", raw_enc, mean)
        b_dec = self.b_dec.detach().double().view(n, -1) * sigma_out[:, None] + mean_out
        folded: dict[str, Any] = {
            "W_enc": raw_enc.permute(1, 2, 0).float().contiguous(),
            "b_enc": b_enc.float(),
            "W_dec": (W_dec * sigma_out[:, None] / size[:, None, None]).float().contiguous(),
            "threshold": torch.zeros(len(size), device=mean.device),
            "scales": self.target_units.scales,
            "names": names,
            "k": self.config.k,
            "site": site,
        }
        if not self.is_transcoder:
            activation = "topk" if self.config.arch == TOPK else "jumprelu"
            return Dictionary(**folded, b_dec=b_dec.float(), activation=activation)
        if not self.config.skip:
            return Transcoder(**folded, b_dec=b_dec.float())
        W_skip = self.weights["W_skip"].detach().double() * sigma_out / sigma
        return Transcoder(**folded, b_dec=(b_dec - mean @ W_skip.T).float(), W_skip=W_skip.float())

    @property
    def needs_thresholds(self) -> bool:
        return self.config.arch != TOPK or self.is_transcoder


def weights_of(start: Dictionary, units: Units) -> dict[str, Tensor]:
    """The weights in training of a finished dictionary, in the units of what it is to be trained on: what
    `SparseRun.dictionary` folded in is taken out again, and the latents' free scale is such that Σ_m‖d_j^m‖ is as
    long as N unit vectors of mean σ. Thresholds have no part in training and are calibrated anew."""
    mean, sigma = units.mean.double(), units.scales.double()
    size = sigma.mean()
    W_enc = start.W_enc.double().permute(2, 0, 1)
    weights = {
        "W_enc": (W_enc * sigma[:, None] / size).flatten(1),
        "b_enc": (start.b_enc.double() + torch.einsum("fmd,md->f", W_enc, mean)) / size,
        "W_dec": (start.W_dec.double() * size / sigma[:, None]).flatten(1),
        "b_dec": ((start.b_dec.double() - mean) / sigma[:, None]).flatten(),
    }
    return {name: weight.float().contiguous() for name, weight in weights.items()}


def dedicated(n_models: int, d: int, config: TrainConfig) -> Float[Tensor, "latent flat"]:
    """1 where a latent may read and write: the first `dedicated` of them the first model alone, the next the
    second's, the rest every model's [arXiv 2606.26474]."""
    owned = torch.ones(config.n_latents, n_models, d)
    n = round(config.dedicated * config.n_latents)
    for m in range(n_models):
        owned[m * n : (m + 1) * n] = 0
        owned[m * n : (m + 1) * n, m] = 1
    return owned.flatten(1)


def starting_weights(n_models: int, d: int, d_out: int | None, config: TrainConfig) -> dict[str, Tensor]:
    """Random decoders of length `decoder_norm`, the encoder their transpose, zero biases (z has mean zero, so
    b_dec is the mean).

    Every model starts from the same direction, so that a difference between them was learned. Unit length
    makes the first reconstructions overshoot, k_start directions at once, and the correction spreads the
    directions apart: starting shorter, or from data points, fits somewhat better in few steps and leaves a
    third to a half of the latents dead.

    A transcoder (`d_out`) starts from random unit decoders of its own. On a real MLP that ends at a lower FVU
    than the encoder's directions do (0.146 against 0.172, a fifth of those latents dead), or what a linear map
    makes of them (0.182).
    """
    rng = torch.Generator().manual_seed(config.seed)
    direction = torch.randn(config.n_latents, d, generator=rng)
    W_dec = config.decoder_norm * F.normalize(direction.repeat(1, n_models), dim=1)
    zeros = torch.zeros(config.n_latents)
    weights = {"W_enc": W_dec.clone(), "b_enc": zeros, "W_dec": W_dec, "b_dec": torch.zeros(n_models * d)}
    if d_out is not None:
        own = torch.randn(config.n_latents, d_out, generator=rng)
        weights |= {"W_dec": F.normalize(own, dim=1), "b_dec": torch.zeros(d_out)}
        weights |= {"W_skip": torch.zeros(d_out, d)}
    return weights
