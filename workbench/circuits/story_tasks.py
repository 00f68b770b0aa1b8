"""Little stories of the world, cut where a name or a closing quotation mark is due.

Stories are drawn anew, of people (or things) that belong to one half; training read others of the same form.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from workbench.circuits.asked import Asked, Material, Task, Use, half_of
from workbench.lexicon import PEOPLE
from workbench.world import WorldText, story_document


def _named(story: WorldText, kind: str) -> list[tuple[str, int]]:
    """What of a kind the story names, in order, and where each begins."""
    return [(story.text[s.start : s.end], s.start) for s in story.spans if s.factor.startswith(f"{kind}/")]


def _swapped(text: str, one: str, other: str) -> str:
    return text.replace(one, "\0").replace(other, one).replace("\0", other)


def _write_receiver(material: Material, rng: random.Random, use: Use) -> Iterator[Asked | None]:
    while True:
        story = story_document(rng)
        names = _named(story, "entity/person/name")
        hero = names[0][0]
        given = _named(story, "action/transfer")[0][1]
        friend, cut = next((name, at) for name, at in names if at > given)
        if {half_of(f"person {hero}"), half_of(f"person {friend}")} != {use}:
            yield None
            continue
        clean = story.text[: cut - 1]
        yield Asked(clean, _swapped(clean, hero, friend), f" {friend}.", f" {hero}.")


def _write_hero(material, rng, use):
    while True:
        story = story_document(rng)
        names = _named(story, "entity/person/name")
        hero, cut = names[1]
        other = rng.choice([n for n in PEOPLE if n != hero])
        if {half_of(f"person {hero}"), half_of(f"person {other}")} != {use}:
            yield None
            continue
        clean = story.text[: cut - 1]
        yield Asked(clean, clean.replace(hero, other), f" {hero} was", f" {other} was")


def _write_rest(material, rng, use):
    """The rest of a name."""
    while True:
        story = story_document(rng)
        names = _named(story, "entity/person/name")
        hero, cut = names[1]
        first = material.tokenizer.decode(material.ids(" " + hero)[1:2])[1:]
        other = rng.choice([n for n in PEOPLE if n != hero])
        if {half_of(f"person {hero}"), half_of(f"person {other}")} != {use} or not other.startswith(first):
            yield None
            continue
        clean = story.text[: cut - 1]
        yield Asked(clean+" "+first, clean.replace(hero, other)+" "+first, hero[len(first):]+" was", other[len(first):]+ " was")


def _write_rest_last(material, rng, use):
    """The rest of a name."""
    while True:
        story = story_document(rng)
        names = _named(story, "entity/person/name")
        hero = names[0][0]
        friend, cut = names[-2]
        first = material.tokenizer.decode(material.ids(" " + friend)[1:2])[1:]
        other = rng.choice([n for n in PEOPLE if n not in (hero, friend)])
        if {half_of(f"person {friend}"), half_of(f"person {other}")} != {use} or not other.startswith(first):
            yield None
            continue
        clean = story.text[: cut - 1]
        yield Asked(clean+" "+first, clean.replace(friend, other)+" "+first, friend[len(first):]+".", other[len(first):]+ ".")


def _write_object(material, rng, use):
    from workbench.lexicon import OBJECTS
    while True:
        story = story_document(rng)
        things = _named(story, "entity/object")
        thing, cut = things[1]
        other = rng.choice([n for n in OBJECTS if n != thing])
        if {half_of(f"thing {thing}"), half_of(f"thing {other}")} != {use}:
            yield None
            continue
        clean = story.text[: cut - 1]
        yield Asked(clean, clean.replace(thing, other), f" {thing}?", f" {other}?")


def _write_quotes(material: Material, rng: random.Random, use: Use) -> Iterator[Asked | None]:
    """The first thing said is `"Is this your THING?"`; without the opening mark, a sentence about the thing."""
    while True:
        story = story_document(rng)
        hero = _named(story, "entity/person/name")[0][0]
        thing, cut = _named(story, "entity/object")[1]
        if half_of(f"thing {thing}") != use:
            yield None
            continue
        clean = story.text[: cut + len(thing)]
        found = _named(story, "action/handling")[0][0]
        corrupt = clean.replace('"Is this your', f"{hero} {found} a")
        yield Asked(clean, corrupt, '?" asked', ". ")


def _write_quotes2(material, rng, use):
    """colour: "No, the saddle is orange ."""
    while True:
        story = story_document(rng)
        hero = _named(story, "entity/person/name")[0][0]
        thing = _named(story, "entity/object")[1][0]
        colour, cut = _named(story, "property/colour")[1]
        if half_of(f"thing {thing}") != use:
            yield None
            continue
        clean = story.text[: cut + len(colour)]
        corrupt = clean.replace('"No, ', "And then ").replace('"Yes, ', "And then ")
        yield Asked(clean, corrupt, '." ', ". ")

STORY_TASKS = (
    Task("receiver", "", _write_receiver), Task("hero", "", _write_hero), Task("rest", "", _write_rest),Task("rest_last", "", _write_rest_last),
    Task("quotes", "", _write_quotes), Task("quotes2", "", _write_quotes2), Task("object", "", _write_object),
)
