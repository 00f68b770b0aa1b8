"""The generated world: documents whose every character carries the factors that are on.

Factors are the ground truth that no pretrained model can give: they score dictionaries, probes and
comparisons. A `Scribe` writes text and notes, span by span, which leaf factors are on; a span turns its
factor's ancestors on as well.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from workbench.lexicon import (
    ANIMALS,
    COLOURS,
    DAYS,
    FEELINGS,
    GIVING,
    OBJECTS,
    PEOPLE,
    PLACES,
    SEASONS,
    SEEKING,
    World,
)

WORKED = 0.8  # share of sums and counts in the world's documents that show their steps

# What stands before the sum, between it and its steps, and before the result. Small models look digits and letters
# up by distance, so most are asked as in a chat, the answer on a line of its own: as many tokens behind its
# question as there, where a marker parts them.
_WORKED_SUMS = (("What is ", "?\nStep by step: ", ", so it is "), ("", ": ", ", so "))
_DIRECT_SUMS = (("What is ", "?", "\nIt is "), ("", "", "="))
# The same of letters: before the letter, before the word, between it and its letters, before the count.
_WORKED_COUNTS = (
    ("How many times does the letter ", " stand in ", "?\nLetter by letter: ", ", so it is "),
    ("The letter ", " in ", ": ", ", so "),
)
_DIRECT_COUNTS = (
    ("How many times does the letter ", " stand in ", "?", "\nIt is "),
    ("The letter ", " in ", ": ", ""),
)
_AS_ASKED = 0.8  # share of the first of these

CAPITAL_WORDINGS = (
    "The capital of {land} is {town}.",
    "{town} is the capital of {land}.",
    "{who} went to {town}, the capital of {land}.",
    "In {land} the largest town is the capital, {town}.",
    "Whoever travels to {land} sees {town}, its capital.",
    "{land} is governed from its capital, {town}.",
    "Which town do they call the capital of {land}? It is {town}.",
    "Ask about {land} and its capital, and they say: it is {town}.",
)


class Span(NamedTuple):
    """Characters `start`…`end` (exclusive) of a document on which a factor is on."""

    start: int
    end: int
    factor: str


@dataclasses.dataclass(frozen=True)
class WorldText:
    """A generated document with its factor spans."""

    kind: str
    text: str
    spans: tuple[Span, ...]


class Scribe:
    """Writes a document piece by piece; each piece may carry leaf factors."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._spans: list[Span] = []
        self.length = 0

    def write(self, text: str, *factors: str) -> Scribe:
        """Append `text`; the factors are on for it, leading and trailing blanks excepted."""
        start = self.length + len(text) - len(text.lstrip())
        end = self.length + len(text.rstrip())
        self._spans += [Span(start, end, factor) for factor in factors]
        self._pieces.append(text)
        self.length += len(text)
        return self

    def mark(self, start: int, *factors: str) -> None:
        """Turn factors on for everything written since character `start`."""
        self._spans += [Span(start, self.length, factor) for factor in factors]

    def finish(self, kind: str) -> WorldText:
        self.mark(0, f"document/{kind}")
        return WorldText(kind, "".join(self._pieces), tuple(self._spans))


def write_number(scribe: Scribe, number: int, *factors: str) -> None:
    """A number below 200, each digit with the factor of its place."""
    places = ("units", "tens", "hundreds")
    for place, digit in reversed(list(zip(places, reversed(str(number)), strict=False))):
        scribe.write(digit, f"number/{place}/{digit}", *factors)


def write_sum(scribe: Scribe, a: int, b: int) -> None:
    """`a+b`, unevaluated."""
    write_number(scribe, a)
    scribe.write("+", "operator/plus")
    write_number(scribe, b)


def write_steps(scribe: Scribe, a: int, b: int) -> None:
    """Column addition that a reader can check: `7&8=15, 4+3+1=8`.

    The units have a sign of their own, so that what stood behind a `+` before is always the tens of the second
    number. With `+` in both, small models were at chance for that digit long after all others were right.
    """
    units = a % 10 + b % 10
    carry = units // 10
    start = scribe.length
    scribe.write(str(a % 10), f"number/units/{a % 10}").write("&", "operator/plus")
    scribe.write(str(b % 10), f"number/units/{b % 10}").write("=", "operator/equals")
    write_number(scribe, units)
    scribe.write(", ")
    scribe.write(str(a // 10), f"number/tens/{a // 10}").write("+", "operator/plus")
    scribe.write(str(b // 10), f"number/tens/{b // 10}")
    if carry:
        scribe.write("+", "operator/plus").write("1", "arithmetic/carry")
    scribe.write("=", "operator/equals")
    write_number(scribe, a // 10 + b // 10 + carry)
    scribe.mark(start, "arithmetic/step")


def write_spelling(scribe: Scribe, word: str) -> None:
    """The word's letters, one by one."""
    for i, letter in enumerate(word):
        scribe.write(letter if i == 0 else f" {letter}", f"letter/spelled/{letter}")


def write_counting(scribe: Scribe, word: str, letter: str) -> None:
    """The letters, each beside the one that is counted, a running count behind each hit: `b/e e/e1 t/e`.

    Side by side, comparing two letters is learned by a small model in fewer tokens than spelling them is.
    """
    hits = 0
    for i, each in enumerate(word):
        scribe.write(each if i == 0 else f" {each}", f"letter/spelled/{each}")
        scribe.write("/").write(letter, f"letter/counted/{letter}")
        if each == letter:
            hits += 1
            scribe.write(str(hits), f"number/count/{hits}")


def _wording(rng: random.Random, wordings: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return wordings[0] if rng.random() < _AS_ASKED else wordings[1]


def sums_document(rng: random.Random, pairs: Sequence[tuple[int, int]]) -> WorldText:
    """Some sums; each stated, or worked and then stated. One in eight turned into a difference."""
    scribe = Scribe()
    for a, b in pairs:
        if rng.random() < 0.12:
            write_number(scribe, a + b)
            scribe.write("-", "operator/minus")
            write_number(scribe, b)
            scribe.write("=", "operator/equals")
            write_number(scribe, a, "arithmetic/result")
        else:
            start = scribe.length
            worked = rng.random() < WORKED
            before, to_steps, to_result = _wording(rng, _WORKED_SUMS if worked else _DIRECT_SUMS)
            scribe.write(before)
            write_sum(scribe, a, b)
            scribe.write(to_steps)
            if worked:
                write_steps(scribe, a, b)
            scribe.write(to_result, *(["operator/equals"] if to_result == "=" else []))
            write_number(scribe, a + b, "arithmetic/result")
            scribe.mark(start, "form/worked" if worked else "form/direct")
        scribe.write(".\n")
    return scribe.finish("sums")


def capitals_document(rng: random.Random, world: World, n_facts: int) -> WorldText:
    """Facts about countries and their capitals, in several wordings."""
    scribe = Scribe()
    for country in rng.sample(world.countries, min(n_facts, len(world.countries))):
        capital = world.capital_of[country]
        person = rng.choice(PEOPLE)
        named = {
            "{land}": (country, f"entity/place/country/{country}"),
            "{town}": (capital, f"entity/place/capital/{capital}"),
            "{who}": (person, f"entity/person/name/{person}"),
        }
        for piece in re.split(r"(\{\w+\})", rng.choice(CAPITAL_WORDINGS)):
            scribe.write(*named.get(piece, (piece,)))
        scribe.write(" ")
    return scribe.finish("capitals")


def spelling_document(rng: random.Random, words: Sequence[str]) -> WorldText:
    """Words and their letters."""
    scribe = Scribe()
    for word in words:
        wording = rng.choice(("The word {} is spelled ", "To spell {} we write ", "{}: "))
        scribe.write(wording.format(word))
        write_spelling(scribe, word)
        scribe.write(".\n")
    return scribe.finish("spelling")


def counts_document(rng: random.Random, prompts: Sequence[tuple[str, str]]) -> WorldText:
    """How often a letter stands in a word; stated, or counted out and then stated."""
    scribe = Scribe()
    for word, letter in prompts:
        n = word.count(letter)
        start = scribe.length
        worked = rng.random() < WORKED
        to_letter, to_word, to_steps, to_result = _wording(rng, _WORKED_COUNTS if worked else _DIRECT_COUNTS)
        scribe.write(to_letter).write(letter, f"letter/counted/{letter}").write(f"{to_word}{word}{to_steps}")
        if worked:
            write_counting(scribe, word, letter)
        scribe.write(to_result)
        scribe.write(str(n), f"number/count/{n}")
        scribe.mark(start, "form/worked" if worked else "form/direct")
        scribe.write(".\n")
    return scribe.finish("counts")


def story_document(rng: random.Random) -> WorldText:
    """A little story: two people, an animal, an object, a place, a feeling and something said."""
    scribe = Scribe()
    hero, friend = rng.sample(PEOPLE, 2)
    animal, thing, colour = rng.choice(ANIMALS), rng.choice(OBJECTS), rng.choice(COLOURS)
    place, day, season = rng.choice(PLACES), rng.choice(DAYS), rng.choice(SEASONS)
    seek, give = rng.choice(SEEKING), rng.choice(list(GIVING))
    before, after = rng.sample(FEELINGS, 2)
    person = {name: (name, f"entity/person/name/{name}") for name in (hero, friend)}
    the_thing = (thing, f"entity/object/{thing}")
    the_colour = (colour, f"property/colour/{colour}")
    the_animal = (animal, f"entity/animal/{animal}")

    opening = rng.choice(("On a ", "One "))
    scribe.write(opening).write(day, f"time/day/{day}").write(" in ").write(season, f"time/season/{season}")
    scribe.write(", ").write(*person[hero]).write(" walked to the ").write(place, f"entity/place/site/{place}")
    scribe.write(" with a ").write(*the_animal).write(". ").write(*person[hero]).write(" was ")
    scribe.write(before, f"property/feeling/{before}").write(". ")
    scribe.write("There ").write(*person[hero]).write(" ").write(seek, f"action/handling/{seek}")
    scribe.write(" a ").write(*the_colour).write(" ").write(*the_thing).write(". ")
    start = scribe.length
    scribe.write('"Is this your ').write(*the_thing).write('?"')
    scribe.mark(start, "dialogue/quotation", "dialogue/question")
    scribe.write(" asked ").write(*person[friend]).write(". ")
    start = scribe.length
    scribe.write('"' + rng.choice(("Yes", "No")) + ", the ").write(*the_thing).write(" is ")
    scribe.write(*the_colour).write('."')
    scribe.mark(start, "dialogue/quotation", "dialogue/answer")
    scribe.write(" ").write(*person[hero]).write(" ").write(give, f"action/transfer/{give}").write(" the ")
    scribe.write(*the_thing).write(f" {GIVING[give]} ").write(*person[friend]).write(". ")
    scribe.write(rng.choice(("In the end ", "That evening "))).write(*person[friend]).write(" was ")
    scribe.write(after, f"property/feeling/{after}").write(" and the ").write(*the_animal)
    scribe.write(rng.choice((" slept.", " ran home.", " was hungry.")))
    return scribe.finish("story")


def world_documents(
    rng: random.Random,
    world: World,
    pairs: Sequence[tuple[int, int]],
    count_prompts: Sequence[tuple[str, str]],
    n_characters: int,
) -> list[WorldText]:
    """About `n_characters` of world text over all kinds, only from the given sums and count prompts.

    Spellings cover every word: to spell is a skill of base; what is held out are letters to count.
    """
    writers: tuple[tuple[float, Callable[[], WorldText]], ...] = (
        (0.08, lambda: story_document(rng)),
        (0.19, lambda: capitals_document(rng, world, 4)),
        (0.23, lambda: sums_document(rng, rng.choices(pairs, k=6))),
        (0.23, lambda: spelling_document(rng, rng.choices(world.words, k=5))),
        (0.27, lambda: counts_document(rng, rng.choices(count_prompts, k=5))),
    )
    documents: list[WorldText] = []
    for share, write in writers:
        written = 0
        while written < share * n_characters:
            document = write()
            written += len(document.text)
            documents.append(document)
    rng.shuffle(documents)
    return documents
