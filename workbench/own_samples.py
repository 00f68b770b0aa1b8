"""What a checkpoint says by itself, and how far every other one would have gone on alike.

    KL(p‖q) = Σ_t Σ_v p(v) (log p(v) − log q(v)) / n      at every sampled position t, the end token's among them
    entropy = Σ_t Σ_v −p(v) log p(v) / n

The whole next-token distribution is compared, so that sampling decides only at which contexts. On p's own samples
KL(p‖q) is what p would be charged for leaving q [Agarwal 2024]; on q's samples it is asked of texts that p would
perhaps not write. KL(p‖p) is exactly 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from workbench.behaviour import kl_by_token
from workbench.diversity import distinct, first_tokens, grams, repeated
from workbench.generation import Completion, answered, right_padded
from workbench.harvest import TOKENS_PER_BATCH
from workbench.intervals import ratio_interval, wilson
from workbench.samples import PROSE, QUESTIONS
from workbench.splice import tokens_per_batch
from workbench.tasks import judge


class Prompt(NamedTuple):
    """What a checkpoint goes on from. `task` and the gold `result` of a question; None of prose."""

    ids: tuple[int, ...]
    task: str | None = None
    result: str | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """What its samples count for."""
        return (PROSE,) if self.task is None else (QUESTIONS, self.task)


class Said(NamedTuple):
    """A prompt with what its author sampled behind it."""

    prompt: Prompt
    completion: Completion


class Scores(NamedTuple):
    """Sums by sample: `n` sampled tokens, the author's `entropy`, `kl` by (p, q) of each pair with the author."""

    n: Float[np.ndarray, "sample"]
    entropy: Float[np.ndarray, "sample"]
    kl: Mapping[tuple[str, str], Float[np.ndarray, "sample"]]


class Row(NamedTuple):
    """One figure of one kind of prompt. `n`: what it is a share or a mean of."""

    kind: str
    figure: str
    value: float
    low: float
    high: float
    n: int


def scored(models: Mapping[str, PreTrainedModel], author: str, said: Sequence[Completion], pad: int) -> Scores:
    """Every model reads what `author` (one of them) said."""
    n = np.array([len(each.ids) for each in said], dtype=float)
    entropy = np.zeros(len(said))
    kl = {pair: np.zeros(len(said)) for pair in permutations(models, 2) if author in pair}
    for rows in _batches(said, min(TOKENS_PER_BATCH, *map(tokens_per_batch, models.values()))):
        where = np.repeat(rows, n[rows].astype(int))
        log_p = {name: _at_samples(model, [said[i] for i in rows], pad) for name, model in models.items()}
        own = log_p[author]
        spread = -(own.exp() * own).sum(-1).double().cpu().numpy()
        entropy += np.bincount(where, spread, minlength=len(said))
        for p, q in kl:
            kl[p, q] += np.bincount(where, kl_by_token(log_p[p], log_p[q]), minlength=len(said))
    return Scores(n, entropy, kl)


def _batches(said: Sequence[Completion], budget: int) -> Iterator[np.ndarray]:
    """Numbers of samples of about one length, as many as fit `budget` tokens with padding."""
    lengths = np.array([len(each.prompt_ids) + len(each.ids) for each in said])
    order = np.argsort(-lengths, kind="stable")
    at = 0
    while at < len(order):
        size = max(1, budget // int(lengths[order[at]]))
        yield order[at : at + size]
        at += size


def _at_samples(model: PreTrainedModel, said: Sequence[Completion], pad: int) -> Float[Tensor, "token vocab"]:
    """log p of what follows, at the position before each sampled token, sample by sample. Padding stands on the
    right, where no earlier position sees it."""
    whole = [[*each.prompt_ids, *each.ids] for each in said]
    ids = right_padded(whole, pad)
    sampled = answered([len(each.prompt_ids) for each in said], [len(row) for row in whole])
    with torch.inference_mode():
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits
        return logits[:, :-1][sampled.to(model.device)].float().log_softmax(-1)


def kinds_of(said: Sequence[Said]) -> dict[str, np.ndarray]:
    """Numbers of the samples of each kind of prompt, in the order in which kinds appear."""
    found: dict[str, list[int]] = {}
    for number, each in enumerate(said):
        for kind in each.prompt.kinds:
            found.setdefault(kind, []).append(number)
    return {kind: np.array(numbers) for kind, numbers in found.items()}


def spoken_tokens(said: Sequence[Said]) -> dict[str, int]:
    """How many tokens were said behind each kind of prompt, without those that end an answer."""
    return {kind: sum(len(_spoken(said[i].completion)) for i in at) for kind, at in kinds_of(said).items()}


def figures(said: Sequence[Said], scores: Scores, budgets: Mapping[str, int]) -> list[Row]:
    """Length, share ended by itself, entropy, diversity and (of questions) accuracy, by kind of prompt. distinct-n
    is of the first `budgets` tokens of a kind, so that checkpoints which say more than others can be compared."""
    return [
        Row(kind, *figure)
        for kind, at in kinds_of(said).items()
        for figure in _figures([said[i] for i in at], scores.n[at], scores.entropy[at], budgets[kind])
    ]


def _figures(
    said: Sequence[Said], n: np.ndarray, entropy: np.ndarray, budget: int
) -> Iterator[tuple[str, float, float, float, int]]:
    """Name, value, interval and n of each figure of one kind."""
    answers = [_spoken(each.completion) for each in said]
    ones = np.ones(len(said))
    yield ("length", float(n.mean()), *ratio_interval(n, ones), len(said))
    ended = sum(each.completion.ended for each in said)
    yield ("ended", ended / len(said), *wilson(ended, len(said)), len(said))
    yield ("entropy", float(entropy.sum() / n.sum()), *ratio_interval(entropy, n), int(n.sum()))
    some = first_tokens(answers, budget)
    yield ("distinct_1", *distinct([grams(answer, 1) for answer in some]))
    yield ("distinct_2", *distinct([grams(answer, 2) for answer in some]))
    yield ("distinct_answers", *distinct([[tuple(answer)] for answer in answers]))
    again, pairs = repeated(answers)
    if pairs.any():
        share = float(again.sum() / pairs.sum())
        yield ("repeated", share, *ratio_interval(again, pairs), int(pairs.sum()))
    if all(each.prompt.result is not None for each in said):
        right = sum(_right(each) for each in said)
        yield ("accuracy", right / len(said), *wilson(right, len(said)), len(said))


def _spoken(said: Completion) -> list[int]:
    """What was said, the token that ends it left out."""
    return said.ids[:-1] if said.ended else said.ids


def _right(said: Said) -> bool:
    prompt = said.prompt
    assert prompt.task is not None
    assert prompt.result is not None
    return judge(prompt.task, prompt.result, said.completion.text, said.completion.ended).right


def kl_rows(said: Sequence[Said], scores: Scores) -> list[tuple[tuple[str, str], Row]]:
    """KL of each pair with the author, nats a sampled token, by kind of prompt; intervals over samples."""
    return [
        (pair, Row(kind, "kl", float(sums[at].sum() / scores.n[at].sum()), *ratio_interval(sums[at], scores.n[at]),
                   int(scores.n[at].sum())))
        for pair, sums in scores.kl.items()
        for kind, at in kinds_of(said).items()
    ]  # fmt: skip
