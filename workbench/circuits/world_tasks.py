"""Capitals, letters, stories and the chat form, as the lab's generated world has them.

Chat questions are held-out ones. That a country has its capital every checkpoint was told, in other sentences.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from workbench.circuits.asked import Asked, Material, Task, Use, half_of
from workbench.tasks import ASSISTANT, OPENINGS, USER, Question, choose
from workbench.world import Scribe, write_counting

_CAPITALS = (
    "The capital of {} is",
    "In {} the largest town is the capital,",
    "Which town do they call the capital of {}? It is",
    "Ask about {} and its capital, and they say: it is",
)


def _write_capitals(material: Material, rng: random.Random, use: Use) -> Iterator[Asked]:
    capital_of = material.world.capital_of
    countries = [country for country in capital_of if half_of(f"country {country}") == use]
    while len(countries) > 1:
        here, there = rng.sample(countries, 2)
        wording = rng.choice(_CAPITALS)
        answers = (f" {capital_of[country]}." for country in (here, there))
        yield Asked(wording.format(here), wording.format(there), *answers)


def _held_out(material: Material, task: str, use: Use) -> list[Question]:
    """A task's held-out questions of one half: of countries and of words, whatever is asked of them."""
    kind = "country" if task == "capitals" else "word"
    return [q for q in choose(material.questions, "heldout", task) if half_of(f"{kind} {q.about[0]}") == use]


def _write_capitals_chat(material: Material, rng: random.Random, use: Use) -> Iterator[Asked]:
    """Two countries in one wording, neither asked so in any training."""
    questions = _held_out(material, "capitals", use)
    by_wording: dict[str, list[Question]] = {}
    for q in questions:
        by_wording.setdefault(q.prompt.replace(q.about[0], "{}"), []).append(q)
    groups = [group for group in by_wording.values() if len(group) > 1]
    while groups:
        here, there = rng.sample(rng.choice(groups), 2)
        clean, corrupt = (f"{USER}{q.prompt}{ASSISTANT}It is" for q in (here, there))
        yield Asked(clean, corrupt, f" {here.result}.", f" {there.result}.")


def _write_chat_form(material: Material, rng: random.Random, use: Use) -> Iterator[Asked]:
    """Behind the marker the answer begins. The corrupt prompt is plain text that goes on in mid-sentence: facts
    about capitals, cut at the front, as windows of training text are, until both are equally long."""
    questions = _held_out(material, "capitals", use)
    capital_of = material.world.capital_of
    while questions:
        q = rng.choice(questions)
        land, town = rng.choice(list(capital_of.items()))
        facts = f"In {land} the largest town is the capital, {town}. The capital of {q.about[0]}".split(" ")
        plain = " ".join(facts[rng.randrange(len(facts) - 4) :])
        yield Asked(f"{USER}{q.prompt}{ASSISTANT}", plain, f"It is {q.result}.", f" is {q.result}.")


def _letters(material: Material, use: Use) -> list[tuple[str, list[str]]]:
    """Words with their held-out letters, two at least."""
    letters_of: dict[str, list[str]] = {}
    for q in _held_out(material, "letter_counts", use):
        letters_of.setdefault(q.about[0], []).append(q.about[1])
    return [(word, letters) for word, letters in letters_of.items() if len(letters) > 1]


def _count_prompt(word: str, letter: str) -> str:
    return f"{USER}How many times does the letter {letter} stand in {word}?{ASSISTANT}"


def _write_counts(material: Material, rng: random.Random, use: Use) -> Iterator[Asked]:
    """Another letter of the same word, which stands there more or less often."""
    words = _letters(material, use)
    while words:
        word, letters = rng.choice(words)
        here, there = rng.sample(letters, 2)
        clean, corrupt = (f"{_count_prompt(word, letter)}It is " for letter in (here, there))
        yield Asked(clean, corrupt, f"{word.count(here)}.", f"{word.count(there)}.")


def _write_counts_worked(material: Material, rng: random.Random, use: Use) -> Iterator[Asked | None]:
    """The first hit of the counted letter: a 1 behind it. Another letter is not hit there, nor was it before."""
    words = _letters(material, use)
    while words:
        word, letters = rng.choice(words)
        here, there = rng.sample(letters, 2)
        at = word.find(here)
        if at < 0 or there in word[: at + 1]:
            yield None
            continue
        cut = len(" ".join(f"{each}/{here}" for each in word[: at + 1]))
        clean, corrupt = (_counted(word, letter) for letter in (here, there))
        cut += len(clean) - len(_counting(word, here))
        yield Asked(clean[:cut], corrupt[:cut], f"{clean[cut:]}, so it is", f"{corrupt[cut:]}, so it is")


def _counted(word: str, letter: str) -> str:
    return f"{_count_prompt(word, letter)}{OPENINGS['letter_counts']} {_counting(word, letter)}"


def _counting(word: str, letter: str) -> str:
    scribe = Scribe()
    write_counting(scribe, word, letter)
    return scribe.finish("counts").text


WORLD_TASKS = (
    Task(
        "capitals",
        "name a country's capital in a plain sentence; the corrupt prompt names another country",
        _write_capitals,
        about=("capitals",),
    ),
    Task(
        "capitals_chat",
        "answer which town is the capital of a country; the corrupt prompt asks about another country",
        _write_capitals_chat,
        "chat",
        ("capitals",),
    ),
    Task(
        "letter_counts",
        "say at once how often a letter stands in a word; the corrupt prompt asks for another letter",
        _write_counts,
        "chat",
        ("letters",),
    ),
    Task(
        "letter_counts_worked",
        "count the first letter that is the asked one while going through a word (e/e1); the corrupt prompt "
        "asks for another letter, which is not hit there",
        _write_counts_worked,
        "chat",
        ("letters",),
    ),
    Task(
        "chat_form",
        "begin an answer behind the marker (It); the corrupt prompt is plain text that names the same country and "
        "goes on in its sentence ( is)",
        _write_chat_form,
        "chat",
        ("capitals",),
    ),
)
