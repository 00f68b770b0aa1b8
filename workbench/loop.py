"""Generation one token at a time, every step kept: what it was drawn from, and how large the KV cache was then.

A step reads one token and the keys and values of all before it, which is what the cache holds:

    bytes = 2 · n_layers · n_kv_heads · d_head · tokens · bytes per number

`recorded_loop` draws as `workbench.sampling.continuations` with one sample does: the same seed gives the same text.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from workbench.sampling import Sampling, drawn_from, next_logits, reshape, room, softmax, stop_ids
from workbench.trace import Candidate, candidates_of
from workbench.vocabulary import TokenText, Vocabulary

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerFast

    from workbench.prompt import Prompt

TOP = 15


class LoopStep(NamedTuple):
    """One token as it was drawn. `rank` is 0 for the likeliest; `probability` the model's own and `reshaped` that
    which it was drawn with; entropy of the model's own distribution, nats. `read`: tokens in the cache by then."""

    token: TokenText
    rank: int
    probability: float
    reshaped: float
    entropy: float
    n_kept: int
    read: int
    cache_bytes: int
    candidates: tuple[Candidate, ...]


@dataclasses.dataclass(frozen=True)
class Loop:
    """A text as it grew. `ended`: it stopped by itself, with its last token."""

    prompt: Prompt
    sampling: Sampling
    steps: tuple[LoopStep, ...]
    ended: bool


def cache_bytes(cache: Cache) -> int:
    """Bytes of all keys and values that are held."""
    layers: list[Any] = list(cache.layers)
    held = [array for layer in layers for array in (layer.keys, layer.values)]
    return sum(array.numel() * array.element_size() for array in held if array is not None)


def recorded_loop(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompt: Prompt,
    sampling: Sampling,
    max_new_tokens: int = 32,
    seed: int = 0,
) -> Loop:
    """One continuation of `prompt`, step by step."""
    from transformers import DynamicCache

    length = room(model, prompt, max_new_tokens)
    cache = DynamicCache(config=model.config)
    stops, vocabulary = set(stop_ids(model, tokenizer)), Vocabulary(tokenizer)
    rng = np.random.default_rng(seed)
    source = next_logits(model, prompt.ids, 1, cache)
    logits, steps = next(source), []
    while True:
        [id_] = drawn_from(logits, sampling, rng).ids
        steps.append(_step(int(id_), logits[0], sampling, vocabulary, cache))
        if int(id_) in stops or len(steps) == length:
            return Loop(prompt, sampling, tuple(steps), int(id_) in stops)
        logits = source.send(np.array([id_]))


def _step(id_: int, logits: np.ndarray, sampling: Sampling, vocabulary: Vocabulary, cache: Cache) -> LoopStep:
    p = softmax(logits.astype(np.float64))
    shaped = reshape(logits, sampling)
    return LoopStep(
        token=vocabulary[id_],
        rank=int((p > p[id_]).sum()),
        probability=float(p[id_]),
        reshaped=float(shaped.probabilities[id_]),
        entropy=float(-(p * np.log(np.maximum(p, 1e-300))).sum()),
        n_kept=shaped.n_kept,
        read=int(cache.get_seq_length()),
        cache_bytes=cache_bytes(cache),
        candidates=tuple(candidates_of(logits, vocabulary, sampling, TOP)),
    )
