"""What grpo adds beyond more of the same: the lab's grpo beside an SFT twin given the same extra time.

    python -m tests.benchmarks.rl_gain [--json] [--quick]

The twin starts from the same sft checkpoint and goes on with SFT on the same demonstrations, with the
stage's own learning rate and a whole schedule, for as many steps as sft would have made while grpo trained
(both read from the stages' own metrics, measured when the lab grew; what the twin took here is printed).
Both answer every held-out question greedily. `--quick` gives the twin a tenth of the time: it
shows that this runs.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
from transformers import PreTrainedTokenizerFast

from tests.benchmarks import report
from workbench import sft
from workbench.corpus import balanced, documents_of, read_corpus
from workbench.evaluation import answer, proportion
from workbench.lab import Artefact, Lab
from workbench.lab_callback import LabCallback
from workbench.stage import load_parent, stage_config
from workbench.stage_config import SftConfig
from workbench.tasks import REWARDED


def _recorded(checkpoint: Artefact, name: str) -> pl.Series:
    metrics = pl.read_parquet(checkpoint.path / "metrics.parquet")
    return metrics.filter(pl.col("name") == name)["value"]


def grpo_seconds(grpo: Artefact) -> float:
    """How long grpo's steps took in all (rollouts, rewards and updates), from its own record."""
    return float(_recorded(grpo, "step_time").mean() or 0.0) * float(grpo.figures["steps"])


def sft_step_seconds(parent: Artefact) -> float:
    """How long a step of sft took, its evaluations not counted, from its own record."""
    whole, evaluations = (_recorded(parent, name).sum() for name in ("train_runtime", "eval_runtime"))
    return float(whole - evaluations) / float(parent.figures["steps"])


def train_twin(lab: Lab, n_steps: int) -> tuple[Any, PreTrainedTokenizerFast, float]:
    """An SFT run of `n_steps` that starts from sft, with a whole schedule of its own; the model, its
    tokenizer, the seconds it took."""
    parent = lab.find("checkpoint", "sft")
    config = dataclasses.replace(stage_config(SftConfig, parent.config), seed=1, steps=n_steps)
    corpus = read_corpus(lab.find("corpus", "text"))
    model = load_parent(parent, config.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(parent.path)
    chats = balanced(documents_of(corpus, "train", "chat", "sft"), config.seed)
    demonstrations = sft.tokenised_chats(tokenizer, chats)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        clock = LabCallback(Path(folder), save_every_seconds=float("inf"))
        few = demonstrations.select(range(8))
        sft.train(Path(folder), model, tokenizer, demonstrations, few, config, clock)
    return model.eval(), tokenizer, time.perf_counter() - began


def main() -> None:
    options = report.parse(__doc__ or "")
    lab = Lab.open("demo")
    grpo = lab.find("checkpoint", "grpo")
    seconds = grpo_seconds(grpo) * (0.1 if options.quick else 1.0)
    n_steps = math.ceil(seconds / sft_step_seconds(lab.find("checkpoint", "sft")))
    model, tokenizer, trained = train_twin(lab, n_steps)
    corpus = read_corpus(lab.find("corpus", "text"))
    rows = []
    for task in REWARDED:
        found = answer(model, tokenizer, corpus, task)
        twin = proportion(int(found.right.sum()), len(found.right))._asdict()
        of = {
            name: lab.find("checkpoint", name).figures["metrics"]["accuracy"][task] for name in ("sft", "grpo")
        }
        config = {"task": task, "n": twin["n"], "grpo_seconds": seconds}
        config |= {"twin_steps": n_steps, "twin_seconds": trained}
        rows.append(report.Row.of(config, of["grpo"], {"sft": of["sft"], "sft_twin": twin}, "mean"))
    report.write("rl_gain", rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
