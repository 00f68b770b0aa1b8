"""Stage sham: the parent trained on, on its own data, for as many steps as the stage that it is a control of.

Optimizer, rate and number of steps are the stage's; data and size of a batch are the parent's: windows of prose
and world in an order that base has not seen, or the gold chats of sft. What such a checkpoint shows as "added"
came from going on, not from what the stage teaches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import Trainer, TrainingArguments

from workbench import sft
from workbench.base import training_documents, windows
from workbench.corpus import read_corpus
from workbench.grow import Build
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


def build(build: Build) -> Mapping[str, Any]:
    """Builder of a sham checkpoint; its `parent` is base or sft."""
    stage = stage_config(StageConfig, build.config)
    origin = Origin.of(build, build.config["parent"])
    model = origin.model(stage.seed)
    go_on = _on_text if origin.name == "base" else _on_chats
    go_on(build, stage, origin, model)
    finish(build.draft.path, model, origin.tokenizer)
    return trained_figures(build, stage, model, origin)


def _on_text(build: Build, stage: StageConfig, origin: Origin, model: Any) -> None:
    own = build.plan.recipe.base
    config = dataclasses.replace(
        own, steps=stage.steps, lr=stage.lr, seed=stage.seed, prose_first=None, gradient_accumulation=1
    )
    corpus = read_corpus(build.parents["corpus/text"])
    prose, world = (training_documents(corpus, origin.tokenizer, domain) for domain in ("prose", "world"))
    n_ctx = build.plan.recipe.model.n_ctx
    data = windows(prose, world, config, n_ctx, origin.tokenizer.bos_token_id)
    arguments = TrainingArguments(**common_arguments(build.draft.path, config), **sft.optimisation(config))
    run(Trainer(model, arguments, train_dataset=data, callbacks=[lab_callback(build, config)]))


def _on_chats(build: Build, stage: StageConfig, origin: Origin, model: Any) -> None:
    own = build.plan.recipe.sft
    config: SftConfig = dataclasses.replace(own, steps=stage.steps, lr=stage.lr, seed=stage.seed)
    chats = sft.training_chats(build, origin.tokenizer, config.seed)
    validation = sft.validation_chats(build, origin.tokenizer)
    callback = lab_callback(build, config)
    sft.train(build.draft.path, model, origin.tokenizer, chats, validation, config, callback)
