"""Builds a checkpoint artefact from outside: opened strictly, checked, saved as a plain Hugging Face folder.

Weights keep the dtype they come in; those of a GGUF file are dequantised to fp32. Nothing is unpickled and
no code that comes with a model is run.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from workbench.checkpoint import Checkpoint
from workbench.errors import Failure, Misuse
from workbench.external import Source, check_family, hub_folder, parse_source, source_digest
from workbench.grow import Build
from workbench.loading import (
    Shape,
    Unreadable,
    load_model,
    load_tokenizer,
    not_finite,
    quiet_transformers,
    read_shape,
)


class Opened(NamedTuple):
    """A model from outside with its tokenizer, to be saved (one from GGUF has no buffers to run with);
    `steps` it was trained for, where its folder tells."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    shape: Shape
    steps: int | None


def build(build: Build) -> Mapping[str, Any]:
    """Builder of an added checkpoint."""
    config = build.config
    try:
        source = parse_source(config["source"])
    except Misuse as error:
        raise Failure(
            f"checkpoint {build.step.name!r} has to be imported from where it came, but {error}; put it back "
            f"there, or put the folder checkpoint/{build.draft.final.name} back"
        ) from error
    build.progress.start(2, "parts", label=f"import of {build.step.name}")
    if source.kind != "hub" and source_digest(source) != config["source_sha256"]:
        raise Failure(
            f"the files at {source} have changed since {build.step.name!r} was added: "
            "put them back, or add the new ones under another name"
        )
    opened = open_source(source, config["source_sha256"])
    if config.get("parent"):
        check_family(
            build.step.name, opened.shape, opened.tokenizer, Checkpoint.of(build.lab, config["parent"])
        )
    build.progress.advance()
    save(opened, build.draft.path)
    build.progress.advance()
    return {
        "stage": config["stage"],
        "parent": config.get("parent"),
        "steps": opened.steps,
        "params": opened.model.num_parameters(),
        "n_layers": opened.shape.n_layers,
        "d_model": opened.shape.d_model,
        "n_ctx": opened.shape.n_ctx,
        "vocab_size": opened.shape.vocab_size,
        "architecture": opened.shape.architecture,
    }


def open_source(source: Source, digest: str) -> Opened:
    """The model at `source`, with everything checked that would otherwise fail later and less clearly."""
    if source.kind == "gguf":
        opened = _open_gguf(source.path)
    else:
        opened = _open_folder(hub_folder(source.location, digest) if source.kind == "hub" else source.path)
    if (n_tokens := len(opened.tokenizer)) > opened.shape.vocab_size:
        raise Unreadable(
            f"{source}: its tokenizer has {n_tokens} tokens but the model knows {opened.shape.vocab_size}: "
            "they do not belong together"
        )
    if (broken := not_finite(opened.model)) is not None:
        raise Unreadable(f"{source}: {broken} holds NaN or infinite numbers: the model is broken")
    return opened


def _open_folder(folder: Path) -> Opened:
    shape = read_shape(folder)
    tokenizer = load_tokenizer(folder)
    return Opened(load_model(folder, dtype="auto"), tokenizer, shape, _steps(folder))


def _steps(folder: Path) -> int | None:
    """Optimizer steps, from the state that `transformers.Trainer` leaves beside its checkpoints."""
    try:
        return int(json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _open_gguf(path: Path) -> Opened:
    """A GGUF file as a model of its own class.

    The loaded model refuses `save_pretrained` and its configuration says "quantised": its weights are handed to
    a fresh, empty model of the same configuration without that.
    """
    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        with quiet_transformers():
            tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, **where)
            loaded = AutoModelForCausalLM.from_pretrained(path.parent, **where, dtype=torch.float32)
    except Exception as error:  # the GGUF reader raises whatever its parsing stumbles on
        gist = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise Unreadable(f"{path} cannot be opened as a GGUF language model ({gist})") from error
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    shape = Shape(
        architecture=type(model).__name__,
        model_type=config.model_type,
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_ctx=config.max_position_embeddings,
        vocab_size=config.vocab_size,
    )
    return Opened(model.eval(), tokenizer, shape, None)


def save(opened: Opened, folder: Path) -> None:
    """Write the model (one safetensors file) and its tokenizer as any tool of the ecosystem opens them."""
    model = opened.model
    try:
        model.generation_config.validate(strict=True)
    except ValueError:  # `save_pretrained` would refuse it; what ends a text is all we need of it
        old = model.generation_config
        model.generation_config = GenerationConfig(
            eos_token_id=old.eos_token_id, bos_token_id=old.bos_token_id, pad_token_id=old.pad_token_id
        )
    with quiet_transformers():
        model.save_pretrained(folder, max_shard_size="1TB")
        opened.tokenizer.save_pretrained(folder)
