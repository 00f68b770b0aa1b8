"""Checkpoints beside the lineage that tell what a stage did from what would have happened anyway.

    <stage>-sham      the parent trained on, on its own data, for as many steps
    <stage>-sibling   the stage again from the same parent, with another seed of data and sampling
    grpo-from-base    reinforcement without supervised finetuning before it

"This stage added X" is credible only where its sham and its sibling do not show X [METHODS 2].
"""

from __future__ import annotations

import dataclasses
import itertools

from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.plan import plan
from workbench.recipe import (
    BRANCH,
    SHAM,
    SIBLING,
    STAGES,
    BranchConfig,
    Recipe,
    read_recipe,
    write_recipe,
)


def control_of(stage: str, kind: str) -> str:
    """The name of a stage's control."""
    return f"{stage}-{kind}"


def controls(recipe: Recipe) -> tuple[BranchConfig, ...]:
    """Sham and sibling of every stage after base, and GRPO from base."""
    made = []
    for parent, stage in itertools.pairwise(STAGES):
        for kind in (SHAM, SIBLING):
            seed = recipe.stage(stage).seed + 1
            made.append(BranchConfig(control_of(stage, kind), kind, of=stage, parent=parent, seed=seed))
    made.append(BranchConfig("grpo-from-base", BRANCH, of="grpo", parent="base", seed=recipe.grpo.seed))
    return tuple(made)


def with_controls(recipe: Recipe) -> Recipe:
    """The recipe with every control that it lacks."""
    missing = [c for c in controls(recipe) if c not in recipe.branches]
    taken = {*recipe.checkpoint_names} & {c.name for c in missing}
    if taken:
        raise Misuse(
            f"the recipe has another checkpoint called {min(taken)!r}, the name of a control: rename it there"
        )
    return dataclasses.replace(recipe, branches=(*recipe.branches, *missing))


def request_controls(lab: Lab) -> tuple[str, ...]:
    """Write the controls into the lab's recipe; `grow` then trains them. Returns their names."""
    with lab.writing("controls"):
        recipe = read_recipe(lab.path / "recipe.toml")
        changed = with_controls(recipe)
        plan(changed)  # refuses what cannot be built before anything is written
        if changed != recipe:
            write_recipe(lab.path / "recipe.toml", changed)
    return tuple(c.name for c in controls(changed))
