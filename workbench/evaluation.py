"""What a checkpoint can do, on held-out documents only: bits per byte, answers, distance from its parent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from workbench import ngrams
from workbench import tokenizer as tokenizers
from workbench.bits_per_byte import model_nats
from workbench.corpus import Corpus, documents_of
from workbench.generation import Completion, chat_prompt, complete
from workbench.intervals import wilson
from workbench.own_samples import scored
from workbench.progress import Progress
from workbench.tasks import OPENINGS, judge

ASKED = ("capitals", "sums", "letter_counts")
MAX_ANSWER = 52  # tokens; the longest gold answer has fewer
N_ELICITED = 400  # questions of a task
_NGRAM_NAMES = ("unigram", "bigram", "trigram")


class Proportion(NamedTuple):
    """A share with its 95 % Wilson interval."""

    mean: float
    low: float
    high: float
    n: int


def proportion(hits: int, n: int) -> Proportion:
    """Wilson interval of `hits` out of `n`."""
    return Proportion(hits / n, *wilson(hits, n), n)


class HeldoutProse(NamedTuple):
    """Held-out prose as token ids, BOS first, and its size in bytes."""

    documents: list[np.ndarray]
    n_bytes: int


def heldout_prose(tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> HeldoutProse:
    """The held-out addresses (or other prose)."""
    texts = documents_of(corpus, "heldout", "prose")["text"].to_list()
    ids = tokenizers.encode_ids(tokenizer, texts)
    return HeldoutProse(ids, sum(len(t.encode()) for t in texts))


def prose_nats(model: PreTrainedModel, prose: HeldoutProse, n_ctx: int, bos: int) -> float:
    """Nats over all held-out prose tokens, scored with stride n_ctx / 2."""
    return float(sum(n.sum() for n in model_nats(model, prose.documents, n_ctx, bos_id=bos)))


def evaluate_base(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    training: Sequence[np.ndarray],
    n_ctx: int,
    progress: Progress,
) -> dict[str, float]:
    """Bits per byte on held-out prose, beside Kneser–Ney n-grams fitted on all `training` prose."""
    prose = heldout_prose(tokenizer, corpus)
    n_tokens = sum(len(d) - 1 for d in prose.documents)
    progress.start(4, "models", label="evaluate")
    nats = prose_nats(model, prose, n_ctx, tokenizer.bos_token_id)
    metrics = {"bits_per_byte": bits(nats, prose.n_bytes), "prose_loss": nats / n_tokens}
    progress.advance()
    for order, name in enumerate(_NGRAM_NAMES, start=1):
        fitted = ngrams.fit(training, len(tokenizer), order)
        total = float(np.concatenate(ngrams.nats(fitted, prose.documents)).sum())
        metrics[f"{name}_bits_per_byte"] = bits(total, prose.n_bytes)
        progress.advance()
    return metrics


def bits(nats: float, n_bytes: int) -> float:
    """Nats over a text of `n_bytes` as bits per byte."""
    return nats / float(np.log(2)) / n_bytes


def heldout_questions(corpus: Corpus, task: str) -> pl.DataFrame:
    """All held-out questions of a task."""
    return documents_of(corpus, "heldout", "chat").filter(pl.col("task") == task)


class Answers(NamedTuple):
    """Answers to the held-out questions of one task."""

    questions: pl.DataFrame
    completions: list[Completion]
    right: np.ndarray  # Bool[question]
    well_formed: np.ndarray  # Bool[question]
    worked: np.ndarray  # Bool[question]


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    task: str,
    progress: Progress | None = None,
    opening: str = "",
    at_most: int | None = None,
) -> Answers:
    """Greedy answers to every held-out question of a task (or the first `at_most`), judged; each made to begin with
    `opening`."""
    questions = heldout_questions(corpus, task)
    if at_most is not None:
        questions = questions.head(at_most)
    begun = tokenizer.backend_tokenizer.encode(opening, add_special_tokens=False).ids
    prompts = [chat_prompt(tokenizer, q) + begun for q in questions["question"]]
    if progress is not None:
        made = "worked " if opening else ""
        progress.start(len(prompts), "answers", label=f"evaluate {made}{task}")
    completions = complete(
        model, tokenizer, prompts, MAX_ANSWER, on_batch=None if progress is None else progress.advance
    )
    judged = [
        judge(task, result, opening + c.text, c.ended)
        for result, c in zip(questions["result"], completions, strict=True)
    ]
    columns = (np.array([getattr(j, name) for j in judged]) for name in ("right", "well_formed", "worked"))
    return Answers(questions, completions, *columns)


def evaluate_chat(
    model: PreTrainedModel,
    parent: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    n_ctx: int,
    progress: Progress,
) -> dict[str, Any]:
    """Accuracy by task (greedy; made to show its steps), well-formed share, KL from the parent, prose loss."""
    answers = {task: answer(model, tokenizer, corpus, task, progress) for task in ASKED}
    # What reinforcement has to work with: how often an answer made to begin with its steps is right.
    elicited = {
        task: answer(model, tokenizer, corpus, task, progress, opening, N_ELICITED)
        for task, opening in OPENINGS.items()
    }
    formed = np.concatenate([a.well_formed for a in answers.values()])
    prose = heldout_prose(tokenizer, corpus)
    nats = prose_nats(model, prose, n_ctx, tokenizer.bos_token_id)
    prompts = [c.prompt_ids for a in answers.values() for c in a.completions[:200]]
    return {
        "accuracy": {t: _accuracy(a) for t, a in answers.items()},
        "worked_share": {t: float(a.worked.mean()) for t, a in answers.items()},
        "elicited": {t: _accuracy(a) for t, a in elicited.items()},
        "well_formed": float(formed.mean()),
        "kl_from_parent": kl_on_own_samples(model, parent, tokenizer, prompts),
        "prose_loss": nats / sum(len(d) - 1 for d in prose.documents),
    }


def _accuracy(answers: Answers) -> dict[str, float]:
    return proportion(int(answers.right.sum()), len(answers.right))._asdict()


def kl_on_own_samples(
    child: PreTrainedModel,
    parent: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    seed: int = 0,
) -> float:
    """KL(child ‖ parent), nats per token, on the child's own samples at temperature 1 (`workbench.own_samples`)."""
    samples = complete(child, tokenizer, prompts, MAX_ANSWER, temperature=1.0, seed=seed)
    scores = scored({"child": child, "parent": parent}, "child", samples, tokenizer.pad_token_id)
    return float(scores.kl["child", "parent"].sum() / scores.n.sum())
