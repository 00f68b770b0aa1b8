"""What grpo adds beyond more of the same: the lab's grpo beside an SFT twin given the same extra time.

    python -m tests.benchmarks.rl_gain [LAB] [--json] [--quick]

The twin starts from the same sft checkpoint and goes on with SFT on the same demonstrations, with the
stage's own learning rate and schedule, for at least as many seconds as grpo trained (grpo's seconds are
read from its metrics, measured when the lab grew; the twin's are measured here). Both answer every
held-out question greedily. `--quick` gives the twin a tenth of the time: it shows that this runs.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
from transformers import PreTrainedTokenizerFast

from tests.benchmarks import report
from workbench import sft
from workbench.corpus import documents_of, read_corpus
from workbench.evaluation import answer, proportion
from workbench.lab import Artefact, Lab
from workbench.lab_callback import LabCallback
from workbench.recipe import SftConfig
from workbench.stage import load_parent
from workbench.tasks import REWARDED


class UntilTime(LabCallback):
    """Stops the twin once it has trained for `seconds`."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(folder, save_every_seconds=float("inf"))
        self.seconds = seconds
        self.trained = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_begin(*args, **kwargs)
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_end(args, state, control, **kwargs)
        self.trained = time.monotonic() - self._began
        control.should_training_stop = self.trained >= self.seconds


def seconds_of(grpo: Artefact) -> float:
    """How long grpo's steps took in all (rollouts, rewards and updates), from its own record."""
    metrics = pl.read_parquet(grpo.path / "metrics.parquet").filter(pl.col("name") == "step_time")
    return float(metrics["value"].mean() or 0.0) * float(grpo.figures["steps"])


def train_twin(lab: Lab, seconds: float) -> tuple[Any, PreTrainedTokenizerFast, float]:
    """An SFT run that starts from sft and lasts `seconds`; the model, its tokenizer, the time it took."""
    parent = lab.find("checkpoint", "sft")
    settings = {k: v for k, v in parent.config.items() if k not in ("model", "stage")}
    config = dataclasses.replace(SftConfig(**settings), seed=1, steps=max(20, int(seconds * 10)))
    corpus = read_corpus(lab.find("corpus", "text"))
    model = load_parent(parent, config.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(parent.path)
    chats = sft.balanced(documents_of(corpus, "train", "chat", "sft"), config.seed)
    demonstrations = sft.tokenised_chats(tokenizer, chats)
    with tempfile.TemporaryDirectory() as folder:
        clock = UntilTime(Path(folder), seconds)
        sft.train(
            Path(folder), model, tokenizer, demonstrations, demonstrations.select(range(8)), config, clock
        )
    return model.eval(), tokenizer, clock.trained


def main() -> None:
    options = report.parse(__doc__ or "")
    lab = Lab.open("demo")
    grpo = lab.find("checkpoint", "grpo")
    seconds = seconds_of(grpo) * (0.1 if options.quick else 1.0)
    model, tokenizer, trained = train_twin(lab, seconds)
    corpus = read_corpus(lab.find("corpus", "text"))
    rows = []
    for task in REWARDED:
        found = answer(model, tokenizer, corpus, task)
        twin = proportion(int(found.right.sum()), len(found.right))._asdict()
        of = {
            name: lab.find("checkpoint", name).figures["metrics"]["accuracy"][task] for name in ("sft", "grpo")
        }
        config = {"task": task, "n": twin["n"], "grpo_seconds": seconds, "twin_seconds": trained}
        rows.append(report.Row.of(config, of["grpo"], {"sft": of["sft"], "sft_twin": twin}, "mean"))
    report.write("rl_gain", rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
