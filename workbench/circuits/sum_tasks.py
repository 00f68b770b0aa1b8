"""Sums of two numbers: the steps of the worked form, the direct answer, and which of the two forms is begun.

No training saw the sums that are asked, in either prompt. The corrupt prompt has another digit at one place of one
addend, wherever that digit is written, so both prompts are true texts.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Literal

from workbench.circuits.asked import Asked, Material, Task, Use, half_of
from workbench.tasks import ASSISTANT, OPENINGS, USER, Question, choose, sum_use
from workbench.world import Scribe, write_steps

_NUMBERS = range(10, 100)
_OPENING = OPENINGS["sums"]


@functools.cache
def _sums(use: Use) -> list[tuple[int, int]]:
    """Held-out sums of one half; `a+b` and `b+a` belong together."""
    return [
        (a, b)
        for a in _NUMBERS
        for b in _NUMBERS
        if sum_use(a, b) == "heldout" and half_of(f"sum {min(a, b)} {max(a, b)}") == use
    ]


def _steps(a: int, b: int) -> str:
    scribe = Scribe()
    write_steps(scribe, a, b)
    return scribe.finish("sums").text


def _other_digit(rng: random.Random, a: int, b: int, place: int) -> tuple[int, int]:
    """The sum with another digit in the units (place 1) or tens (place 10) of one addend."""
    addends = [a, b]
    at = rng.randrange(2)
    addends[at] += place * (rng.randrange(place == 10, 10) - addends[at] // place % 10)
    return addends[0], addends[1]


def _carries(a: int, b: int) -> bool:
    return a % 10 + b % 10 > 9


def _worked(a: int, b: int, chat: bool, step: int) -> tuple[str, str]:
    """The worked text up to the `=` of a step (1: units, 2: tens), and what follows."""
    before, between = (USER, ASSISTANT) if chat else ("", "\n")
    text = f"{before}What is {a}+{b}?{between}{_OPENING} {_steps(a, b)}"
    at = -1
    for _ in range(step):
        at = text.index("=", at + 1)
    return text[: at + 1], text[at + 1 :] + ", so it is"


def _write_step(
    material: Material, rng: random.Random, use: Use, place: int, carry: bool, chat: bool
) -> Iterator[Asked | None]:
    """A step's result; with `carry`, one of the two sums carries and the other does not, else neither does."""
    sums = _sums(use)
    known = set(sums)
    while True:
        a, b = rng.choice(sums)
        c, d = _other_digit(rng, a, b, place)
        carried = (_carries(a, b), _carries(c, d))
        wanted = carried[0] != carried[1] if carry else not any(carried)
        one_digit = place == 1 or max(a // 10 + b // 10, c // 10 + d // 10) < 10
        if (c, d) in known and wanted and one_digit:
            texts = (_worked(x, y, chat, 1 if place == 1 else 2) for x, y in ((a, b), (c, d)))
            (clean, answer), (corrupt, other) = texts
            yield Asked(clean, corrupt, answer, other)
        else:
            yield None


def _write_direct(material: Material, rng: random.Random, use: Use) -> Iterator[Asked | None]:
    """The first digit of a direct answer of two digits."""
    sums = _sums(use)
    known = set(sums)
    while True:
        a, b = rng.choice(sums)
        c, d = _other_digit(rng, a, b, 10)
        if (c, d) in known and a + b < 100 and c + d < 100:
            clean, corrupt = (f"{USER}What is {x}+{y}?{ASSISTANT}It is " for x, y in ((a, b), (c, d)))
            yield Asked(clean, corrupt, f"{a + b}.", f"{c + d}.")
        else:
            yield None


def _write_form(material: Material, rng: random.Random, use: Use) -> Iterator[Asked]:
    """How the answer to a sum begins, beside a question about a capital, which is never worked."""
    sums = _sums(use)
    capitals = [q for q in choose(material.questions, "heldout", "capitals") if _is_for(q, use)]
    lengths = [len(material.ids(q.prompt)) for q in capitals]
    a, b = sums[0]
    wanted = len(material.ids(f"What is {a}+{b}?"))
    equal = [q for q, length in zip(capitals, lengths, strict=True) if length == wanted]
    while equal:
        a, b = rng.choice(sums)
        capital = rng.choice(equal)
        clean, corrupt = (f"{USER}{prompt}{ASSISTANT}" for prompt in (f"What is {a}+{b}?", capital.prompt))
        yield Asked(clean, corrupt, f"{_OPENING} ", f"It is {capital.result}.")


def _is_for(question: Question, use: Use) -> bool:
    return half_of(f"country {question.about[0]}") == use


def _step_tasks() -> Iterator[Task]:
    told = {
        "units": "add the units inside a worked sum (3&5=); the corrupt prompt has another units digit",
        "tens": "add the tens inside a worked sum (2+4=); the corrupt prompt has another tens digit",
        "carry": "tell at the units of a worked sum whether a carry comes (8&7=1, 8&1=9); "
        "the corrupt prompt has another units digit, and carries where the clean one does not or the reverse",
    }
    for name, question in told.items():
        for chat in (False, True):
            place = 10 if name == "tens" else 1
            write = functools.partial(_write_step, place=place, carry=name == "carry", chat=chat)
            wording: Literal["plain", "chat"] = "chat" if chat else "plain"
            yield Task(f"sums_{name}{'_chat' if chat else ''}", question, write, wording, ("sums",))


SUM_TASKS = (
    *_step_tasks(),
    Task(
        "sums_direct",
        "say the first digit of a sum without steps; the corrupt prompt has another tens digit",
        _write_direct,
        "chat",
        ("sums",),
    ),
    Task(
        "answer_form",
        "begin the answer to a sum with its steps (Step) and not with the result (It); "
        "the corrupt prompt asks for a capital, which is always told directly",
        _write_form,
        "chat",
        ("sums", "capitals"),
    ),
)
