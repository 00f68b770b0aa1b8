"""Entering what separately trained SAEs are matched by in the lab's recipe: another seed, and paths."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from saes.config import SPARSE
from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.matched_saes import chosen, other_seed
from workbench.plan import Plan, plan
from workbench.recipe import PathsConfig, read_recipe, stage_of, write_recipe


def request_seeds(lab: Lab, names: Sequence[str]) -> None:
    """Enter another seed of each checkpoint's SAE, trained alike: what two of one checkpoint have in common is the
    floor of what two checkpoints have. Where a checkpoint has no SAE of its own there is nothing to match."""
    with lab.writing("compare"):
        recipe = read_recipe(lab.path / "recipe.toml")
        own = chosen(recipe, names)
        there = {config.checkpoints for config in own.seeds}
        wanted = [other_seed(config) for config in own.saes if own.complete and config.checkpoints not in there]
        taken = {d.name for d in recipe.dictionaries} & {d.name for d in wanted}
        if taken:
            raise Misuse(f"the recipe has another dictionary called {min(taken)!r}: rename it there")
        if wanted:
            changed = dataclasses.replace(recipe, dictionaries=(*recipe.dictionaries, *wanted))
            plan(changed)
            write_recipe(lab.path / "recipe.toml", changed)


def request_paths(lab: Lab, names: Sequence[str]) -> list[str]:
    """Enter the paths from each of the checkpoints to those of the others that descend from it; their names."""
    if snapshot := next((name for name in names if stage_of(name) != name), None):
        raise Misuse(f"{snapshot!r} is a snapshot: --paths leads between finished checkpoints, leave it out")
    with lab.writing("compare"):
        current = Plan.of(lab)
        recipe = current.recipe
        parents = {name: current.parent_checkpoint(name) for name in names}
        pairs = [(str(parent), child) for child, parent in parents.items() if parent in names]
        if not pairs:
            raise Misuse(
                f"none of {', '.join(names)} was trained from another of them: --paths leads from a parent "
                "to its child"
            )
        own = chosen(recipe, names)
        like = own.saes[0] if own.saes else next((d for d in recipe.dictionaries if d.kind == "sae"), None)
        if like is None or like.arch not in SPARSE:
            found = "none" if like is None else like.arch
            raise Misuse(
                f"paths fine-tune an SAE of {', '.join(SPARSE)}, found {found}: train one with "
                f"`python -m workbench sae {lab.name} --checkpoint {names[0]}`"
            )
        known = {(walk.parent, walk.child): walk.name for walk in recipe.paths}
        wanted = [PathsConfig(*pair, like.name) for pair in pairs if pair not in known]
        if wanted:
            changed = dataclasses.replace(recipe, paths=(*recipe.paths, *wanted))
            plan(changed)
            write_recipe(lab.path / "recipe.toml", changed)
    return [known.get(pair) or PathsConfig(*pair, like.name).name for pair in pairs]
