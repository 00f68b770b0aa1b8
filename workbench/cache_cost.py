"""What the KV cache saves: greedy generation with it and without it, timed token by token.

Without a cache every step reads the whole text again; with one it reads a single token beside the keys and values
that are held. Both do the same sum, so the tokens must be the same, which is checked and told. The first step reads
the prompt either way.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.errors import Misuse
from workbench.timing import Seconds, timed

if TYPE_CHECKING:
    import polars as pl
    from transformers import PreTrainedModel

ON, OFF = "cache on", "cache off"
REPEATS = 5


class TokenCost(NamedTuple):
    """The time of one more token after `read` of them."""

    kind: str
    read: int
    seconds: Seconds


@dataclasses.dataclass(frozen=True)
class CacheCost:
    """`ids`: what each kind wrote, greedily; `costs`: one a kind and step."""

    ids: dict[str, tuple[int, ...]]
    costs: tuple[TokenCost, ...]

    @property
    def equal(self) -> bool:
        """The same tokens with and without the cache."""
        return self.ids[ON] == self.ids[OFF]

    def last(self, kind: str) -> TokenCost:
        """The last token's cost, after the longest text."""
        return max((cost for cost in self.costs if cost.kind == kind), key=lambda cost: cost.read)

    def total(self, kind: str) -> float:
        """Seconds of all tokens after the first, which reads the prompt either way: a sum of medians."""
        _, *later = (cost.seconds.median for cost in self.costs if cost.kind == kind)
        return sum(later)

    def table(self) -> pl.DataFrame:
        """A row a kind and length."""
        import polars as pl

        rows = [(c.kind, c.read, *c.seconds) for c in self.costs]
        schema = ["kind", "tokens read", "seconds", "low", "high", "runs"]
        return pl.DataFrame(rows, schema=schema, orient="row")


def cache_cost(
    model: PreTrainedModel, ids: tuple[int, ...], n_tokens: int, repeats: int = REPEATS
) -> CacheCost:
    """`n_tokens` after `ids`, in turn with the cache and without it, after one run of each that is not counted.

    Generation goes on behind an end token: what is timed is the step, not the text.
    """
    n_ctx = model.config.get_text_config().max_position_embeddings
    if not 1 <= n_tokens <= n_ctx - len(ids) or repeats < 1:
        raise Misuse(
            f"the context of {n_ctx} tokens has room for {n_ctx - len(ids)} after a prompt of {len(ids)}, and "
            f"{n_tokens} were asked for, {repeats} times: shorten the prompt, or ask for at least one"
        )
    written: dict[str, tuple[int, ...]] = {}
    took: dict[str, list[list[float]]] = {ON: [], OFF: []}
    for run in range(repeats + 1):
        for kind in (ON, OFF):
            written[kind], times = _greedy(model, ids, n_tokens, kind)
            took[kind] += [times] if run else []
    costs = [
        TokenCost(kind, len(ids) + i, Seconds.of(at_step))
        for kind in (ON, OFF)
        for i, at_step in enumerate(zip(*took[kind], strict=True))
    ]
    return CacheCost(written, tuple(costs))


def _greedy(
    model: PreTrainedModel, ids: tuple[int, ...], n_tokens: int, kind: str
) -> tuple[tuple[int, ...], list[float]]:
    """The likeliest token, again and again; the seconds of each."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config) if kind == ON else None
    text, fresh, took = torch.tensor([ids], device=model.device), torch.tensor([ids], device=model.device), []
    for _ in range(n_tokens):
        fresh, one = timed(_next, model, text if cache is None else fresh, cache)
        took.append(one)
        text = torch.cat([text, fresh], dim=1)
    return tuple(text[0, len(ids) :].tolist()), took


@torch.inference_mode()
def _next(model: PreTrainedModel, read: Int[Tensor, "1 position"], cache: object) -> Int[Tensor, "1 1"]:
    out = model(read, past_key_values=cache, use_cache=cache is not None, logits_to_keep=1)
    found = out.logits[:, -1].argmax(-1, keepdim=True)
    found.tolist()  # waits for a device that works on its own
    return found
