"""Answers and log p of a model whose residual stream is moved by what it and other models hold on the same tokens.

All models read the same ids. At the site, the moved model's stream gives way to `move(streams)` (own and others'
at the same tokens); the others go on as they are. What is moved lies above: later tokens meet it through the keys
and values of the layers above the site, as if the model itself had written it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

from workbench.generation import Completion, left_padded, trimmed
from workbench.points import RESID_POST, Site
from workbench.site import ReachedError, entered, layer_output, read_sites, replaced, unembedded, watched

# From every model's stream `[token d]` at the same tokens to what the moved one's becomes.
Move = Callable[[Mapping[str, Tensor]], Tensor]


class JointReading:
    """Several models that share a tokenizer, laid over each other at one site."""

    def __init__(
        self, models: Mapping[str, PreTrainedModel], tokenizer: PreTrainedTokenizerFast, site: Site
    ) -> None:
        self.models, self.tokenizer, self.site = dict(models), tokenizer, site
        self._like: dict[str, Any] = {}

    @torch.inference_mode()
    def answers(
        self,
        name: str,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        move: Move | None = None,
    ) -> list[Completion]:
        """Greedy answers of the model called `name`, moved at every token of prompt and answer."""
        return self.answers_each(name, prompts, max_new_tokens, [move])[0]

    @torch.inference_mode()
    def answers_each(
        self,
        name: str,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        moves: Sequence[Move | None],
        rows_at_once: int = 1_024,
    ) -> list[list[Completion]]:
        """`answers` of every move, side by side in one batch: more rows hardly lengthen a small model's step."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: list[dict[int, Completion]] = [{} for _ in moves]
        at_once = max(1, rows_at_once // len(moves))
        for first in range(0, len(order), at_once):
            rows = order[first : first + at_once]
            said = self._batch(name, [prompts[i] for i in rows] * len(moves), max_new_tokens, moves)
            for number, each in enumerate(found):
                each.update(zip(rows, said[number * len(rows) :][: len(rows)], strict=True))
        return [[each[i] for i in range(len(prompts))] for each in found]

    def _batch(
        self, name: str, prompts: Sequence[Sequence[int]], n_new: int, moves: Sequence[Move | None]
    ) -> list[Completion]:
        """Answers to prompts of which an equal part, in order, belongs to each move. Rows that have ended are read
        no further."""
        device, tokenizer = self.models[name].device, self.tokenizer
        ids, mask = (t.to(device) for t in left_padded(prompts, tokenizer.pad_token_id))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        moved = any(move is not None for move in moves)
        read = [*(other for other in self.models if other != name), name] if moved else [name]
        caches = {each: DynamicCache() for each in read}
        written = torch.full((len(prompts), n_new), tokenizer.pad_token_id, device=device)
        going = torch.arange(len(prompts), device=device)
        shares = [len(prompts) // len(moves)] * len(moves)  # rows of each move that go on
        with self._laid_over(name, moves if moved else [], shares):
            for step in range(n_new):
                for each in read:  # the others only as far as the site, and prompts, alike for all moves, once
                    n = shares[0] if step == 0 and each != name else len(ids)
                    with contextlib.suppress(ReachedError):
                        out = self.models[each](
                            input_ids=ids[:n], attention_mask=mask[:n], position_ids=positions[:n],
                            past_key_values=caches[each], use_cache=True, logits_to_keep=1,
                        )  # fmt: skip
                    if n < len(ids):
                        caches[each].batch_select_indices(torch.arange(n, device=device).repeat(len(moves)))
                best = out.logits[:, -1].argmax(-1)
                written[going, step] = best
                on = (best != tokenizer.eos_token_id).nonzero()[:, 0]
                if len(on) == 0:
                    break
                if len(on) < len(going):
                    shares[:] = [int(part.sum()) for part in (best != tokenizer.eos_token_id).split(shares)]
                    going, best, mask = going[on], best[on], mask[on]
                    for cache in caches.values():
                        cache.batch_select_indices(on)
                ids, mask = best[:, None], torch.cat([mask, torch.ones_like(best)[:, None]], dim=1)
                positions = mask.sum(1, keepdim=True) - 1
        return [trimmed(tokenizer, *each) for each in zip(prompts, written.tolist(), strict=True)]

    @contextlib.contextmanager
    def _laid_over(self, name: str, moves: Sequence[Move | None], shares: Sequence[int]) -> Iterator[None]:
        """Inside, the first `shares[0]` rows of `name`'s stream are moved by the first move, the next by the
        second; the other models have to run before it, on all rows, or on one move's for all."""
        if not moves:
            yield
            return
        held: dict[str, Tensor] = {}

        def keep(other: str) -> Callable[[Site, Tensor], None]:
            def kept(site: Site, value: Tensor) -> None:
                held[other] = value if len(value) == sum(shares) else value.repeat(len(moves), 1, 1)
                raise ReachedError

            return kept

        def replace(read: Tensor, written: Tensor) -> Tensor:
            apart = {other: s.split(list(shares)) for other, s in (held | {name: written}).items()}
            done = []
            for number, move in enumerate(moves):
                part = {other: streams[number].flatten(0, 1) for other, streams in apart.items()}
                done.append(part[name] if move is None or not shares[number] else move(part))
            return torch.cat(done).view_as(written).to(written)

        with contextlib.ExitStack() as hooks:
            for other, model in self.models.items():
                if other != name:
                    hooks.enter_context(watched(model, self.site, keep(other)))
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

    def log_probabilities(
        self,
        name: str,
        ids: Int[Tensor, "row pos"],
        at: Bool[Tensor, "row pos_1"],
        stream: Float[Tensor, "row pos d"] | None = None,
    ) -> Float[Tensor, "token vocab"]:
        """log p of whatever may come next, where `at` says, under the model called `name` with `stream` at the
        site (differentiable). Nothing is computed below the stream, and no logits elsewhere."""
        model, at = self.models[name], at.to(self.models[name].device)
        with contextlib.ExitStack() as inside:
            inside.enter_context(unembedded(model, lambda hidden: hidden[:, :-1][at][None]))
            if stream is not None and self.site.point == RESID_POST:
                if name not in self._like:
                    self._like[name] = layer_output(model)
                inside.enter_context(entered(model, self.site.layer, stream, self._like[name]))
            elif stream is not None:
                inside.enter_context(replaced(model, self.site, lambda read, written: stream))
            logits = model(input_ids=ids.to(model.device), use_cache=False).logits
        return logits[0].float().log_softmax(-1)
