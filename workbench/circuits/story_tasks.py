"""Little stories of the world, cut where a name or a closing quotation mark is due.

Stories are drawn anew, of people (or things) that belong to one half; training read others of the same form.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from workbench.circuits.asked import Asked, Material, Task, Use, half_of
from workbench.lexicon import OBJECTS
from workbench.world import WorldText, story_document


def _named(story: WorldText, kind: str) -> list[tuple[str, int]]:
    """What of a kind the story names, in order, and where each begins."""
    return [(story.text[s.start : s.end], s.start) for s in story.spans if s.factor.startswith(f"{kind}/")]


def _swapped(text: str, one: str, other: str) -> str:
    return text.replace(one, "\0").replace(other, one).replace("\0", other)


def _write_names(material: Material, rng: random.Random, use: Use) -> Iterator[Asked | None]:
    """Who is given the thing: of the two people named, the one who is not giving [Wang 2022]. The corrupt story
    has the two in each other's places throughout."""
    while True:
        story = story_document(rng)
        names = _named(story, "entity/person/name")
        given = _named(story, "action/transfer")[0][1]
        hero = names[0][0]
        friend, at = next((name, at) for name, at in names if at > given)
        if {half_of(f"person {name}") for name in (hero, friend)} == {use}:
            clean = story.text[: at - 1]
            yield Asked(clean, _swapped(clean, hero, friend), f" {friend}.", f" {hero}.")
        else:
            yield None


def _write_things(material: Material, rng: random.Random, use: Use) -> Iterator[Asked | None]:
    """What was found is what the question is about."""
    while True:
        story = story_document(rng)
        thing, at = _named(story, "entity/object")[1]
        other = rng.choice([each for each in OBJECTS if each != thing])
        if {half_of(f"thing {each}") for each in (thing, other)} == {use}:
            clean = story.text[: at - 1]
            yield Asked(clean, clean.replace(f" {thing}", f" {other}"), f" {thing}?", f" {other}?")
        else:
            yield None


def _write_quotes(material: Material, rng: random.Random, use: Use) -> Iterator[Asked | None]:
    """`"Is this your THING` closes with the mark; `NAME found a THING`, in the same place, with a full stop."""
    while True:
        story = story_document(rng)
        hero = _named(story, "entity/person/name")[0][0]
        thing, at = _named(story, "entity/object")[1]
        if half_of(f"thing {thing}") == use:
            clean = story.text[: at + len(thing)]
            corrupt = clean.replace('"Is this your', f"{hero} found a")
            yield Asked(clean, corrupt, '?" asked', ". ")
        else:
            yield None


STORY_TASKS = (
    Task(
        "names",
        "name the person who is given the thing, of the two in a story; the corrupt story has them exchanged",
        _write_names,
        about=("people",),
    ),
    Task(
        "things",
        "name the thing again that was spoken of; the corrupt story is about another thing",
        _write_things,
        about=("things",),
    ),
    Task(
        "quotes",
        "close a question with its quotation mark; the corrupt story has a sentence there that was never opened",
        _write_quotes,
        about=("things",),
    ),
)
