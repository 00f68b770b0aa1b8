"""Architectures that SAELens trains best itself, through its own trainer, handed back as our `Dictionary`.

`standard` and `gated` pay an L1 price, `jumprelu` an L0 price; k is what a person asks for here too: the price
rises from nothing, then follows L0 towards k, a little after every step. `abstopk` keeps the k latents farthest
from zero, with their signs; `matching_pursuit` selects at most k, one after the other. Training sees the
normalised z = (x − μ)/σ, our learning rate and our order of batches; what comes out is folded back into raw
units. A gated SAE is a JumpReLU SAE [Rajamanoharan 2024, appendix]: its gate W x + b_gate > 0 is the magnitude
e^r W x + b_mag passing b_mag − e^r b_gate.

SAELens' own checkpoints do not keep the place in the data; the state here does, and resumes bit for bit.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saes.calibrate import Units
from saes.config import ABSTOPK, GATED, JUMPRELU, MATCHING_PURSUIT, STANDARD, TrainConfig
from saes.dictionary import Dictionary
from saes.errors import DictionaryError
from saes.price import ramp, steered, steers
from saes.run import Report, moments, restore_moments

PRICE: Mapping[str, tuple[str, float]] = {STANDARD: ("l1", 2.0), GATED: ("l1", 2.0), JUMPRELU: ("l0", 1.0)}
_COUNTERS = ("act_freq_scores", "n_forward_passes_since_fired")


class SaeLensRun:
    """A `sae_lens` trainer, driven by the `step` that its own `fit` calls."""

    needs_thresholds = False

    def __init__(self, units: Units, config: TrainConfig) -> None:
        if units.mean.shape[0] > 1:
            raise DictionaryError(
                f"{config.arch} is trained by SAELens, which reads one model; found {units.mean.shape[0]}: "
                "a crosscoder is batchtopk or topk"
            )
        self.config, self.step = config, 0
        self.units = Units(units.mean.to(config.device), units.scales.to(config.device))
        self.trainer = _trainer(config, units.mean.shape[1])
        self.price = PRICE[config.arch][1] if config.arch in PRICE else 0.0

    def advance(self, x: Float[Tensor, "token model d"]) -> Report:
        """One step of SAELens' trainer at our learning rate and the present price."""
        trainer = self.trainer
        for group in trainer.optimizer.param_groups:
            group["lr"] = self.config.lr_at(self.step)
        if self.config.arch in PRICE:
            schedule = trainer.coefficient_schedulers[PRICE[self.config.arch][0]]
            due = self.price * ramp(self.step, self.config.n_steps)
            schedule.final_value = schedule.current_value = due
        out = trainer.step(self.units.normalise(x))
        trainer.n_training_steps += 1
        self.step += 1
        l0 = out.feature_acts.bool().sum() / len(x)
        if self.config.arch in PRICE and steers(self.step, self.config.n_steps):
            self.price = steered(self.price, float(l0), self.config.k, self.config.n_steps)
        mse = (out.sae_in - out.sae_out).detach().square().mean()
        return Report(out.loss.detach(), mse, l0)

    def dead_share(self) -> float:
        """Share of latents silent for as many steps as count as dead."""
        return float((self.trainer.n_forward_passes_since_fired >= self.config.dead_after).float().mean())

    def tensors(self) -> dict[str, Tensor]:
        """Weights, Adam's moments and SAELens' counters."""
        sae, trainer = self.trainer.sae, self.trainer
        tensors = {f"weights.{name}": p.detach() for name, p in sae.named_parameters()}
        tensors |= moments(trainer.optimizer, dict(sae.named_parameters()))
        tensors |= {name: getattr(trainer, name) for name in _COUNTERS}
        return tensors | {"mean": self.units.mean, "scales": self.units.scales}

    def note(self) -> dict[str, Any]:
        return {"price": self.price.hex(), "frac_active": self.trainer.n_frac_active_samples}

    @torch.no_grad()
    def restore(self, step: int, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
        """Go on from what `tensors` and `note` gave."""
        sae, trainer = self.trainer.sae, self.trainer
        self.step, self.price = step, float.fromhex(note["price"])
        self.units = Units(tensors["mean"], tensors["scales"])
        trainer.n_training_steps, trainer.n_frac_active_samples = step, note["frac_active"]
        trainer.n_training_samples = step * self.config.batch_size
        for name, p in sae.named_parameters():
            p.copy_(tensors[f"weights.{name}"])
        restore_moments(trainer.optimizer, dict(sae.named_parameters()), tensors)
        for name in _COUNTERS:
            setattr(trainer, name, tensors[name])

    @torch.no_grad()
    def dictionary(self, names: tuple[str, ...], site: str) -> Dictionary:
        """Fold the gate, the input bias, μ and σ into the weights; decoder rows become unit vectors (those of
        matching pursuit, whose choices depend on their lengths, stay as they are)."""
        sae = self.trainer.sae
        W_dec = sae.W_dec.double()
        encoder = self._encoder()
        mean, sigma = self.units.mean[0].double(), self.units.scales[0].double()
        b_dec = sae.b_dec.double()
        # In z: pre = W_enc (z − b_dec) + b_enc. A latent n times as large needs a decoder n times as short.
        tied = self.config.arch == MATCHING_PURSUIT  # its latents are in units of σ only
        size = (torch.ones_like(W_dec[:, 0]) if tied else W_dec.norm(dim=1).clamp_min(1e-12)) * sigma
        W_enc = encoder["W_enc"] * size / sigma
        b_enc = (encoder["b_enc"] - b_dec @ encoder["W_enc"]) * size - mean @ W_enc
        return Dictionary(
            W_enc=W_enc.float()[None].contiguous(),
            b_enc=b_enc.float(),
            W_dec=(W_dec * sigma / size[:, None]).float()[:, None].contiguous(),
            b_dec=(b_dec * sigma + mean).float()[None],
            threshold=(encoder["threshold"] * size).clamp_min(0).float(),
            scales=self.units.scales,
            names=names,
            k=self.config.k,
            site=site,
            activation=self.config.arch if self.config.arch in (ABSTOPK, MATCHING_PURSUIT) else "jumprelu",
        )

    def _encoder(self) -> dict[str, Tensor]:
        """W_enc [d, latent], b_enc and threshold such that f = pre where pre > threshold, else 0."""
        sae = self.trainer.sae
        W_enc = sae.W_enc.double()
        none = torch.zeros(W_enc.shape[1], dtype=torch.double, device=W_enc.device)
        if self.config.arch == GATED:
            grown = sae.r_mag.double().exp()
            passes = sae.b_mag.double() - grown * sae.b_gate.double()
            return {"W_enc": W_enc * grown, "b_enc": sae.b_mag.double(), "threshold": passes}
        if self.config.arch == MATCHING_PURSUIT:
            return {"W_enc": W_enc, "b_enc": none, "threshold": none}
        threshold = sae.threshold.double() if self.config.arch == JUMPRELU else none
        return {"W_enc": W_enc, "b_enc": sae.b_enc.double(), "threshold": threshold}


def _trainer(config: TrainConfig, d: int) -> Any:
    """SAELens' trainer of the architecture, its logging and its own schedules off."""
    if importlib.util.find_spec("sae_lens") is None:
        raise DictionaryError(f"{config.arch} is trained by SAELens: pip install sae-lens, or choose another")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.registry import get_sae_training_class
        from sae_lens.training.sae_trainer import SAETrainer

        made, configured = get_sae_training_class(config.arch)
        by_arch: dict[str, dict[str, Any]] = {
            JUMPRELU: {"jumprelu_sparsity_loss_mode": "tanh", "pre_act_loss_coefficient": 3e-6},
            ABSTOPK: {"k": config.k},
            MATCHING_PURSUIT: {
                "max_iterations": config.k,
                "residual_threshold": 0.0,
                "decoder_init_norm": 1.0,
            },
        }
        own = by_arch.get(config.arch, {})
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            sae = made(configured(d_in=d, d_sae=config.n_latents, device=config.device, **own))
        settings = SAETrainerConfig(
            total_training_samples=config.n_steps * config.batch_size,
            train_batch_size_samples=config.batch_size,
            lr=config.lr,
            lr_end=config.lr,
            device=config.device,
            dead_feature_window=config.dead_after,
            feature_sampling_window=config.n_steps + 1,
            logger=LoggingConfig(log_to_wandb=False),
        )
        return SAETrainer(settings, sae, iter(()))
