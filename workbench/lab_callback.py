"""`LabCallback`: what a training run tells the lab. It works in any `transformers` or `trl` trainer.

It writes `metrics.parquet` (step, name, value), log-spaced snapshots from step 0 (each renamed in whole,
so a growing stage can be browsed), asks for resumable checkpoints by the clock, reports progress, and
stops the run before the optimizer takes a step along a gradient that is not finite.

    trainer = SFTTrainer(..., callbacks=[LabCallback(folder)])
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from workbench.disk import plain_disk_errors
from workbench.errors import Failure

COMPLETE = "complete"  # marker file: a resumable checkpoint without it was cut off while written
_METRICS = {"step": pl.Int64, "name": pl.String, "value": pl.Float64}


@runtime_checkable
class ProgressLike(Protocol):
    """The part of `workbench.progress.Progress` that a training run reports to."""

    def start(self, total: int, unit: str, initial: int = 0, label: str | None = None) -> None: ...
    def advance(self, n: int = 1, **figures: float) -> None: ...


def snapshot_steps(n_steps: int, base: float) -> list[int]:
    """Steps 0, 1, then powers of `base`, and the last: `base` 2 gives 0, 1, 2, 4, 8, …"""
    steps, at = {0, n_steps}, 1.0
    while at < n_steps:
        steps.add(math.ceil(at))
        at *= base
    return sorted(steps)


def latest_resume(folder: Path) -> Path | None:
    """The newest resumable checkpoint written to its end; cut-off ones are removed."""
    found = []
    for path in folder.glob("checkpoint-*"):
        if (path / COMPLETE).exists():
            found.append(path)
        else:
            shutil.rmtree(path)
    return max(found, key=lambda p: int(p.name.split("-")[1]), default=None)


class LabCallback(TrainerCallback):
    """Records a training run into `folder`.

    snapshots: steps at which the model is saved to `snapshots/step-000128/`.
    save_every_seconds: how much work a kill may cost.
    """

    def __init__(
        self,
        folder: Path,
        progress: ProgressLike | None = None,
        snapshots: Sequence[int] = (),
        save_every_seconds: float = 30.0,
    ) -> None:
        self.folder = Path(folder)
        self.progress = progress
        self.snapshots = frozenset(snapshots)
        self.save_every_seconds = save_every_seconds
        self._saved_at = time.monotonic()
        self._latest: dict[str, float] = {}
        self._rows = self._read_rows()

    @property
    def metrics_path(self) -> Path:
        return self.folder / "metrics.parquet"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Rows past the resumed step come from work that the kill took back.
        self._rows = [row for row in self._rows if row[0] <= state.global_step]
        self._saved_at = time.monotonic()
        if self.progress is not None:
            self.progress.start(state.max_steps, "steps", initial=state.global_step)
        self._snapshot(state.global_step, kwargs["model"])

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
        if not torch.isfinite(norms).all():
            kept = sorted(p.name for p in (self.folder / "snapshots").glob("step-*"))
            raise Failure(
                f"the loss or its gradient is not finite in batch {state.global_step + 1} "
                f"of {state.max_steps}: training stopped before the weights took that step; "
                f"the last good snapshot is {kept[-1] if kept else 'none'}; "
                "lower the learning rate or look for a damaged input"
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._snapshot(state.global_step, kwargs["model"])
        if self.progress is not None:
            self.progress.advance(1, **self._latest)
        if time.monotonic() - self._saved_at > self.save_every_seconds:
            control.should_save = True
            self._saved_at = time.monotonic()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        folder = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
        self._write_rows()
        if folder.is_dir():
            (folder / COMPLETE).touch()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        figures = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        self._rows += [(state.global_step, name, value) for name, value in figures.items()]
        shown = ("loss", "eval_loss", "reward", "kl")
        self._latest |= {name: figures[name] for name in shown if name in figures}
        self._write_rows()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._write_rows()

    def _snapshot(self, step: int, model: Any) -> None:
        final = self.folder / "snapshots" / f"step-{step:06d}"
        if step not in self.snapshots or final.exists():
            return
        with plain_disk_errors(self.folder):
            temporary = final.with_name(f".{final.name}")
            model.save_pretrained(temporary)
            temporary.rename(final)

    def _read_rows(self) -> list[tuple[int, str, float]]:
        if not self.metrics_path.exists():
            return []
        return [(step, name, value) for step, name, value in pl.read_parquet(self.metrics_path).iter_rows()]

    def _write_rows(self) -> None:
        with plain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / ".metrics.parquet.tmp"
            pl.DataFrame(self._rows, schema=_METRICS, orient="row").write_parquet(temporary)
            temporary.replace(self.metrics_path)
