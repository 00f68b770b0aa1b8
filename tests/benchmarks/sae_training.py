"""Training speed and quality of sparse dictionaries beside SAELens, dictionary-learning and sparsify.

    python -m tests.benchmarks.sae_training [--json] [--quick]

All train on the same tokens in the same run: superposed sparse features with Zipf frequencies and noise, so
that nobody's cache of a model matters. Each trains through its own trainer's step (sparsify through the body
of its loop), AuxK on and decoders starting short (SAELens' default, asked for in ours), at each learning rate
of `RATES`; the one that served it best counts, ours as well. All keep k from the first step. Our rate falls over
the second half, which is what so short a run wants; theirs over the last third.
Tokens per second are counted between the end of a warm-up and the last step. FVU and L0 are of the
dictionaries as they were trained (exact top-k of a token or batch; ours as the inference dictionary), on
tokens none of them saw.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

import saes
from saes.config import BATCHTOPK, TOPK
from tests.benchmarks import report
from workbench.device import best_device, keep_freed_memory

RATES = (2e-3, 3e-3, 5e-3, 1e-2)
WARM_UP = 5  # steps before the clock starts
N_HELDOUT = 16_384
ACTIVE = 12  # planted features a token
PEERS = ("sae_lens", "dictionary_learning", "sparsify")


@dataclasses.dataclass(frozen=True)
class Problem:
    """What all of them train."""

    arch: str
    d: int
    n_latents: int
    k: int
    n_steps: int
    batch_size: int = 2_048

    @property
    def n_tokens(self) -> int:
        return self.n_steps * self.batch_size


@dataclasses.dataclass(frozen=True)
class Data:
    """Training and held-out activations `[token, d]`."""

    train: Tensor
    heldout: Tensor

    @classmethod
    def of(cls, problem: Problem) -> Data:
        x = superposed(problem.n_tokens + N_HELDOUT, problem.d, 2 * problem.n_latents).to(best_device())
        return cls(x[:-N_HELDOUT], x[-N_HELDOUT:])

    def batches(self, problem: Problem) -> Iterator[Tensor]:
        return iter(self.train.split(problem.batch_size))


def superposed(n_tokens: int, d: int, n_features: int, seed: int = 0) -> Tensor:
    """Sums of `ACTIVE` unit directions a token, frequent ones often (Zipf), exponential strengths, noise."""
    rng = np.random.default_rng(seed)
    directions = torch.nn.functional.normalize(
        torch.from_numpy(rng.standard_normal((n_features, d), dtype=np.float32)), dim=1
    )
    share = 1 / np.arange(1, n_features + 1) ** 0.8
    chosen = rng.choice(n_features, (n_tokens, ACTIVE), p=share / share.sum())
    strengths = torch.from_numpy(rng.exponential(1.0, (n_tokens, ACTIVE)).astype(np.float32))
    x = torch.nn.functional.embedding_bag(
        torch.from_numpy(chosen), directions, per_sample_weights=strengths, mode="sum"
    )
    return x + 0.03 * torch.from_numpy(rng.standard_normal((n_tokens, d), dtype=np.float32))


class Clock:
    """Tokens per second from the end of step `WARM_UP` (or of the first told after it) to the last."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.ends: list[tuple[int, float]] = []

    def tick(self, step: int | None = None) -> None:
        """The end of a step: of the next, if it is not told which."""
        report.synchronise()
        self.ends.append((len(self.ends) + 1 if step is None else step, time.perf_counter()))

    def rate(self) -> float:
        (first, began), (last, ended) = next(e for e in self.ends if e[0] >= WARM_UP), self.ends[-1]
        return (last - first) * self.batch_size / (ended - began)


def quality(heldout: Tensor, reconstruct: Callable[[Tensor], tuple[Tensor, Tensor]]) -> dict[str, float]:
    """FVU and L0 of `reconstruct`, which gives x̂ and how many latents are on, a batch at a time."""
    residual, on, mean = 0.0, 0, heldout.double().mean(dim=0)
    with torch.no_grad():
        for x in heldout.split(2_048):
            x_hat, active = reconstruct(x)
            residual += float((x - x_hat).double().square().sum())
            on += int(active.sum())
    total = float((heldout.double() - mean).square().sum())
    return {"fvu": residual / total, "l0": on / len(heldout)}


def ours(problem: Problem, data: Data, lr: float) -> dict[str, float]:
    """`saes.train`, reporting after every step so that the clock sees them."""
    config = saes.TrainConfig(
        arch=problem.arch, n_latents=problem.n_latents, k=problem.k, n_steps=problem.n_steps,
        batch_size=problem.batch_size, lr=lr, decoder_norm=0.1, k_start=problem.k, decay_share=0.5,
        log_every=1, device=best_device(),
    )  # fmt: skip
    clock = Clock(problem.batch_size)
    activations = saes.TensorActivations(data.train[:, None])
    dictionary = saes.fit(activations, config, on_step=lambda _: clock.tick())

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        latents = dictionary.encode(x[:, None])
        return dictionary.decode(latents)[:, 0], latents > 0

    return {"tokens_per_s": clock.rate(), **quality(data.heldout, reconstruct)}


def sae_lens(problem: Problem, data: Data, lr: float) -> dict[str, float]:
    """SAELens' `SAETrainer`, driven by the `step` that its own `fit` calls."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    made, configured = {
        TOPK: (TopKTrainingSAE, TopKTrainingSAEConfig),
        BATCHTOPK: (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    }[problem.arch]
    torch.manual_seed(0)
    sae = made(configured(d_in=problem.d, d_sae=problem.n_latents, k=problem.k, device=best_device()))
    settings = SAETrainerConfig(
        total_training_samples=problem.n_tokens, train_batch_size_samples=problem.batch_size, lr=lr,
        lr_end=lr / 10, lr_warm_up_steps=problem.n_steps // 50, lr_decay_steps=problem.n_steps // 3,
        dead_feature_window=problem.n_steps // 10, logger=LoggingConfig(log_to_wandb=False),
        device=best_device(),
    )  # fmt: skip
    trainer, clock = SAETrainer(settings, sae, data.batches(problem)), Clock(problem.batch_size)
    for batch in data.batches(problem):
        trainer.step(batch)
        trainer.n_training_steps += 1
        clock.tick()

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        latents, _ = sae.encode_with_hidden_pre(x)
        latents = latents.to_dense() if latents.is_sparse else latents
        return sae.decode(latents), latents > 0

    return {"tokens_per_s": clock.rate(), **quality(data.heldout, reconstruct)}


def dictionary_learning(problem: Problem, data: Data, lr: float) -> dict[str, float]:
    """dictionary-learning's trainers, driven by the `update` that its own `trainSAE` calls.

    Its package imports nnsight for reading models, which training on arrays never touches: an empty module
    stands in where nnsight (with a torch of its own) is not installed.
    """
    if "nnsight" not in sys.modules and importlib.util.find_spec("nnsight") is None:
        sys.modules["nnsight"] = types.SimpleNamespace(LanguageModel=object)  # type: ignore[assignment]
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE, BatchTopKTrainer
    from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer

    trainer_class, dictionary_class = {
        TOPK: (TopKTrainer, AutoEncoderTopK),
        BATCHTOPK: (BatchTopKTrainer, BatchTopKSAE),
    }[problem.arch]
    trainer = trainer_class(
        steps=problem.n_steps, activation_dim=problem.d, dict_size=problem.n_latents, k=problem.k, layer=0,
        lm_name="planted", dict_class=dictionary_class, lr=lr, warmup_steps=problem.n_steps // 50,
        decay_start=2 * problem.n_steps // 3, seed=0, device=best_device(),
    )  # fmt: skip
    trainer.dead_feature_threshold = problem.n_tokens // 10
    clock = Clock(problem.batch_size)
    for step, batch in enumerate(data.batches(problem)):
        trainer.update(step, batch)
        clock.tick()

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        latents = trainer.ae.encode(x, use_threshold=False)
        return trainer.ae.decode(latents), latents > 0

    return {"tokens_per_s": clock.rate(), **quality(data.heldout, reconstruct)}


def sparsify(problem: Problem, data: Data, lr: float) -> dict[str, float]:
    """sparsify's `SparseCoder` in the steps of its trainer's loop (which itself wants a language model)."""
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(0)
    coder = SparseCoder(
        problem.d, SparseCoderConfig(num_latents=problem.n_latents, k=problem.k), device=best_device()
    )
    coder.b_dec.data = data.train[: problem.batch_size].mean(dim=0)
    optimizer = torch.optim.Adam(coder.parameters(), lr=lr)
    silent = torch.zeros(problem.n_latents, dtype=torch.long, device=best_device())
    clock = Clock(problem.batch_size)
    for step, x in enumerate(data.batches(problem)):
        left = (problem.n_steps - step) / (problem.n_steps / 3)
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / (problem.n_steps / 50), left)
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x, dead_mask=silent > problem.n_tokens // 10)
        (out.fvu + out.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        silent += len(x)
        silent[out.latent_indices.flatten().unique()] = 0
        clock.tick()

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        out = coder(x)
        return out.sae_out, out.latent_acts > 0

    return {"tokens_per_s": clock.rate(), **quality(data.heldout, reconstruct)}


Contender = Callable[[Problem, Data, float], Mapping[str, float]]


def contenders(arch: str) -> dict[str, Contender]:
    """Ours and the peers that are installed and have the architecture."""
    known: dict[str, Contender] = {
        "saes": ours,
        "sae_lens": sae_lens,
        "dictionary_learning": dictionary_learning,
    }
    if arch == TOPK:
        known["sparsify"] = sparsify
    return {name: run for name, run in known.items() if importlib.util.find_spec(name)}


def compare(problem: Problem) -> report.Row:
    """All in turn at each learning rate: speed is the median of these runs, quality that of the best rate."""
    data = Data.of(problem)
    everyone = contenders(problem.arch)
    found: dict[str, dict[float, Mapping[str, float]]] = {name: {} for name in everyone}
    for lr in RATES:
        for name, run in everyone.items():
            found[name][lr] = run(problem, data, lr)
            report.say(f"{problem.arch} {problem.d}, lr {lr:g}: {name} {dict(found[name][lr])}")
    rates = {name: min(runs, key=lambda lr: runs[lr]["fvu"]) for name, runs in found.items()}
    medians = {
        name: {
            **runs[rates[name]],
            "tokens_per_s": float(np.median([run["tokens_per_s"] for run in runs.values()])),
        }
        for name, runs in found.items()
    }
    mine = medians.pop("saes")
    for figures in medians.values():
        figures["fvu_ratio"] = mine["fvu"] / figures["fvu"]
    config = {**dataclasses.asdict(problem), **{f"lr_{name}": lr for name, lr in rates.items()}}
    return report.Row.of(config, mine, medians, "tokens_per_s")


def problems(quick: bool) -> list[Problem]:
    """The sizes that are compared: a demo lab's, a small real model's, and on a GPU a large one."""
    sizes = [(128, 2_048, 16, 40 if quick else 300)]
    if not quick:
        sizes.append((576, 9_216, 32, 32))
    if torch.cuda.is_available():
        sizes.append((2_304, 36_864, 64, 40 if quick else 400))
    return [Problem(arch, *size) for size, arch in itertools.product(sizes, (TOPK, BATCHTOPK))]


def main() -> None:
    switches = report.parse("Training of sparse dictionaries beside SAELens, dictionary-learning and sparsify.")
    keep_freed_memory()  # for all of them
    rows = [compare(problem) for problem in problems(switches.quick)]
    report.write("sae_training", rows, switches.json, report.missing(*PEERS))


if __name__ == "__main__":
    sys.exit(main())
