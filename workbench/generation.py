"""Completions of many prompts at once, greedy or sampled, with what the model itself ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from workbench.encoding import reading
from workbench.tasks import ASSISTANT, USER


class Completion(NamedTuple):
    """One completion: its ids without padding, its text, and whether the model wrote the end token."""

    prompt_ids: list[int]
    ids: list[int]
    text: str
    ended: bool


def chat_prompt(tokenizer: PreTrainedTokenizerFast, question: str) -> list[int]:
    """Ids of BOS, the question in the lab's chat form, and the marker where the answer begins."""
    text = f"{USER}{question}{ASSISTANT}"
    with reading(tokenizer, markers=True) as backend:
        return [tokenizer.bos_token_id, *backend.encode(text, add_special_tokens=False).ids]


def left_padded(
    prompts: Sequence[Sequence[int]], pad: int
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Prompts as one tensor, padded on the left, and its attention mask."""
    width = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def right_padded(rows: Sequence[Sequence[int]], pad: int) -> Int[Tensor, "row pos"]:
    """Rows as one tensor; no real token attends to what comes after it."""
    out = torch.full((len(rows), max(map(len, rows))), pad)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out


def answered(prompts: Sequence[int], rows: Sequence[int]) -> Bool[Tensor, "row pos_1"]:
    """Where the next token belongs to the answer, for prompts and rows (prompt and answer) of these lengths."""
    at = torch.arange(max(rows) - 1)
    return (at >= torch.tensor(prompts)[:, None] - 1) & (at < torch.tensor(rows)[:, None] - 1)


@torch.no_grad()
def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float | None = None,
    seed: int = 0,
    batch_size: int = 256,
    on_batch: Callable[[int], None] | None = None,
) -> list[Completion]:
    """Complete each prompt; greedy unless `temperature` is given. Order is kept.

    Sampling depends on `seed` alone: the global random state is left as it was.
    """
    model.eval()
    sampling = (
        {"do_sample": False}
        if temperature is None
        else {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    )
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **sampling,
    )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, Completion] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            ids, mask = left_padded([prompts[i] for i in rows], tokenizer.pad_token_id)
            out = model.generate(  # type: ignore[operator]
                ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
            )
            for i, new in zip(rows, out[:, ids.shape[1] :].tolist(), strict=True):
                found[i] = trimmed(tokenizer, prompts[i], new)
            if on_batch is not None:
                on_batch(len(rows))
    return [found[i] for i in range(len(prompts))]


def trimmed(tokenizer: PreTrainedTokenizerFast, prompt: Sequence[int], new: list[int]) -> Completion:
    """What was written behind a prompt, up to the token that ends it."""
    end = tokenizer.eos_token_id
    ended = end in new
    kept = new[: new.index(end)] if ended else new
    return Completion(list(prompt), [*kept, end] if ended else kept, str(tokenizer.decode(kept)), ended)
