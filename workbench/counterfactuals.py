"""Texts in which one factor decides the answer, each with the answer another factor would have led to.

    country    The capital of Norvia is …        another country: its capital
    units      23+45=68                          another units digit of the first number: 6 and another digit
    tens       the same with the tens digit
    operator   23+45=…, 68-45=…                  the other operator: the first digit of the other result

All have a plain and (but for operators) a chat wording. Sums are held out from every kind of training.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from workbench.lexicon import World
from workbench.tasks import ASSISTANT, END, USER, sum_use

GROUPS = ("country", "units", "tens", "operator")
PREFIXES = {
    "country": "entity/place/country",
    "units": "number/units",
    "tens": "number/tens",
    "operator": "operator",
}


class Counterfactual(NamedTuple):
    """`text` up to the answer; characters `start`…`stop` of it carry `factor`. With `other` in its place the
    answer would be `other_answer`."""

    group: str
    text: str
    start: int
    stop: int
    factor: str
    other: str
    answer: str
    other_answer: str
    end: str
    chat: bool


Maker = Callable[[random.Random, World], Counterfactual]


def counterfactuals(world: World, seed: int = 0) -> Iterator[Counterfactual]:
    """Without end, the groups in turn."""
    rng = random.Random(f"counterfactuals {seed}")
    makers = (_country, _digit("units"), _digit("tens"), _operator)
    while True:
        for make in makers:
            yield make(rng, world)


def _country(rng: random.Random, world: World) -> Counterfactual:
    here, there = rng.sample(world.countries, 2)
    before, after, end, chat = rng.choice(
        (
            ("The capital of ", " is", ".", False),
            ("In ", " the largest town is the capital,", ".", False),
            (f"{USER}What is the capital of ", f"?{ASSISTANT}It is", f".{END}", True),
            (f"{USER}Name the capital of ", f".{ASSISTANT}It is", f".{END}", True),
        )
    )
    text = f"{before}{here}{after}"
    span = (len(before), len(before) + len(here))
    factors = (f"entity/place/country/{here}", f"entity/place/country/{there}")
    answers = (f" {world.capital_of[here]}", f" {world.capital_of[there]}")
    return Counterfactual("country", text, *span, *factors, *answers, end, chat)


def _heldout_sum(rng: random.Random) -> tuple[int, int]:
    while True:
        a, b = rng.randrange(10, 100), rng.randrange(10, 100)
        if sum_use(a, b) == "heldout":
            return a, b


def _digit(place: str) -> Maker:
    """Another digit at one place of the first addend, and the digit of the sum that it changes; the other digits
    of the sum stay, so that one token decides."""

    def make(rng: random.Random, world: World) -> Counterfactual:
        a, b = _heldout_sum(rng)
        at = 1 if place == "units" else 0
        digit = str(a)[at]
        other = rng.choice([d for d in "0123456789"[1 - at :] if d != digit])
        shift = (int(other) - int(digit)) * (1 if place == "units" else 10)
        total = str(a + b)
        where = len(total) - 1 if place == "units" else len(total) - 2
        new = str(a + shift + b).zfill(len(total))[-len(total) :][where]
        answers = (total, total[:where] + new + total[where + 1 :])
        chat = rng.random() < 0.5
        before, after, end = (
            (f"{USER}What is ", f"+{b}?{ASSISTANT}It is ", f".{END}") if chat else ("", f"+{b}=", ".\n")
        )
        start = len(before) + at
        factors = (f"number/{place}/{digit}", f"number/{place}/{other}")
        return Counterfactual(place, f"{before}{a}{after}", start, start + 1, *factors, *answers, end, chat)

    return make


def _operator(rng: random.Random, world: World) -> Counterfactual:
    a, b = _heldout_sum(rng)
    if rng.random() < 0.5:
        left, sign, right, answers = a + b, "-", b, (str(a), str(a + 2 * b))
    else:
        a, b = max(a, b), min(a, b)
        left, sign, right, answers = a, "+", b, (str(a + b), str(a - b))
    names = {"+": "operator/plus", "-": "operator/minus"}
    other = names["-" if sign == "+" else "+"]
    start = len(str(left))
    text = f"{left}{sign}{right}="
    return Counterfactual("operator", text, start, start + 1, names[sign], other, *answers, ".\n", False)
