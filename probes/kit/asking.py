"""Questions of several tasks put to a checkpoint at once, greedily, and judged; what it says by itself.

`probes.kit.readings.answers` asks one task; together they take half the time. With `opening` each answer is made to
begin with the steps of its task (`workbench.tasks.OPENINGS`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedTokenizerFast

from probes.kit.readings import check_chat_form, opened
from probes.kit.running import LackingError
from probes.kit.texts import CHATS, texts
from workbench.checkpoint import Checkpoint
from workbench.evaluation import MAX_ANSWER
from workbench.generation import Completion, chat_prompt, complete
from workbench.tasks import OPENINGS, judge

REWARDED = ("sums", "letter_counts", "capitals")  # tasks of reinforcement, and one that it leaves alone
FORMS = ("right", "well formed", "ended", "worked")


class Question(NamedTuple):
    """What is asked, and the gold result."""

    task: str
    prompt: str
    result: str


class Judgements(NamedTuple):
    """0 or 1 of each question, in the questions' order."""

    right: Float[np.ndarray, " question"]
    well_formed: Float[np.ndarray, " question"]
    ended: Float[np.ndarray, " question"]
    worked: Float[np.ndarray, " question"]

    def of(self, form: str) -> Float[np.ndarray, " question"]:
        """By its name in words."""
        return getattr(self, form.replace(" ", "_"))


@functools.lru_cache(maxsize=16)
def questions(
    checkpoint: Checkpoint, tasks: tuple[str, ...], n: int, split: str = "heldout"
) -> tuple[Question, ...]:
    """The first `n` questions of each task."""
    found: list[Question] = []
    for task in tasks:
        chats = [each for each in texts(checkpoint.lab, CHATS, split) if each.task == task][:n]
        found += [Question(task, each.question, each.result) for each in chats]
    if not found:
        raise LackingError(
            f"the lab's corpus has no {split} questions: `python -m workbench grow {checkpoint.lab.name}` grows "
            "one that has"
        )
    return tuple(found)


def prompts(checkpoint: Checkpoint, of: Sequence[Question], opening: bool = False) -> list[list[int]]:
    """The questions in the lab's chat form, as ids."""
    check_chat_form(checkpoint)
    tokenizer = opened(checkpoint).tokenizer
    return [
        chat_prompt(tokenizer, each.prompt) + (begun(tokenizer, each.task) if opening else []) for each in of
    ]


def begun(tokenizer: PreTrainedTokenizerFast, task: str) -> list[int]:
    """The steps' opening of a task as ids; of a task without steps none."""
    return tokenizer.backend_tokenizer.encode(OPENINGS.get(task, ""), add_special_tokens=False).ids


@functools.lru_cache(maxsize=64)
def judged(checkpoint: Checkpoint, of: tuple[Question, ...], opening: bool = False) -> Judgements:
    """Greedy answers, judged."""
    model, tokenizer = opened(checkpoint)
    said = complete(model, tokenizer, prompts(checkpoint, of, opening), MAX_ANSWER)
    return judgements(of, said, opening)


def judgements(of: Sequence[Question], said: Sequence[Completion], opening: bool = False) -> Judgements:
    """What a checker says of answers."""
    found = []
    for question, each in zip(of, said, strict=True):
        begin = OPENINGS.get(question.task, "") if opening else ""
        j = judge(question.task, question.result, begin + each.text, each.ended)
        found.append((j.right, j.well_formed, each.ended, j.worked))
    return Judgements(*np.array(found, float).reshape(-1, 4).T)


def sampled(checkpoint: Checkpoint, of: Sequence[Question], seed: int = 0) -> list[Completion]:
    """What a checkpoint says at temperature 1."""
    model, tokenizer = opened(checkpoint)
    return complete(model, tokenizer, prompts(checkpoint, of), MAX_ANSWER, temperature=1.0, seed=seed)
