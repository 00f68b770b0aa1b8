"""Training speed and quality of crosscoders beside a straightforward dense one and modeldiffr's.

    python -m tests.benchmarks.crosscoder [--json] [--quick]

Three models and two, (d 128, F 4,096, k 32), BatchTopK, on the same activations in the same run: superposed sparse
features whose directions differ a little from model to model, a tenth of them in one model alone. The dense
crosscoder is the definition written down in PyTorch (dense decode, `topk` of the whole batch, Adam), without AuxK,
which spares it work; modeldiffr's has two models and is trained by its own `train`, without AuxK as well. Each at
each rate of `RATES`; the one that served it best counts, ours as well; ours has AuxK on.
Tokens per second are counted between the end of a warm-up and the last step. FVU is the mean over the models, by
the inference dictionary on tokens none of them saw.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

import saes
from tests.benchmarks import report
from tests.benchmarks.sae_training import ACTIVE, N_HELDOUT, Clock
from workbench.device import best_device, keep_freed_memory

RATES = (2e-3, 5e-3, 1e-2)
PEERS = ("modeldiffr",)
TURNED = 0.3  # how far a model's directions lie from the common ones, in lengths
EXCLUSIVE = 0.1  # share of the features that only one model has

Figures = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What all of them train."""

    n_models: int
    d: int
    n_latents: int
    k: int
    n_steps: int
    batch_size: int = 2_048

    @property
    def n_tokens(self) -> int:
        return self.n_steps * self.batch_size


def superposed(n_tokens: int, n_models: int, d: int, n_features: int, seed: int = 0) -> Tensor:
    """`[token, model, d]`: the same features on at the same tokens, in directions of each model's own."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, n_features + 1) ** 0.8
    chosen = torch.from_numpy(rng.choice(n_features, (n_tokens, ACTIVE), p=share / share.sum()))
    strengths = torch.from_numpy(rng.exponential(1.0, (n_tokens, ACTIVE)).astype(np.float32))
    common = rng.standard_normal((n_features, d), dtype=np.float32)
    owner = np.where(rng.random(n_features) < EXCLUSIVE, rng.integers(n_models, size=n_features), -1)
    made = []
    for m in range(n_models):
        own = common + TURNED * rng.standard_normal((n_features, d), dtype=np.float32)
        directions = nn.functional.normalize(torch.from_numpy(own), dim=1)
        directions[torch.from_numpy((owner >= 0) & (owner != m))] = 0
        x = nn.functional.embedding_bag(chosen, directions, per_sample_weights=strengths, mode="sum")
        made.append(x + 0.03 * torch.from_numpy(rng.standard_normal((n_tokens, d), dtype=np.float32)))
    return torch.stack(made, dim=1)


def fvu(heldout: Tensor, reconstruct: Callable[[Tensor], Tensor]) -> float:
    """Mean over the models of the fraction of variance unexplained."""
    residual = torch.zeros(heldout.shape[1], dtype=torch.double)
    with torch.no_grad():
        for x in heldout.split(2_048):
            residual += (x - reconstruct(x)).double().square().sum(dim=(0, 2)).cpu()
    total = (heldout.double() - heldout.double().mean(dim=0)).square().sum(dim=(0, 2)).cpu()
    return float((residual / total).mean())


def ours(problem: Problem, train: Tensor, heldout: Tensor, lr: float) -> Figures:
    """`saes.fit`, reporting after every step so that the clock sees them."""
    config = saes.TrainConfig(
        n_latents=problem.n_latents, k=problem.k, n_steps=problem.n_steps, batch_size=problem.batch_size, lr=lr,
        decoder_norm=0.1, k_start=problem.k, decay_share=0.5, log_every=1, device=best_device(),
    )  # fmt: skip
    clock = Clock(problem.batch_size)
    dictionary = saes.fit(saes.TensorActivations(train), config, on_step=lambda step: clock.tick(step.step))
    return {"tokens_per_s": clock.rate(), "fvu": fvu(heldout, dictionary.reconstruct)}


class DenseCrosscoder(nn.Module):
    """N-way BatchTopK crosscoder as its definition reads [Lindsey 2024; Minder 2025], dense throughout."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        torch.manual_seed(0)
        n, d, f = problem.n_models, problem.d, problem.n_latents
        start = nn.functional.normalize(torch.randn(f, d), dim=1)[:, None].repeat(1, n, 1) * 0.1
        self.W_dec = nn.Parameter(start)
        self.W_enc = nn.Parameter(start.permute(1, 2, 0).clone())
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(f)), nn.Parameter(torch.zeros(n, d))
        self.k, self.threshold = problem.k, 0.0

    def forward(self, z: Tensor) -> Tensor:
        f = torch.relu(torch.einsum("tmd,mdf->tf", z, self.W_enc) + self.b_enc)
        norms = self.W_dec.detach().norm(dim=2).sum(dim=1)
        if self.training:
            scores = (f * norms).flatten()
            kept = scores.topk(self.k * len(z)).indices
            f = torch.zeros_like(scores).scatter(0, kept, 1.0).view_as(f) * f
        else:
            f = f * (f * norms > self.threshold)
        return torch.einsum("tf,fmd->tmd", f, self.W_dec) + self.b_dec

    def calibrate(self, z: Tensor) -> None:
        """One threshold such that L0 = k, on training activations."""
        f = torch.relu(torch.einsum("tmd,mdf->tf", z, self.W_enc) + self.b_enc)
        scores = (f * self.W_dec.norm(dim=2).sum(dim=1)).flatten()
        self.threshold = float(scores.topk(self.k * len(z)).values[-1])


def dense(problem: Problem, train: Tensor, heldout: Tensor, lr: float) -> Figures:
    """The dense crosscoder, its rate falling over the second half, as ours does."""
    mean = train.mean(dim=0)
    scale = (train - mean).square().mean(dim=(0, 2)).sqrt()[:, None]
    coder, clock = DenseCrosscoder(problem).to(best_device()), Clock(problem.batch_size)
    optimizer = torch.optim.Adam(coder.parameters(), lr=lr, betas=(0.9, 0.99), fused=True)
    for step, x in enumerate(train.split(problem.batch_size), 1):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, 2 * (1 - (step - 1) / problem.n_steps))
        z = (x - mean) / scale
        (coder(z) - z).square().mean().backward()
        nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick(step)
    coder.eval()
    with torch.no_grad():
        coder.calibrate((train[:8_192] - mean) / scale)
    return {
        "tokens_per_s": clock.rate(),
        "fvu": fvu(heldout, lambda x: coder((x - mean) / scale) * scale + mean),
    }


def modeldiffr(problem: Problem, train: Tensor, heldout: Tensor, lr: float) -> Figures:
    """modeldiffr's `train`; it reports ten times a run."""
    from modeldiffr.interp.crosscoder import CrosscoderConfig
    from modeldiffr.interp.crosscoder import train as their_train

    config = CrosscoderConfig(
        dict_size=problem.n_latents, k=problem.k, steps=problem.n_steps, batch_size=problem.batch_size, lr=lr,
        holdout=0.01,
    )  # fmt: skip
    clock = Clock(problem.batch_size)
    model, _ = their_train(
        train[:, 0], train[:, 1], config, lambda said: clock.tick(int(said.split()[1].split("/")[0]))
    )

    def reconstruct(x: Tensor) -> Tensor:
        latents = model.encode(x[:, 0] * model.scale[0], x[:, 1] * model.scale[1])
        return torch.stack(model.decode(latents), dim=1) / model.scale[:, None]

    return {"tokens_per_s": clock.rate(), "fvu": fvu(heldout, reconstruct)}


def compare(problem: Problem) -> report.Row:
    """All in turn at each rate: speed is the median of these runs, quality that of the best rate."""
    x = superposed(problem.n_tokens + N_HELDOUT, problem.n_models, problem.d, 2 * problem.n_latents)
    train, heldout = x[:-N_HELDOUT].to(best_device()), x[-N_HELDOUT:].to(best_device())
    everyone = {"saes": ours, "dense": dense}
    if problem.n_models == 2 and importlib.util.find_spec("modeldiffr"):
        everyone["modeldiffr"] = modeldiffr
    found: dict[str, dict[float, Figures]] = {name: {} for name in everyone}
    for lr in RATES:
        for name, run in everyone.items():
            found[name][lr] = run(problem, train, heldout, lr)
            report.say(f"{problem.n_models} models, lr {lr:g}: {name} {dict(found[name][lr])}")
    best = {name: min(runs, key=lambda lr: runs[lr]["fvu"]) for name, runs in found.items()}
    speed = {name: float(np.median([r["tokens_per_s"] for r in runs.values()])) for name, runs in found.items()}
    figures = {name: {"tokens_per_s": speed[name], "fvu": found[name][best[name]]["fvu"]} for name in everyone}
    mine = figures.pop("saes")
    for theirs in figures.values():
        theirs["fvu_ratio"] = mine["fvu"] / theirs["fvu"]
    config = {**dataclasses.asdict(problem), **{f"lr_{name}": lr for name, lr in best.items()}}
    return report.Row.of(config, mine, figures, "tokens_per_s")


def problems(quick: bool) -> list[Problem]:
    """Three models, and the two that modeldiffr takes."""
    return [Problem(n, 128, 4_096, 32, 20 if quick else 150) for n in (3, 2)]


def main() -> None:
    switches = report.parse("Training of crosscoders beside a dense one and modeldiffr's.")
    keep_freed_memory()  # for all of them
    rows = [compare(problem) for problem in problems(switches.quick)]
    report.write("crosscoder", rows, switches.json, report.missing(*PEERS))


if __name__ == "__main__":
    sys.exit(main())
