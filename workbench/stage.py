"""What every training stage shares: arguments for the trainer, running with resume, the final folder."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Trainer, set_seed

from workbench.corpus import read_corpus
from workbench.device import fast_bfloat16
from workbench.errors import Misuse
from workbench.evaluation import evaluate_chat
from workbench.grow import Build
from workbench.lab import Artefact
from workbench.lab_callback import LabCallback, latest_resume, snapshot_steps
from workbench.stage_config import StageConfig

C = TypeVar("C", bound=StageConfig)


def stage_config(cls: type[C], settings: Mapping[str, Any]) -> C:
    """The stage's own settings out of a step's configuration, which holds the model's shape beside them, and a
    branch's parent."""
    known = {field.name for field in dataclasses.fields(cls)}
    config = cls(**{key: value for key, value in settings.items() if key in known})
    if config.batch_size % config.gradient_accumulation:
        raise Misuse(
            f"a step of {config.batch_size} examples cannot be cut into {config.gradient_accumulation} equal "
            "micro-batches: make batch_size a multiple of gradient_accumulation"
        )
    return config


def common_arguments(folder: Path, config: StageConfig) -> dict[str, Any]:
    """Trainer arguments that are the same in every stage; reporting and saving are `LabCallback`'s."""
    return {
        "output_dir": str(folder / "resume"),
        "max_steps": config.steps,
        "per_device_train_batch_size": config.batch_size // config.gradient_accumulation,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": config.lr,
        "bf16": config.bf16 and fast_bfloat16(),
        "seed": config.seed,
        "data_seed": config.seed,
        "logging_steps": 10,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",  # LabCallback asks by the clock
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "use_cpu": not torch.cuda.is_available(),
    }


def lab_callback(build: Build, config: StageConfig) -> LabCallback:
    """The callback of a stage of this lab."""
    steps = snapshot_steps(config.steps, config.snapshot_base)
    return LabCallback(build.draft.path, build.progress, steps)


def run(trainer: Trainer) -> None:
    """Train to the end, from the newest whole resumable checkpoint if there is one."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    resume = latest_resume(Path(trainer.args.output_dir or "."))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        # The trainer always hands over the number of steps; a schedule with a tail needs both.
        warnings.filterwarnings("ignore", message="Both num_training_steps and num_stable_steps")
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def finish(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the final model and tokenizer where any tool of the ecosystem finds them."""
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Origin(NamedTuple):
    """The checkpoint that a stage starts from."""

    name: str
    artefact: Artefact
    tokenizer: PreTrainedTokenizerFast

    @classmethod
    def of(cls, build: Build, usual: str) -> Origin:
        """The parent that the step names (a branch does), or else the lineage's `usual` one."""
        name = build.config.get("parent", usual)
        artefact = build.parents[f"checkpoint/{name}"]
        return cls(name, artefact, PreTrainedTokenizerFast.from_pretrained(artefact.path))

    def model(self, seed: int) -> LlamaForCausalLM:
        return load_parent(self.artefact, seed)


def load_parent(parent: Artefact, seed: int) -> LlamaForCausalLM:
    """The parent checkpoint as a fresh fp32 model, read from its folder (trl needs `name_or_path`)."""
    set_seed(seed)
    return LlamaForCausalLM.from_pretrained(
        parent.path, dtype=torch.float32, attn_implementation="eager", use_safetensors=True
    )


def trained_figures(
    build: Build, config: StageConfig, model: PreTrainedModel, origin: Origin
) -> dict[str, Any]:
    """What the manifest of a finetuned stage says: where it comes from, and what it can do beside its parent."""
    parent = origin.model(config.seed).eval()
    corpus = read_corpus(build.parents["corpus/text"])
    n_ctx = build.plan.recipe.model.n_ctx
    return {
        "stage": build.config["stage"],
        "parent": origin.name,
        "steps": config.steps,
        "params": n_parameters(model),
        "metrics": evaluate_chat(model, parent, origin.tokenizer, corpus, n_ctx, build.progress),
    }


def n_parameters(model: torch.nn.Module) -> int:
    """Trainable numbers, tied ones once."""
    return sum(p.numel() for p in model.parameters())
