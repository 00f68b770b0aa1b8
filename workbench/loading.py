"""Reading a Hugging Face folder strictly: safetensors only, nothing missing, one sentence when it is damaged.

`from_pretrained` fills weights that a file lacks with random numbers and only logs it, and unpickles
`pytorch_model.bin`; here both are refused. No code of the folder is ever run (`trust_remote_code` is off).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import Failure

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Unreadable(Failure):
    """A model folder that cannot be read; the message names the file and what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a folder's `config.json` says about its model."""

    architecture: str
    model_type: str
    n_layers: int
    d_model: int
    n_ctx: int
    vocab_size: int


def read_shape(folder: Path) -> Shape:
    """The model's shape, read without importing transformers."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("text_config") or config
        return Shape(
            architecture=(config.get("architectures") or [config["model_type"]])[0],
            model_type=config["model_type"],
            n_layers=_first(config, "num_hidden_layers", "n_layer"),
            d_model=_first(config, "hidden_size", "n_embd"),
            n_ctx=_first(config, "max_position_embeddings", "n_positions"),
            vocab_size=_first(config, "vocab_size"),
        )
    except FileNotFoundError:
        if (folder / "adapter_config.json").is_file():
            raise Unreadable(
                f"{folder} is an adapter, not a model: merge it into its base (`merge_and_unload()`), save that"
            ) from None
        raise Unreadable(
            f"{folder} has no config.json: a model folder is what `model.save_pretrained(folder)` writes"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(
            f"{path} does not describe a language model ({type(error).__name__}: {error})"
        ) from error


def _first(config: dict[str, Any], *names: str) -> int:
    for name in names:
        if name in config:
            return int(config[name])
    raise KeyError(f"no {' or '.join(names)}")


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files, each opened once so that a damaged header or a cut end shows."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(p.name for pattern in _PICKLED for p in folder.glob(pattern))
        if pickled:
            raise Unreadable(
                f"{folder} has only {pickled[0]}, a pickle, which can run code when opened: if you trust it, "
                "convert it with `AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)`, "
                "which writes model.safetensors"
            )
        raise Unreadable(
            f"{folder} has no model.safetensors: save the model with `model.save_pretrained(folder)`"
        )
    for path in files:
        try:
            with safe_open(path, framework="numpy") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            raise Unreadable(f"{path} is cut short or altered ({error})") from error
    return files


def load_model(folder: Path, device: str = "cpu", dtype: str = "float32") -> PreTrainedModel:
    """A fresh causal language model in eval mode with eager attention (so that its patterns can be read).

    `dtype` is a torch dtype's name, or "auto" for that of the file.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    read_shape(folder)
    weight_files(folder)
    try:
        with quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                attn_implementation="eager",
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise Unreadable(f"{folder} cannot be opened as a language model ({_first_line(error)})") from error
    model, report = loaded
    if report["missing_keys"]:
        raise Unreadable(
            f"{folder}: its weights lack {_some(report['missing_keys'])}, which config.json asks for: "
            "config.json and model.safetensors are not of one model"
        )
    return model.eval().to(device)


def not_finite(model: PreTrainedModel) -> str | None:
    """The first parameter that holds NaN or an infinite number."""
    return next((name for name, w in model.named_parameters() if not bool(w.isfinite().all())), None)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The folder's tokenizer; `tokenizer.json` is taken as it stands, other forms are converted to it."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not has_tokenizer(folder):
        raise Unreadable(
            f"{folder} has no tokenizer (tokenizer.json or vocab.json): "
            "put it there with `tokenizer.save_pretrained(folder)`"
        )
    try:
        with quiet_transformers():
            if (folder / "tokenizer.json").is_file():
                return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
            converted: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            return converted
    except Exception as error:  # the Rust library raises bare Exception
        raise Unreadable(f"{folder}: its tokenizer cannot be opened ({_first_line(error)})") from error


def has_tokenizer(folder: Path) -> bool:
    """Some file of the folder holds a vocabulary."""
    return any((folder / name).is_file() for name in _VOCABULARIES)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No loading bars and reports of `transformers` inside; what matters of them is raised."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    """The gist of a library's error; these run over many lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _some(names: Any) -> str:
    names = sorted(names)
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
