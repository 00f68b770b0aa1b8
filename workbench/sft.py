"""Stage sft: supervised finetuning on gold chats with `trl.SFTTrainer`, loss on the answers only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from trl import SFTConfig as TrlSftConfig
from trl import SFTTrainer

from workbench.corpus import balanced, documents_of, read_corpus
from workbench.generation import chat_prompt
from workbench.grow import Build
from workbench.lab_callback import LabCallback
from workbench.stage import (
    Origin,
    common_arguments,
    finish,
    lab_callback,
    run,
    stage_config,
    trained_figures,
)
from workbench.stage_config import SftConfig, StageConfig
from workbench.tasks import END

_IGNORED = -100  # label of a token that carries no loss
# Shares of the steps at the full rate and falling from it; the rest, at `_FINAL` of it, shows the plateau.
_STABLE, _DECAY, _FINAL = 0.3, 0.3, 0.01
_PLATEAU = 0.01  # relative gain of the validation loss over the last quarter that counts as none


def tokenised_chats(tokenizer: PreTrainedTokenizerFast, chats: pl.DataFrame) -> Dataset:
    """Chats as `input_ids` and `labels`; the question and the markers before the answer carry no loss."""
    rows = []
    for question, answer in chats.select("question", "answer").iter_rows():
        prompt = chat_prompt(tokenizer, question)
        reply = tokenizer.backend_tokenizer.encode(answer + END, add_special_tokens=False).ids
        rows.append({"input_ids": prompt + reply, "labels": [_IGNORED] * len(prompt) + reply})
    return Dataset.from_list(rows)


def in_steps(chats: Dataset, config: SftConfig) -> Dataset:
    """The chats in the order of training, epoch after epoch, each step's own sorted by length.

    A step sees the same chats in any order; sorted, its micro-batches hold chats of like length and are
    hardly padded (a fourth fewer tokens in `quick`).
    """
    rng = np.random.default_rng(config.seed)
    n = config.steps * config.batch_size
    order = np.concatenate([rng.permutation(len(chats)) for _ in range(math.ceil(n / len(chats)))])[:n]
    lengths = np.array([len(ids) for ids in chats["input_ids"]])
    steps = [step[np.argsort(lengths[step], kind="stable")] for step in order.reshape(config.steps, -1)]
    return chats.select(np.concatenate(steps))


def optimisation(config: StageConfig) -> dict[str, Any]:
    """How the stage steps: AdamW; a rate that rises, stays, falls and shows the plateau; examples in order."""
    return {
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {
            "num_stable_steps": round(_STABLE * config.steps),
            "num_decay_steps": round(_DECAY * config.steps),
            "min_lr_ratio": _FINAL,
        },
        "warmup_steps": min(20, config.steps // 10),
        "weight_decay": 0.0,
        "adam_beta2": 0.95,
        "optim": "adamw_torch_fused",
    }


def train(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    chats: Dataset,
    validation: Dataset,
    config: SftConfig,
    callback: LabCallback,
) -> list[tuple[int, float]]:
    """Train `model` in place; return the validation loss (nats per answer token) by step."""
    arguments = TrlSftConfig(
        **common_arguments(folder, config),
        **optimisation(config),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        eval_strategy="steps",
        eval_steps=max(1, config.steps // 4),
        per_device_eval_batch_size=256,
    )
    trainer = SFTTrainer(
        model,
        arguments,
        train_dataset=in_steps(chats, config),
        eval_dataset=validation,
        processing_class=tokenizer,
        callbacks=[callback],
    )
    run(trainer)
    logs = trainer.state.log_history
    return [(int(row["step"]), float(row["eval_loss"])) for row in logs if "eval_loss" in row]


def plateau(validation: list[tuple[int, float]]) -> dict[str, Any]:
    """Whether the validation loss has stopped falling: its relative gain over the last quarter of the steps."""
    last_step, last = validation[-1]
    before = next(loss for step, loss in reversed(validation) if step <= 0.75 * last_step)
    gain = (before - last) / before
    return {"validation_loss": last, "gain_over_last_quarter": gain, "reached": gain < _PLATEAU}


def training_chats(build: Build, tokenizer: PreTrainedTokenizerFast, seed: int) -> Dataset:
    """The gold chats that the stage trains on, every task as often as the others."""
    corpus = read_corpus(build.parents["corpus/text"])
    return tokenised_chats(tokenizer, balanced(documents_of(corpus, "train", "chat", "sft"), seed))


def validation_chats(build: Build, tokenizer: PreTrainedTokenizerFast) -> Dataset:
    """The dictionary split's chats: unseen in training, and not the ones the reported accuracies use."""
    corpus = read_corpus(build.parents["corpus/text"])
    return tokenised_chats(tokenizer, documents_of(corpus, "dictionary", "chat"))


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `checkpoint/sft`, and of its siblings."""
    config = stage_config(SftConfig, build.config)
    origin = Origin.of(build, "base")
    model = origin.model(config.seed)
    chats = training_chats(build, origin.tokenizer, config.seed)
    validation = validation_chats(build, origin.tokenizer)
    callback = lab_callback(build, config)
    losses = train(build.draft.path, model, origin.tokenizer, chats, validation, config, callback)
    finish(build.draft.path, model, origin.tokenizer)
    return trained_figures(build, config, model, origin) | {"plateau": plateau(losses)}
