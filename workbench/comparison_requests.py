"""Entering comparisons that a person asked for in the lab's recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from workbench.branches import request_controls
from workbench.controls import pairs_of
from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.likeness import checked_names
from workbench.naming import short_name
from workbench.plan import plan
from workbench.recipe import ComparisonConfig, DictionaryConfig, Recipe, read_recipe, write_recipe
from workbench.unlike_requests import refuse_unlike, what_keeps_apart


def compare(lab: Lab, names: Sequence[str]) -> str:
    """Name of the comparison of these checkpoints, added to the recipe with its crosscoder if it is new, and to be
    taken apart (`workbench.parts`).

    `grow` then builds it. Checkpoints that cannot be compared are `Misuse`.
    """
    names = checked_names(names)
    if apart := what_keeps_apart(lab, names):
        raise Misuse(f"{apart}: only checkpoints that descend from one can be compared token by token")
    with lab.writing("compare"):
        recipe = read_recipe(lab.path / "recipe.toml")
        changed, name = with_comparison(recipe, names, _depths(lab, recipe, names))
        _checked_site(lab, changed, changed.dictionary(changed.comparison(name).dictionary))
        changed = dataclasses.replace(changed, compared=tuple(dict.fromkeys((*changed.compared, name))))
        plan(changed)  # refuses what cannot be built before anything is written
        if changed != recipe:
            write_recipe(lab.path / "recipe.toml", changed)
    return name


def compare_beside_controls(lab: Lab, names: Sequence[str]) -> list[str]:
    """`compare`, and the comparisons that tell the stages among `names` from their controls, which are entered too;
    the names of all, the one asked for first."""
    beside = pairs_of(tuple(names))  # refuses checkpoints without controls before anything is written
    asked = compare(lab, names)
    request_controls(lab)
    return [asked, *(compare(lab, (pair.before, pair.after)) for pair in beside)]


def grown_first(lab: Lab, steps: Sequence[str]) -> str:
    """A line about the checkpoints that `steps` stand on and that are not on the disk; empty if all are."""
    from workbench.grow import missing

    names = [step.name for step in missing(lab, steps)[1] if step.kind == "checkpoint"]
    return f"not on the disk, and so grown first: checkpoint {', '.join(names)}\n" if names else ""


def finished_comparison(lab: Lab, names: Sequence[str]) -> str:
    """Name of the recipe's comparison of just these checkpoints, in any order; `Misuse` where there is none."""
    refuse_unlike(lab, names, "a sheet")
    for config in read_recipe(lab.path / "recipe.toml").comparisons:
        if set(config.checkpoints) == set(names):
            return config.name
    raise Misuse(
        f"{', '.join(names)} have not been compared: `python -m workbench compare {lab.name} {' '.join(names)}`"
    )


def with_comparison(
    recipe: Recipe, names: tuple[str, ...], depths: Mapping[str, int] | None = None
) -> tuple[Recipe, str]:
    """The recipe with a comparison of `names`, and a crosscoder like its first one if none reads just these.

    That layer is taken over where all have it (`depths`: how many layers each has, as far as that is known),
    else the middle."""
    for known in recipe.comparisons:
        if known.checkpoints == names:
            return recipe, known.name
    name = short_name("-".join(names))
    crosscoder = next((d for d in recipe.dictionaries if d.checkpoints == names), None)
    if crosscoder is None:
        model = next((d for d in recipe.dictionaries if d.kind == "crosscoder"), None)
        fresh = DictionaryConfig(f"crosscoder-{name}", names)
        crosscoder = dataclasses.replace(model, name=fresh.name, checkpoints=names) if model else fresh
        if crosscoder.layer is not None and crosscoder.layer >= min((depths or {}).values(), default=10**9):
            crosscoder = dataclasses.replace(crosscoder, layer=None)
        recipe = dataclasses.replace(recipe, dictionaries=(*recipe.dictionaries, crosscoder))
    taken = {c.name for c in recipe.comparisons}
    if name in taken:
        raise Misuse(f"the recipe has another comparison called {name!r}: rename it there")
    added = ComparisonConfig(name, names, crosscoder.name)
    return dataclasses.replace(recipe, comparisons=(*recipe.comparisons, added)), name


def _checked_site(lab: Lab, recipe: Recipe, crosscoder: DictionaryConfig) -> None:
    """`Misuse` where a checkpoint (as far as they are grown) has not the layer that the crosscoder reads."""
    depths = _depths(lab, recipe, crosscoder.checkpoints)
    layer = crosscoder.layer
    short = {name: n for name, n in depths.items() if layer is not None and not 0 <= layer < n}
    if short:
        told = ", ".join(f"{name} has layers 0 to {n - 1}" for name, n in short.items())
        raise Misuse(
            f"crosscoder {crosscoder.name!r} of the recipe reads layer {crosscoder.layer}, but {told}: name one "
            "that all have in recipe.toml, or take its line out for the middle one"
        )


def _depths(lab: Lab, recipe: Recipe, names: Sequence[str]) -> dict[str, int]:
    """Layers of the checkpoints that are grown."""
    current = plan(recipe)
    grown = [n for n in names if lab.artefact("checkpoint", n, current.step("checkpoint", n).id) is not None]
    return {name: lab.checkpoint(name).n_layers for name in grown}
