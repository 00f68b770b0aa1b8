"""A letter of a word, asked for live: what a chat checkpoint answers, beside what is right."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from workbench.prompt import read_prompt
from workbench.sampling import Sampling, continuations
from workbench.tasks import COUNT_QUESTION

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

LONGEST = 48  # tokens of an answer


class CountAnswer(NamedTuple):
    """A greedy answer, the last number in it (None where it names none), and the right one."""

    text: str
    said: int | None
    right: int


def question(word: str, letter: str) -> str:
    """The question as the lab's chats put it."""
    return COUNT_QUESTION.format(letter=letter, word=word)


def last_number(text: str) -> int | None:
    """The last whole number of a text.

    >>> last_number("b/e e/e1 t/e2, so it is 2."), last_number("no idea")
    (2, None)
    """
    found = re.findall(r"\d+", text)
    return int(found[-1]) if found else None


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    n_ctx: int,
    word: str,
    letter: str,
    right: int,
) -> CountAnswer:
    """The checkpoint's answer in its own chat form, always the likeliest token next."""
    prompt = read_prompt(tokenizer, question(word, letter), n_ctx, chat=True)
    [answer] = continuations(
        model, tokenizer, prompt, Sampling(temperature=0.0), n=1, max_new_tokens=LONGEST, seed=0
    )
    return CountAnswer(answer.text, last_number(answer.text), right)
