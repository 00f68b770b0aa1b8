"""Stage grpo: group-relative policy optimisation [Shao 2024] on verifiable rewards, with `trl.GRPOTrainer`.

Prompts are sums and letter counts that no demonstration used. A completion earns 1 if its result is right
and 0.1 if it has the form of an answer; nothing tells the model how to get there. The KL leash
β·KL(π‖π_sft) is on (trl's default is off).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from trl import GRPOConfig as TrlGrpoConfig
from trl import GRPOTrainer

from workbench.corpus import balanced, documents_of, read_corpus
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
from workbench.stage_config import GrpoConfig
from workbench.tasks import judge

_FORM_WEIGHT = 0.1

Messages = list[dict[str, str]]


def _judged(
    completions: Sequence[Messages],
    completion_ids: Sequence[list[int]],
    tasks: Sequence[str],
    results: Sequence[str],
    end: int,
) -> list[Any]:
    return [
        judge(task, result, messages[-1]["content"], ended=bool(ids) and ids[-1] == end)
        for messages, ids, task, result in zip(completions, completion_ids, tasks, results, strict=True)
    ]


def reward_functions(end: int) -> list[Any]:
    """Rewards as trl calls them: `right` (true metric) and `well_formed`; `end` is the end token's id."""

    def right(
        completions: list[Messages],
        completion_ids: list[list[int]],
        task: list[str],
        result: list[str],
        **_: Any,
    ) -> list[float]:
        return [float(j.right) for j in _judged(completions, completion_ids, task, result, end)]

    def well_formed(
        completions: list[Messages],
        completion_ids: list[list[int]],
        task: list[str],
        result: list[str],
        **_: Any,
    ) -> list[float]:
        return [float(j.well_formed) for j in _judged(completions, completion_ids, task, result, end)]

    return [right, well_formed]


def prompts(rows: pl.DataFrame) -> Dataset:
    """Prompts in chat form with what the checker needs."""
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": question}], "task": task, "result": result}
            for question, task, result in rows.select("question", "task", "result").iter_rows()
        ]
    )


def train(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    questions: Dataset,
    config: GrpoConfig,
    callback: LabCallback,
) -> None:
    """Train `model` in place. A step is `batch_size` rollouts: `batch_size / group_size` prompts."""
    shared = common_arguments(folder, config) | {"logging_steps": 5}
    arguments = TrlGrpoConfig(
        **shared,
        num_generations=config.group_size,
        steps_per_generation=config.gradient_accumulation,
        max_completion_length=config.max_completion,
        beta=config.beta,
        temperature=config.temperature,
        loss_type="grpo",
        scale_rewards="group",
        reward_weights=[1.0, _FORM_WEIGHT],
        log_completions=True,
        num_completions_to_print=0,
        lr_scheduler_type="linear",
        warmup_steps=5,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        remove_unused_columns=False,
    )
    trainer = GRPOTrainer(
        model,
        reward_funcs=reward_functions(tokenizer.eos_token_id),
        args=arguments,
        train_dataset=questions,
        processing_class=tokenizer,
        callbacks=[callback],
    )
    # trl prints its table of samples to standard output, which belongs to `--json`.
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        run(trainer)


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `checkpoint/grpo` and of its branches; rollouts with rewards and advantages stay in
    `rollouts/*.parquet`."""
    config = stage_config(GrpoConfig, build.config)
    corpus = read_corpus(build.parents["corpus/text"])
    origin = Origin.of(build, "sft")
    model, tokenizer = origin.model(config.seed), origin.tokenizer
    questions = prompts(balanced(documents_of(corpus, "train", "chat", "grpo"), config.seed))
    train(build.draft.path, model, tokenizer, questions, config, lab_callback(build, config))
    completions = build.draft.path / "resume" / "completions"
    shutil.copytree(completions, build.draft.path / "rollouts", dirs_exist_ok=True)
    trained = load_trained(build.draft.path, model, tokenizer)
    return trained_figures(build, config, trained, origin)


def load_trained(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Save the trained weights and read them back: trl patches the head of the model that it trains."""
    finish(folder, model, tokenizer)
    return type(model).from_pretrained(folder, attn_implementation="eager", use_safetensors=True).eval()
