"""Base training beside a bare PyTorch loop: same model, weights, batches, dtype, optimizer and schedule.

    python -m tests.benchmarks.training [--json] [--quick] [--whole-job]

Ours is the lab's own stage (`workbench.base.train`: `transformers.Trainer`, `LabCallback` with snapshots,
metrics and progress). Both are timed between the end of a warm-up step and the end of the last step.
Besides tokens per second: the share of the machine's matrix-multiplication rates in fp32 and bf16, measured
in the same run. Model FLOPs per token are 6·N for N parameters (tied embeddings once) and
12·n_layers·d_model·n_ctx for attention [Chowdhery 2022, appendix B]; the optimizer's own are not counted.

`--whole-job` grows a fresh `quick` lab in a folder of its own instead and reports its peak memory and time.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from tests.benchmarks import report
from workbench import base
from workbench.device import best_device
from workbench.lab_callback import LabCallback, snapshot_steps
from workbench.optimizer import MuonWithAdamW, trapezoid
from workbench.progress import Progress
from workbench.recipe import load_preset
from workbench.stage_config import BaseConfig, ModelConfig
from workbench.windows import MixedWindows

WARM_UP = 8  # steps before the clock starts: allocator, threads and caches settle


class StepClock(LabCallback):
    """The lab's callback that also notes when each step ended, its own work included."""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_begin(*args, **kwargs)
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_step_end(*args, **kwargs)
        report.synchronise()
        self.ends.append(time.perf_counter())


@dataclasses.dataclass(frozen=True)
class Task:
    """What both train: a fresh model and fixed batches of random ids (speed does not depend on the text)."""

    shape: ModelConfig
    config: BaseConfig
    model: PreTrainedModel
    data: MixedWindows

    @classmethod
    def of(cls, shape: ModelConfig, config: BaseConfig, vocab_size: int) -> Task:
        rng = np.random.default_rng(0)
        prose, world = (rng.integers(5, vocab_size, 200_000, dtype=np.int32) for _ in range(2))
        n_windows = config.steps * config.batch_size
        data = MixedWindows(prose, world, n_windows, shape.n_ctx, config.prose_share, 1, config.seed)
        return cls(shape, config, base.new_model(shape, vocab_size, config.seed), data)

    @property
    def tokens_per_step(self) -> int:
        return self.config.batch_size * self.shape.n_ctx

    def rate(self, ends: list[float]) -> float:
        """Tokens per second between the ends of step WARM_UP and of the last step."""
        return (len(ends) - WARM_UP) * self.tokens_per_step / (ends[-1] - ends[WARM_UP - 1])


def ours(task: Task) -> Mapping[str, float]:
    """The lab's stage, reporting and recording as in a lab."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        steps = snapshot_steps(task.config.steps, task.config.snapshot_base)
        clock = StepClock(Path(folder), Progress(Path(folder) / "job", "benchmark", quiet=True), steps)
        base.train(Path(folder), copy.deepcopy(task.model), task.data, task.config, clock)
    rate = task.rate(clock.ends)
    work = task.config.steps * task.tokens_per_step / rate
    return {"tokens_per_s": rate, "set_up_s": max(0.0, time.perf_counter() - began - work)}


def bare_loop(task: Task) -> Mapping[str, float]:
    """The same training in a dozen lines of PyTorch."""
    began = time.perf_counter()
    rate = task.rate(train_bare(copy.deepcopy(task.model).to(best_device()), task))
    work = task.config.steps * task.tokens_per_step / rate
    return {"tokens_per_s": rate, "set_up_s": max(0.0, time.perf_counter() - began - work)}


def train_bare(model: PreTrainedModel, task: Task) -> list[float]:
    """Train `model` in place with PyTorch alone; when each step ended, in seconds."""
    config, device = task.config, model.device.type
    optimizer = MuonWithAdamW(model.train(), config.muon_lr, config.lr)
    schedule = trapezoid(optimizer, config.steps, warmup=0.02, decay=0.5)
    size = config.batch_size // config.gradient_accumulation
    at, ends = 0, []
    for _ in range(config.steps):
        for _ in range(config.gradient_accumulation):
            windows = [task.data[i] for i in range(at, at + size)]
            batch = {key: torch.stack([w[key] for w in windows]).to(device) for key in windows[0]}
            with torch.autocast(device, dtype=torch.bfloat16, enabled=config.bf16):
                loss = model(**batch).loss / config.gradient_accumulation
            loss.backward()
            at += size
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        report.synchronise()
        ends.append(time.perf_counter())
    return ends


def matmul_rate(dtype: torch.dtype, seconds: float) -> float:
    """FLOP/s of square matrix products: for several sizes the median over `seconds`, then the best size."""
    device = best_device()
    best = 0.0
    for n in (512, 1024, 2048) if device == "cpu" else (4096, 8192):
        a, b = (torch.randn(n, n, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
        times: list[float] = []
        for i in itertools.count():
            began = time.perf_counter()
            a @ b
            report.synchronise()
            if i >= 2:
                times.append(time.perf_counter() - began)
            if len(times) >= 3 and sum(times) > seconds:
                break
        best = max(best, 2 * n**3 / statistics.median(times))
    return best


def flops_per_token(task: Task) -> float:
    """Model FLOPs of one training token; see the module docstring."""
    n_parameters = sum(p.numel() for p in task.model.parameters())
    return 6 * n_parameters + 12 * task.shape.n_layers * task.shape.d_model * task.shape.n_ctx


def compare(quick: bool) -> report.Row:
    """Train both in turn and lay them beside the machine's rates."""
    recipe = load_preset("quick")
    config = dataclasses.replace(recipe.base, steps=WARM_UP + (16 if quick else 96))
    task = Task.of(recipe.model, config, recipe.tokenizer.vocab_size)
    rates = {name: matmul_rate(getattr(torch, name), 0.2 if quick else 1.0) for name in ("float32", "bfloat16")}
    ours(task)  # the first trainer of a process imports and compiles what the later ones find ready
    peak = report.peak_memory()
    medians = report.in_turn(
        {"ours": lambda: ours(task), "bare_loop": lambda: bare_loop(task)}, 3 if quick else 5
    )
    used = {name: found["tokens_per_s"] * flops_per_token(task) for name, found in medians.items()}
    for name, found in medians.items():
        found |= {f"share_of_{dtype}_matmul": used[name] / rate for dtype, rate in rates.items()}
    medians["ours"]["peak_memory_gib"] = peak
    if torch.cuda.is_available():
        medians["ours"]["peak_device_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    settings = {
        **dataclasses.asdict(recipe.model),
        "batch_size": config.batch_size,
        "gradient_accumulation": config.gradient_accumulation,
        "bf16": config.bf16,
        "steps": config.steps,
        "flops_per_token": flops_per_token(task),
        **{f"{dtype}_gflop_per_s": rate / 1e9 for dtype, rate in rates.items()},
    }
    return report.Row.of(settings, medians["ours"], {"bare_loop": medians["bare_loop"]}, "tokens_per_s")


def whole_job() -> report.Row:
    """Grow a fresh quick lab in a process of its own; its peak resident memory and time."""
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench", "grow", "demo", "--preset", "quick"],
            env={**os.environ, "MARBLE_HOME": home},
            stdout=sys.stderr,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"growing the lab ended with exit code {process.returncode}: see above")
    found = {"seconds": time.perf_counter() - began, "peak_memory_gib": report.peak_memory(usage)}
    return report.Row.of({"job": "grow --preset quick"}, found, {}, "seconds")


def main() -> None:
    switches = report.parse(
        "Base training beside a bare PyTorch loop.",
        whole_job="grow a fresh quick lab and report its peak memory and time instead (minutes)",
    )
    row = whole_job() if switches.whole_job else compare(switches.quick)
    report.write("training", [row], switches.json)


if __name__ == "__main__":
    main()
