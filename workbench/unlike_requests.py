"""Entering comparisons of checkpoints that cannot be laid side by side token by token in the lab's recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.likeness import checked_names, headline, portraits, reasons
from workbench.naming import short_name
from workbench.plan import Plan, plan
from workbench.recipe import Recipe, UnlikeConfig, read_recipe, stage_of, write_recipe

PREFIX = "unlike"


def what_keeps_apart(lab: Lab, names: Sequence[str]) -> str:
    """Why these checkpoints cannot be laid side by side token by token, in a sentence; empty where they can.

    Names that are none, given twice or fewer than two are `Misuse`."""
    checked = checked_names(names)
    why = reasons(portraits(lab, checked))
    return headline(checked, why) if why else ""


def request_unlike(lab: Lab, names: Sequence[str]) -> str:
    """Name of the comparison of these unlike checkpoints, entered in the recipe if it is new. `grow` builds it."""
    checked = checked_names(names)
    if snapshot := next((name for name in checked if stage_of(name) != name), None):
        raise Misuse(
            f"{snapshot!r} is a snapshot, and of unlike checkpoints whole ones are compared: "
            f"name {stage_of(snapshot)!r}"
        )
    with lab.writing("compare"):
        recipe = read_recipe(lab.path / "recipe.toml")
        if (known := unlike_of(recipe, checked)) is not None:
            return known.name
        made = UnlikeConfig(short_name(f"{PREFIX}-{'-'.join(checked)}"), checked)
        if any(step.name == made.name for step in plan(recipe).steps.values()):
            raise Misuse(f"the recipe has something else called {made.name!r}: rename it there")
        changed = dataclasses.replace(recipe, unlike=(*recipe.unlike, made))
        plan(changed)
        write_recipe(lab.path / "recipe.toml", changed)
    return made.name


def unlike_of(recipe: Recipe, names: Sequence[str]) -> UnlikeConfig | None:
    """The recipe's comparison of just these unlike checkpoints, in any order."""
    return next((config for config in recipe.unlike if set(config.checkpoints) == set(names)), None)


def refuse_unlike(lab: Lab, names: Sequence[str], what: str) -> None:
    """`Misuse` if these have been compared as unlike ones: `what` needs checkpoints of one family."""
    if unlike_of(Plan.of(lab).recipe, names) is not None:
        raise Misuse(
            f"{what} needs checkpoints of one family, and {', '.join(names)} are not: "
            f"`python -m workbench compare {lab.name} {' '.join(names)}` says what can be compared of them"
        )
