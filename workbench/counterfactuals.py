"""Texts in which one factor decides what comes next, each with what another factor would have led to.

    country    The capital of Norvia is …          another country: its capital
    units      23+45: …                            another units digit: the first step would copy it
    tens       23+45: 3+5=8, …                     another tens digit: the second step would copy it
    operator   23+45…, 68-45…                      behind a sum come its steps (`:`), behind a difference `=`
    person     On a Monday in spring, Anna walked … another name: the next sentence begins with it
    object     Anna found a red ball. "Is this …    another thing: the question is about it

Countries and digits have a plain and a chat wording. Sums are held out from every kind of training.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from workbench.lexicon import ANIMALS, COLOURS, DAYS, OBJECTS, PEOPLE, PLACES, SEASONS, SEEKING, World
from workbench.tasks import ASSISTANT, END, USER, sum_use
from workbench.world import Scribe, write_steps

GROUPS = ("country", "units", "tens", "operator", "person", "object")
PREFIXES = {
    "country": "entity/place/country",
    "units": "number/units",
    "tens": "number/tens",
    "operator": "operator",
    "person": "entity/person/name",
    "object": "entity/object",
}
_ADDENDS = range(10, 100)


class Counterfactual(NamedTuple):
    """`before`, `here`, `after`, then `answer`; with `there` in the place of `here`, `other_answer`."""

    group: str
    before: str
    here: str
    there: str
    after: str
    factor: str  # of `here`
    other: str  # of `there`
    answer: str
    other_answer: str
    chat: bool = False

    @property
    def text(self) -> str:
        return f"{self.before}{self.here}{self.after}"

    @property
    def other_text(self) -> str:
        return f"{self.before}{self.there}{self.after}"


def counterfactuals(world: World, countries: Sequence[str], n: int, seed: int = 0) -> Iterator[Counterfactual]:
    """n of each group, of the given countries alone; a text may come again."""
    rng = random.Random(f"counterfactuals {seed}")
    sums = [(a, b) for a in _ADDENDS for b in _ADDENDS if sum_use(a, b) == "heldout"]
    for _ in range(n):
        if len(countries) > 1:
            yield _country(rng, world, countries)
        for place in ("units", "tens"):
            yield _digit(rng, *rng.choice(sums), place)
        yield _operator(rng, *rng.choice(sums))
        yield _person(rng)
        yield _object(rng)


def _country(rng: random.Random, world: World, countries: Sequence[str]) -> Counterfactual:
    here, there = rng.sample(countries, 2)
    before, after, end, chat = rng.choice(
        (
            ("The capital of ", " is", ".", False),
            ("In ", " the largest town is the capital,", ".", False),
            (f"{USER}What is the capital of ", f"?{ASSISTANT}It is", f".{END}", True),
            (f"{USER}Name the capital of ", f".{ASSISTANT}It is", f".{END}", True),
        )
    )
    factors = (f"{PREFIXES['country']}/{here}", f"{PREFIXES['country']}/{there}")
    answers = (f" {world.capital_of[here]}{end}", f" {world.capital_of[there]}{end}")
    return Counterfactual("country", before, here, there, after, *factors, *answers, chat)


def _digit(rng: random.Random, a: int, b: int, place: str) -> Counterfactual:
    """Another digit at one place of the first addend, and the steps with it."""
    at = 1 if place == "units" else 0
    here = str(a)[at]
    there = rng.choice([d for d in "0123456789"[1 - at :] if d != here])
    other = a + (int(there) - int(here)) * (1 if place == "units" else 10)
    chat = rng.random() < 0.5
    before, after, end = (
        (f"{USER}What is ", f"+{b}?{ASSISTANT}Step by step: ", f".{END}") if chat else ("", f"+{b}: ", ".\n")
    )
    before, after = before + str(a)[:at], str(a)[at + 1 :] + after
    answers = (_steps(a, b) + end, _steps(other, b) + end)
    factors = (f"{PREFIXES[place]}/{here}", f"{PREFIXES[place]}/{there}")
    return Counterfactual(place, before, here, there, after, *factors, *answers, chat)


def _steps(a: int, b: int) -> str:
    scribe = Scribe()
    write_steps(scribe, a, b)
    return scribe.finish("sums").text


def _operator(rng: random.Random, a: int, b: int) -> Counterfactual:
    signs = {"+": ("operator/plus", ": "), "-": ("operator/minus", "=")}
    here, there = rng.sample("+-", 2)
    left = a if here == "+" else a + b
    (factor, answer), (other, other_answer) = signs[here], signs[there]
    return Counterfactual("operator", str(left), here, there, str(b), factor, other, answer, other_answer)


def _person(rng: random.Random) -> Counterfactual:
    """Who walks at the beginning of a story is who the next sentence is about."""
    here, there = rng.sample(PEOPLE, 2)
    before = f"{rng.choice(('On a ', 'One '))}{rng.choice(DAYS)} in {rng.choice(SEASONS)}, "
    after = f" walked to the {rng.choice(PLACES)} with a {rng.choice(ANIMALS)}."
    factors = (f"{PREFIXES['person']}/{here}", f"{PREFIXES['person']}/{there}")
    return Counterfactual("person", before, here, there, after, *factors, f" {here} was", f" {there} was")


def _object(rng: random.Random) -> Counterfactual:
    """What was found is what the question is about."""
    here, there = rng.sample(OBJECTS, 2)
    before = f"There {rng.choice(PEOPLE)} {rng.choice(SEEKING)} a {rng.choice(COLOURS)} "
    factors = (f"{PREFIXES['object']}/{here}", f"{PREFIXES['object']}/{there}")
    answers = (f' {here}?"', f' {there}?"')
    return Counterfactual("object", before, here, there, '. "Is this your', *factors, *answers)
