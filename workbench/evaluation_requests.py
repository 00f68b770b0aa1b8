"""Entering evaluations of dictionaries that a person asked for in the lab's recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.plan import plan
from workbench.recipe import read_recipe, write_recipe


def request_evaluation(lab: Lab, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Enter the dictionaries (all of the recipe if none is named) to be evaluated; returns their names."""
    with lab.writing("evaluate"):
        recipe = read_recipe(lab.path / "recipe.toml")
        if not recipe.dictionaries:
            raise Misuse(f"lab {lab.name!r} has no dictionaries to evaluate: train one with the command `sae`")
        wanted = tuple(dict.fromkeys(names)) or tuple(d.name for d in recipe.dictionaries if not d.minus)
        for name in wanted:
            if minus := recipe.dictionary(name).minus:
                raise Misuse(
                    f"{name!r} reads what a checkpoint has more than {minus}: neither factors nor controls of "
                    "one model judge that; its FVU and CE score are in `status`"
                )
        evaluations = tuple(dict.fromkeys((*recipe.evaluations, *wanted)))
        if evaluations != recipe.evaluations:
            changed = dataclasses.replace(recipe, evaluations=evaluations)
            plan(changed)
            write_recipe(lab.path / "recipe.toml", changed)
    return wanted
