"""From logits to the distribution that is sampled, and sampling itself.

Order, as in `transformers.generate`: temperature, then top-k, then top-p on what is left, then min-p
[Nguyen 2024] on what is left. `continuations` draws from the very distribution that `reshape` shows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import Failure, Misuse
from workbench.vocabulary import TokenText, Vocabulary

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerFast

    from workbench.prompt import Prompt

KEPT, BY_TOP_K, BY_TOP_P, BY_MIN_P = range(4)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 cut nothing."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise Misuse(f"temperature should be 0 (greedy) or more, found {self.temperature}")
        if self.top_k < 0:
            raise Misuse(f"top_k should be 0 (off) or more, found {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise Misuse(f"top_p should be above 0 and at most 1 (off), found {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise Misuse(f"min_p should be between 0 (off) and 1, found {self.min_p}")


@dataclasses.dataclass(frozen=True)
class Reshaped:
    """The distribution that is sampled and, for every token, what cut it (`KEPT`, `BY_TOP_K`, …)."""

    probabilities: Float[np.ndarray, "*batch vocab"]
    cut_by: Int[np.ndarray, "*batch vocab"]

    @property
    def n_kept(self) -> int:
        """How many tokens are left to draw from (in all of a batch): what is so unlikely that it rounds to 0 is
        never drawn, though no setting cut it."""
        return int((self.probabilities > 0).sum())


@dataclasses.dataclass(frozen=True)
class Continuation:
    """One sampled continuation. Natural logarithms: `log_p` under the model itself, `log_q` under the
    reshaped distribution it was drawn from. `ended` says that it stopped by itself, with `tokens[-1]`."""

    tokens: tuple[TokenText, ...]
    text: str
    log_p: Float[np.ndarray, "token"]
    log_q: Float[np.ndarray, "token"]
    ended: bool

    @property
    def probabilities(self) -> Float[np.ndarray, "token"]:
        """Under the model itself."""
        return np.exp(self.log_p)


def softmax(logits: Float[np.ndarray, "*batch vocab"]) -> Float[np.ndarray, "*batch vocab"]:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def reshape(logits: Float[np.ndarray, "*batch vocab"], sampling: Sampling) -> Reshaped:
    """The distribution that `sampling` draws from; at least one token is always kept."""
    logits = np.asarray(logits, dtype=np.float64)
    cut_by = np.zeros(logits.shape, dtype=np.int8)
    if sampling.temperature == 0:
        best = logits.argmax(-1, keepdims=True)
        cut_by[:] = BY_TOP_K
        np.put_along_axis(cut_by, best, KEPT, -1)
        return Reshaped((cut_by == KEPT).astype(np.float64), cut_by)
    scores = logits / sampling.temperature
    if 0 < sampling.top_k < scores.shape[-1]:
        bound = np.partition(scores, -sampling.top_k, axis=-1)[..., -sampling.top_k, None]
        scores = _cut(scores, scores < bound, cut_by, BY_TOP_K)
    if sampling.top_p < 1:
        order = scores.argsort(-1, kind="stable")  # ascending: cut the tail that sums to at most 1 - top_p
        tail = np.take_along_axis(softmax(scores), order, -1).cumsum(-1) <= 1 - sampling.top_p
        tail[..., -1] = False
        below = np.zeros_like(tail)
        np.put_along_axis(below, order, tail, -1)
        scores = _cut(scores, below, cut_by, BY_TOP_P)
    if sampling.min_p > 0:
        p = softmax(scores)
        scores = _cut(scores, p < sampling.min_p * p.max(-1, keepdims=True), cut_by, BY_MIN_P)
    return Reshaped(softmax(scores), cut_by)


def _cut(scores: np.ndarray, below: np.ndarray, cut_by: np.ndarray, reason: int) -> np.ndarray:
    """`scores` with -inf where `below`; notes `reason` for those that nothing had cut before."""
    cut_by[below & (cut_by == KEPT)] = reason
    return np.where(below, -np.inf, scores)


def continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompt: Prompt,
    sampling: Sampling,
    n: int = 4,
    max_new_tokens: int = 48,
    seed: int = 0,
) -> list[Continuation]:
    """`n` samples after `prompt`, at most as long as the context has room; greedy gives one.

    Not `model.generate`: that takes what is unset (repetition penalty, top-p) from the checkpoint's own
    generation settings, so that another distribution than the one shown would be drawn from.
    """
    length = room(model, prompt, max_new_tokens)
    stops = stop_ids(model, tokenizer)
    rng = np.random.default_rng(seed)
    drawn: list[Drawn] = []
    ended = np.zeros(1 if sampling.temperature == 0 else n, dtype=bool)
    steps = next_logits(model, prompt.ids, len(ended))
    logits = next(steps)
    for _ in range(length):
        drawn.append(drawn_from(logits, sampling, rng))
        ended |= np.isin(drawn[-1].ids, stops)
        if ended.all() or len(drawn) == length:
            break
        logits = steps.send(drawn[-1].ids)
    vocabulary = Vocabulary(tokenizer)
    columns = [np.stack(column, axis=1) for column in zip(*drawn, strict=True)]  # each [sample, token]
    return [_continuation(ids, p, q, stops, vocabulary) for ids, p, q in zip(*columns, strict=True)]


def room(model: PreTrainedModel, prompt: Prompt, wanted: int) -> int:
    """How many tokens can follow the prompt, at most `wanted`; `Misuse` where none."""
    n_ctx = model.config.get_text_config().max_position_embeddings
    if min(wanted, n_ctx - len(prompt.ids)) < 1:
        raise Misuse(f"the prompt fills the context of {n_ctx} tokens: shorten it to leave room for an answer")
    return min(wanted, n_ctx - len(prompt.ids))


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids that end a text: the tokenizer's EOS and those of the model's generation settings."""
    eos = model.generation_config.eos_token_id
    found = [tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])]
    return sorted({id_ for id_ in found if id_ is not None})


class Drawn(NamedTuple):
    """One more token of every sample."""

    ids: Int[np.ndarray, "sample"]
    log_p: Float[np.ndarray, "sample"]
    log_q: Float[np.ndarray, "sample"]


def next_logits(
    model: PreTrainedModel, ids: tuple[int, ...], n: int, cache: Cache | None = None
) -> Generator[Float[np.ndarray, "sample vocab"], Int[np.ndarray, "sample"], None]:
    """Logits after `ids` for `n` equal samples; is sent the ids drawn and yields the logits after those. Keys and
    values go into `cache`, one of its own if none is given."""
    import torch

    with torch.inference_mode():
        read = torch.tensor([ids], device=model.device)
        out = model(read, use_cache=True, past_key_values=cache, logits_to_keep=1)
        cache = out.past_key_values
        if not all(hasattr(layer, "batch_repeat_interleave") for layer in cache.layers):
            raise Failure(
                f"{type(model).__name__} keeps more than keys and values of what it has read: "
                "Marble cannot continue its texts"
            )
        cache.batch_repeat_interleave(n)
        logits = out.logits[:, -1].expand(n, -1)
    while True:
        drawn = yield logits.float().cpu().numpy()
        with torch.inference_mode():  # not held across the yield: the caller's own mode is its own
            following = torch.from_numpy(drawn).to(model.device)[:, None]
            logits = model(following, past_key_values=cache, use_cache=True).logits[:, -1]


def drawn_from(
    logits: Float[np.ndarray, "sample vocab"], sampling: Sampling, rng: np.random.Generator
) -> Drawn:
    """One token for every sample, by inverting the cumulative distribution."""
    q = reshape(logits, sampling).probabilities
    cumulative = q.cumsum(-1)
    threshold = rng.random((len(q), 1)) * cumulative[:, -1:]
    ids = (cumulative > threshold).argmax(-1)
    p = softmax(logits.astype(np.float64))
    rows = np.arange(len(ids))
    return Drawn(ids, np.log(p[rows, ids]), np.log(q[rows, ids]))


def _continuation(
    ids: np.ndarray, log_p: np.ndarray, log_q: np.ndarray, stops: list[int], vocabulary: Vocabulary
) -> Continuation:
    """One sample, up to and with the token that ended it."""
    stopped = np.flatnonzero(np.isin(ids, stops))
    length = int(stopped[0]) + 1 if len(stopped) else len(ids)
    tokens = tuple(vocabulary[int(id_)] for id_ in ids[:length])
    text = b"".join(t.data for t in tokens if not t.special).decode("utf-8", "replace")
    return Continuation(tokens, text, log_p[:length], log_q[:length], ended=len(stopped) > 0)
