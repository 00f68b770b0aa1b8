"""Stage base: next-token prediction from scratch on prose and world, with `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from workbench import tokenizer as tokenizers
from workbench.corpus import Corpus, documents_of, read_corpus
from workbench.evaluation import evaluate_base
from workbench.grow import Build
from workbench.lab_callback import LabCallback
from workbench.optimizer import MuonWithAdamW, trapezoid
from workbench.stage import common_arguments, finish, lab_callback, n_parameters, run, stage_config
from workbench.stage_config import BaseConfig, ModelConfig
from workbench.windows import MixedWindows


def new_model(shape: ModelConfig, vocab_size: int, seed: int) -> LlamaForCausalLM:
    """A freshly initialised Llama: RMSNorm, SwiGLU, rotary positions, tied embeddings."""
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_heads,
        max_position_embeddings=shape.n_ctx,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=4,
        # at n_ctx 128 on a CPU faster than SDPA: 20.8 against 16.3 k tokens/s
        attn_implementation="eager",  # type: ignore[call-arg]
    )
    return LlamaForCausalLM(config)


def training_documents(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, domain: str) -> list[np.ndarray]:
    """The documents of a domain (prose or world) that base trains on, as ids led by BOS."""
    return tokenizers.encode_ids(tokenizer, documents_of(corpus, "train", domain, "base")["text"].to_list())


def windows(
    prose: list[np.ndarray], world: list[np.ndarray], config: BaseConfig, n_ctx: int, bos: int
) -> MixedWindows:
    """The windows that the stage trains on, in order."""
    streams = [np.concatenate(documents or [np.zeros(0, np.int32)]) for documents in (prose, world)]
    n = config.steps * config.batch_size
    return MixedWindows(
        streams[0], streams[1], n, n_ctx, config.prose_share, bos, config.seed, config.prose_first
    )


def train(
    folder: Path,
    model: LlamaForCausalLM,
    data: MixedWindows,
    config: BaseConfig,
    callback: LabCallback,
) -> None:
    """Train `model` in place over `data` in its order; resumes what `folder/resume` holds."""
    optimizer = MuonWithAdamW(model, config.muon_lr, config.lr)
    schedule = trapezoid(optimizer, config.steps, warmup=0.02, decay=0.5)
    arguments = TrainingArguments(
        **common_arguments(folder, config),
        train_sampling_strategy="sequential",
        max_grad_norm=1.0,
    )
    trainer = Trainer(
        model, arguments, train_dataset=data, optimizers=(optimizer, schedule), callbacks=[callback]
    )
    run(trainer)


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `checkpoint/base`."""
    shape, config = ModelConfig(**build.config["model"]), stage_config(BaseConfig, build.config)
    corpus = read_corpus(build.parents["corpus/text"])
    tokenizer = tokenizers.load(build.parents["tokenizer/bpe"].path)
    prose, world = (training_documents(corpus, tokenizer, domain) for domain in ("prose", "world"))
    data = windows(prose, world, config, shape.n_ctx, tokenizer.bos_token_id)
    model = new_model(shape, len(tokenizer), config.seed)
    train(build.draft.path, model, data, config, lab_callback(build, config))
    finish(build.draft.path, model, tokenizer)
    return {
        "stage": "base",
        "parent": None,
        "steps": config.steps,
        "params": n_parameters(model),
        "training_tokens": len(data) * shape.n_ctx,
        "metrics": evaluate_base(model, tokenizer, corpus, prose, shape.n_ctx, build.progress),
    }
