"""Entering tuned lenses that a person asked for in the lab's recipe."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from workbench.dictionary_requests import known_checkpoint
from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.plan import Plan, plan
from workbench.recipe import joined, read_recipe, stage_of, write_recipe


def request_lenses(lab: Lab, names: Sequence[str]) -> tuple[str, ...]:
    """Enter these checkpoints, or snapshots, to have a tuned lens; their names. `grow` fits them."""
    wanted = tuple(names)
    if not wanted:
        raise Misuse("no checkpoint is named: name one or more, such as base sft grpo")
    if twice := [name for name, n in Counter(wanted).items() if n > 1]:
        raise Misuse(f"{', '.join(twice)} {'is' if len(twice) == 1 else 'are'} named twice: name each once")
    current = Plan.of(lab)
    for name in wanted:
        current.step("checkpoint", stage_of(name))  # near names are offered for unknown ones
        if stage_of(name) != name:
            known_checkpoint(lab, name)
        if joined([name]) != name and joined([name]) in current.recipe.checkpoint_names:
            raise Misuse(
                f"a checkpoint is called like the snapshot {name!r}, {joined([name])}: rename it in the recipe"
            )
    with lab.writing("lens"):
        recipe = read_recipe(lab.path / "recipe.toml")
        lenses = tuple(dict.fromkeys((*recipe.lenses, *wanted)))
        if lenses != recipe.lenses:
            changed = dataclasses.replace(recipe, lenses=lenses)
            plan(changed)
            write_recipe(lab.path / "recipe.toml", changed)
    return wanted
