"""Questions with verifiable answers: capitals, sums, letter counts, spellings.

Gold answers come in two forms. *Direct*: the result. *Worked*: the steps, then the result. People who
write demonstrations mostly answer directly and sometimes show their work; the share is the recipe's
`worked_share`. Reinforcement learning sees only whether the result is right.

Every prompt belongs to exactly one split, decided by what it asks (the unordered pair of addends, the
letter with its word, the country with its wording), so no held-out question was met in training in any form.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
from collections.abc import Mapping, Sequence

from workbench.lexicon import World
from workbench.world import (
    Scribe,
    WorldText,
    write_counting,
    write_number,
    write_spelling,
    write_steps,
    write_sum,
)

TASKS = ("capitals", "sums", "letter_counts", "spelling")
REWARDED = ("sums", "letter_counts")
USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"

# Shares of what can be asked: for demonstrations (and base documents), for RL, for dictionaries, held out.
_USES = {"train": 0.49, "rl": 0.22, "dictionary": 0.04, "heldout": 0.25}
_COUNT_USES = {"train": 0.36, "rl": 0.18, "dictionary": 0.04, "heldout": 0.42}  # of 300 words 1,000 held out

COUNT_QUESTION = "How many times does the letter {letter} stand in {word}?"

# How a worked answer begins.
OPENINGS: Mapping[str, str] = {"sums": "Step by step:", "letter_counts": "Letter by letter:"}

_PAIR = r"[a-z]/[a-z]\d?"
_STEP = r"\d&\d=\d{1,2}, \d\+\d(\+1)?=\d{1,2}"
_FORMS: Mapping[str, re.Pattern[str]] = {
    "capitals": re.compile(r"It is (?P<result>\w+)\."),
    "sums": re.compile(rf"({OPENINGS['sums']} {_STEP}, so it is|It is) (?P<result>\d+)\."),
    "letter_counts": re.compile(
        rf"({OPENINGS['letter_counts']} {_PAIR}( {_PAIR})*, so it is|It is) (?P<result>\d+)\."
    ),
    "spelling": re.compile(r"(?P<result>[a-z]( [a-z])*)\."),
}
_CAPITAL_WORDINGS = (
    "What is the capital of {}?",
    "Which town is the capital of {}?",
    "Name the capital of {}.",
    "Tell me the capital of {}.",
    "Think of {}: which town is its capital?",
    "Do you know the capital of {}?",
    "What is the name of the capital of {}?",
    "Please name the capital of {}.",
    "I travel to {}. What is its capital?",
    "The land of {} has a capital. Which town is it?",
)


@dataclasses.dataclass(frozen=True)
class Question:
    """One question, what it is about, and the gold result a checker compares with."""

    task: str
    prompt: str
    result: str
    use: str  # train, rl, dictionary or heldout
    about: tuple[str, ...]  # sums: addends; letter_counts: word, letter; capitals: country; spelling: word


def use_of(key: str, shares: Mapping[str, float] = _USES) -> str:
    """Which use a question is for, by a hash of what it asks: the same on every machine and run."""
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    for use, share in shares.items():
        if draw < share:
            return use
        draw -= share
    return use


def all_questions(world: World) -> list[Question]:
    """Every question the world allows, each with its use."""
    return [*_capitals(world), *_sums(), *_letter_counts(world), *_spellings(world)]


def _capitals(world: World) -> list[Question]:
    return [
        Question("capitals", w.format(country), capital, use_of(f"capital {i} {country}"), (country,))
        for country, capital in world.capital_of.items()
        for i, w in enumerate(_CAPITAL_WORDINGS)
    ]


def sum_use(a: int, b: int) -> str:
    """Use of a sum: `a+b` and `b+a` belong together."""
    return use_of(f"sum {min(a, b)} {max(a, b)}")


def _sums() -> list[Question]:
    numbers = range(10, 100)
    return [
        Question("sums", f"What is {a}+{b}?", str(a + b), sum_use(a, b), (str(a), str(b)))
        for a in numbers
        for b in numbers
    ]


def counted_letters(word: str) -> list[str]:
    """Letters worth asking about: all that stand in the word, and three that do not."""
    absent = sorted(set("aeinorst") - set(word))
    return sorted(set(word)) + random.Random(f"letters {word}").sample(absent, min(3, len(absent)))


def _letter_counts(world: World) -> list[Question]:
    return [
        Question(
            "letter_counts",
            COUNT_QUESTION.format(letter=letter, word=word),
            str(word.count(letter)),
            use_of(f"count {letter} {word}", _COUNT_USES),
            (word, letter),
        )
        for word in world.words
        for letter in counted_letters(word)
    ]


def _spellings(world: World) -> list[Question]:
    return [
        Question("spelling", f"Spell the word {word}.", " ".join(word), use_of(f"spell {word}"), (word,))
        for word in world.words
    ]


def gold_chat(question: Question, worked: bool) -> WorldText:
    """The question with its gold answer as a rendered chat, factors on both.

    The text is `<|user|>…<|assistant|>…<|end|>`; the part after `<|assistant|>` is what SFT learns.
    """
    scribe = Scribe()
    scribe.write(USER)
    start = scribe.length
    _write_prompt(scribe, question)
    scribe.mark(start, "dialogue/question")
    scribe.write(ASSISTANT)
    start = scribe.length
    _write_answer(scribe, question, worked)
    scribe.mark(start, "dialogue/answer", "form/worked" if worked else "form/direct")
    scribe.write(END)
    return scribe.finish(_DOCUMENT_KIND[question.task])


_DOCUMENT_KIND = {"capitals": "capitals", "sums": "sums", "letter_counts": "counts", "spelling": "spelling"}


def _write_prompt(scribe: Scribe, question: Question) -> None:
    if question.task == "sums":
        scribe.write("What is ")
        write_sum(scribe, int(question.about[0]), int(question.about[1]))
        scribe.write("?")
    elif question.task == "letter_counts":
        word, letter = question.about
        scribe.write("How many times does the letter ").write(letter, f"letter/counted/{letter}")
        scribe.write(f" stand in {word}?")
    elif question.task == "capitals":
        country = question.about[0]
        before, after = question.prompt.split(country)
        scribe.write(before).write(country, f"entity/place/country/{country}").write(after)
    else:
        scribe.write(question.prompt)


def _write_answer(scribe: Scribe, question: Question, worked: bool) -> None:
    if question.task == "capitals":
        scribe.write("It is ").write(question.result, f"entity/place/capital/{question.result}")
    elif question.task == "spelling":
        write_spelling(scribe, question.about[0])
    elif question.task == "sums":
        if worked:
            scribe.write(OPENINGS[question.task] + " ")
            write_steps(scribe, int(question.about[0]), int(question.about[1]))
        scribe.write(", so it is " if worked else "It is ")
        write_number(scribe, int(question.result), "arithmetic/result")
    else:
        if worked:
            scribe.write(OPENINGS[question.task] + " ")
            write_counting(scribe, *question.about)
        scribe.write(", so it is " if worked else "It is ")
        scribe.write(question.result, f"number/count/{question.result}")
    scribe.write(".")


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a checker says of one completion."""

    right: bool
    well_formed: bool
    worked: bool


def judge(task: str, result: str, completion: str, ended: bool) -> Judged:
    """Check a completion (text before `<|end|>`) against the gold result.

    Well formed: one of the answer forms, whole, and ended by the model itself. Right: well formed and
    the result equals the gold one. An unknown task raises `KeyError`.
    """
    match = _FORMS[task].fullmatch(completion.strip())
    well_formed = match is not None and ended
    right = well_formed and match is not None and match["result"] == result
    return Judged(right, well_formed, completion.strip().startswith(tuple(OPENINGS.values())))


def choose(questions: Sequence[Question], use: str, task: str | None = None) -> list[Question]:
    """The questions for a use (and task), in their fixed order."""
    return [q for q in questions if q.use == use and task in (None, q.task)]
