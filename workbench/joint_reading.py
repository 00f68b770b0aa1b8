"""Answers and log p of a model whose residual stream is moved by what it and other models hold on the same tokens.

All models read the same ids. At the site, the moved model's stream gives way to `move(streams)` (own and others'
at the same tokens); the others go on as they are. What is moved lies above: later tokens meet it through the keys
and values of the layers above the site, as if the model itself had written it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

from workbench.generation import left_padded
from workbench.points import Site
from workbench.site import read_sites, replaced, site_module

# From every model's stream `[token d]` at the same tokens to what the moved one's becomes.
Move = Callable[[Mapping[str, Tensor]], Tensor]


class _ReadError(Exception):
    """Ends the forward pass of a model that is only read at the site."""


class Said(NamedTuple):
    """One answer: its text and whether the model ended it itself."""

    text: str
    ids: list[int]
    ended: bool


class JointReading:
    """Several models that share a tokenizer, laid over each other at one site."""

    def __init__(
        self, models: Mapping[str, PreTrainedModel], tokenizer: PreTrainedTokenizerFast, site: Site
    ) -> None:
        self.models, self.tokenizer, self.site = dict(models), tokenizer, site

    @torch.inference_mode()
    def answers(
        self,
        name: str,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        move: Move | None = None,
        batch_size: int = 256,
    ) -> list[Said]:
        """Greedy answers of the model called `name`, moved at every token of prompt and answer."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: dict[int, Said] = {}
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            said = self._batch(name, [prompts[i] for i in rows], max_new_tokens, move)
            found.update(zip(rows, said, strict=True))
        return [found[i] for i in range(len(prompts))]

    def _batch(self, name: str, prompts: Sequence[Sequence[int]], n_new: int, move: Move | None) -> list[Said]:
        device, tokenizer = self.models[name].device, self.tokenizer
        ids, mask = (t.to(device) for t in left_padded(prompts, tokenizer.pad_token_id))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        read = [name] if move is None else [*(other for other in self.models if other != name), name]
        caches = {each: DynamicCache() for each in read}
        written = torch.empty(len(prompts), 0, dtype=torch.long, device=device)
        ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        with self._laid_over(name, move):
            for _ in range(n_new):
                for each in read:  # the others only as far as the site
                    with contextlib.suppress(_ReadError):
                        out = self.models[each](
                            input_ids=ids, attention_mask=mask, position_ids=positions,
                            past_key_values=caches[each], use_cache=True, logits_to_keep=1,
                        )  # fmt: skip
                best = out.logits[:, -1].argmax(-1).masked_fill(ended, tokenizer.pad_token_id)
                written = torch.cat([written, best[:, None]], dim=1)
                ended |= best == tokenizer.eos_token_id
                if bool(ended.all()):
                    break
                ids, mask = best[:, None], torch.cat([mask, torch.ones_like(best)[:, None]], dim=1)
                positions = mask.sum(1, keepdim=True) - 1
        return [self._said(row) for row in written.tolist()]

    def _said(self, row: list[int]) -> Said:
        end = self.tokenizer.eos_token_id
        ended = end in row
        kept = row[: row.index(end)] if ended else row
        return Said(str(self.tokenizer.decode(kept)), [*kept, end] if ended else kept, ended)

    @contextlib.contextmanager
    def _laid_over(self, name: str, move: Move | None) -> Iterator[None]:
        """Inside, `name`'s stream is moved; the other models have to run before it."""
        if move is None:
            yield
            return
        held: dict[str, Tensor] = {}

        def keep(other: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
                held[other] = output if isinstance(output, Tensor) else output[0]
                raise _ReadError

            return hook

        def replace(read: Tensor, written: Tensor) -> Tensor:
            flat = {other: stream.flatten(0, 1) for other, stream in (held | {name: written}).items()}
            return move(flat).view_as(written).to(written)

        with contextlib.ExitStack() as hooks:
            for other, model in self.models.items():
                if other != name:
                    handle = site_module(model, self.site).register_forward_hook(keep(other))
                    hooks.callback(handle.remove)
            hooks.enter_context(replaced(self.models[name], self.site, replace))
            yield

    def streams(self, ids: Int[Tensor, "row pos"]) -> dict[str, Float[Tensor, "row pos d"]]:
        """What every model holds at the site."""
        return {
            name: read_sites(model, [self.site], ids.to(model.device))[self.site].clone()
            for name, model in self.models.items()
        }

    def log_p(
        self, name: str, ids: Int[Tensor, "row pos"], stream: Float[Tensor, "row pos d"] | None = None
    ) -> Float[Tensor, "row pos_1"]:
        """log p of each next token under the model called `name`, with `stream` at the site (differentiable)."""
        model = self.models[name]
        with contextlib.ExitStack() as inside:
            if stream is not None:
                inside.enter_context(replaced(model, self.site, lambda read, written: stream))
            logits = model(input_ids=ids.to(model.device), use_cache=False).logits
        ahead = ids[:, 1:, None].to(logits.device)
        return logits[:, :-1].gather(2, ahead)[:, :, 0] - logits[:, :-1].logsumexp(-1)


def right_padded(rows: Sequence[Sequence[int]], pad: int) -> Int[Tensor, "row pos"]:
    """Rows as one tensor; no real token attends to what comes after it."""
    out = torch.full((len(rows), max(map(len, rows))), pad)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out


def answered(prompts: Sequence[int], rows: Sequence[int]) -> np.ndarray:
    """Bool[row pos-1]: where the next token belongs to the answer, for prompts and rows of these lengths."""
    at = np.arange(max(rows) - 1)
    return (at >= np.array(prompts)[:, None] - 1) & (at < np.array(rows)[:, None] - 1)
