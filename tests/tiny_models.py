"""Random checkpoints of the families that Marble reads, small enough to make in a test, with a tokenizer."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from workbench.loading import load_model, load_tokenizer, quiet_transformers

VOCAB = 300
SPECIAL = ("<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{{- bos_token }}{% for message in messages %}{{ '<|user|>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
Machine = tuple[hf.PreTrainedModel, hf.PreTrainedTokenizerFast]
FAMILIES = ("llama", "qwen2", "qwen3", "gpt_neox", "gpt2")
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"], "head_dim": 8,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
}  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
# Made for single tests: norms that store γ - 1 or nothing, mixtures of experts, blocks without attention
OTHERS = {
    "gemma2": {"head_dim": 8},
    "gemma4_text": {"head_dim": 8, "global_head_dim": 8, "hidden_size_per_layer_input": 0},
    "nemotron": {}, "olmo": {}, "mixtral": {"num_local_experts": 4}, "qwen2_moe": _EXPERTS, "qwen3_moe": _EXPERTS,
    "qwen3_5_text": _LINEAR, "qwen3_next": _LINEAR | _EXPERTS | {"shared_expert_intermediate_size": 8},
}  # fmt: skip


@functools.cache
def trained_bpe(text: str = "hello world, this is a test of 1234 marbles") -> str:
    """A byte-level BPE as JSON; another text gives other tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([text] * 9, trainer)
    return bpe.to_str()


def tiny_tokenizer(bos: bool = True, **text: str) -> hf.PreTrainedTokenizerFast:
    """With `bos=False` it has neither BOS nor chat template, as many base models' tokenizers."""
    starts = {"bos_token": "<|bos|>", "chat_template": TEMPLATE} if bos else {}
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(trained_bpe(**text)),
        eos_token="<|end|>",
        pad_token="<|pad|>",
        **starts,
    )


def tiny_model(family: str, seed: int = 0, n_layers: int = 3, d_model: int = 32, n_ctx: int = 64):
    """A random model; its weights are large enough that layers and heads differ visibly."""
    shape = {"num_hidden_layers": n_layers, "hidden_size": d_model, "max_position_embeddings": n_ctx}
    shape |= {"num_attention_heads": 4, "intermediate_size": 2 * d_model}
    grouped = {"num_key_value_heads": 2}
    own = {
        "llama": grouped,
        "qwen2": grouped,
        "qwen3": grouped | {"head_dim": 16},
        "gpt_neox": {},
        "gpt2": {"n_layer": n_layers, "n_embd": d_model, "n_positions": n_ctx, "n_head": 4},
        **{name: grouped | more for name, more in OTHERS.items()},
    }[family]
    shape = own if family == "gpt2" else shape | own
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 4}
    config = hf.AutoConfig.for_model(family, vocab_size=VOCAB, initializer_range=0.2, **shape, **ids)
    torch.manual_seed(seed)
    return hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def save_tiny(folder: Path, family: str = "llama", tokenizer: bool = True, **model: int) -> Path:
    """A folder as `save_pretrained` leaves it."""
    with quiet_transformers():
        tiny_model(family, **model).save_pretrained(folder)
        if tokenizer:
            tiny_tokenizer().save_pretrained(folder)
    return folder


def machine_of(folder: Path, family: str) -> Machine:
    """A model and its tokenizer, read back from `folder`."""
    save_tiny(folder, family)
    return load_model(folder), load_tokenizer(folder)
