"""Entering comparisons that a person asked for in the lab's recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from saes.config import L1
from workbench.branches import request_controls
from workbench.controls import pairs_of
from workbench.dictionary_requests import request_crosscoder
from workbench.errors import Misuse, unknown
from workbench.lab import Lab
from workbench.likeness import checked_names
from workbench.matching_requests import request_seeds
from workbench.naming import short_name
from workbench.plan import plan
from workbench.points import Site
from workbench.recipe import (
    CROSSCODER,
    ComparisonConfig,
    DictionaryConfig,
    Recipe,
    joined,
    read_recipe,
    stage_of,
    write_recipe,
)
from workbench.unlike_requests import refuse_unlike, what_keeps_apart


def compare(lab: Lab, names: Sequence[str], dictionary: str | None = None) -> str:
    """Name of the comparison of these checkpoints, added to the recipe with its crosscoder if it is new, and to be
    taken apart (`workbench.parts`).

    `dictionary`: the crosscoder that they are read through, if not one like the lab's first. `grow` then builds it.
    Checkpoints that cannot be compared are `Misuse`.
    """
    names = checked_names(names)
    if apart := what_keeps_apart(lab, names):
        raise Misuse(f"{apart}: only checkpoints that descend from one can be compared token by token")
    with lab.writing("compare"):
        recipe = read_recipe(lab.path / "recipe.toml")
        changed, name = with_comparison(recipe, names, _depths(lab, recipe, names), dictionary)
        _checked_site(lab, changed, changed.dictionary(changed.comparison(name).dictionary))
        changed = dataclasses.replace(changed, compared=tuple(dict.fromkeys((*changed.compared, name))))
        plan(changed)  # refuses what cannot be built before anything is written
        if changed != recipe:
            write_recipe(lab.path / "recipe.toml", changed)
    return name


class Requested(NamedTuple):
    """Comparisons that are to be made: the one asked for, the one for contrast (if any), those of the controls."""

    asked: str
    contrast: str | None
    controls: Sequence[str]

    @property
    def all(self) -> list[str]:
        return [self.asked, *([self.contrast] if self.contrast else []), *self.controls]


def request_comparisons(
    lab: Lab, names: Sequence[str], controls: bool = False, l1: bool = False, dictionary: str | None = None
) -> Requested:
    """Enter the comparison of `names`, and what is wanted beside it, in the recipe."""
    if dictionary is not None:
        if controls:
            raise Misuse("controls are read through crosscoders like the lab's first: leave --dictionary out")
        recipe = read_recipe(lab.path / "recipe.toml")
        if dictionary not in {config.name for config in recipe.dictionaries}:
            raise _no_crosscoder(lab, recipe, names, dictionary)
        chosen = recipe.dictionary(dictionary)
        if chosen.checkpoints != tuple(names):
            raise Misuse(
                f"{dictionary!r} reads {', '.join(chosen.checkpoints)}, and {', '.join(names)} are to be compared: "
                f"name a crosscoder of these, or make one with `crosscoder {lab.name} {' '.join(names)}`"
            )
        if chosen.for_contrast:
            raise Misuse(f"{dictionary!r} is an L1 crosscoder, which is for contrast: give --l1 instead")
    asked, *beside = compare_beside_controls(lab, names) if controls else [compare(lab, names, dictionary)]
    return Requested(asked, compare_for_contrast(lab, names) if l1 else None, beside)


def _no_crosscoder(lab: Lab, recipe: Recipe, names: Sequence[str], asked: str) -> Misuse:
    """`Misuse` that names only what could serve: crosscoders of just these checkpoints, not for contrast."""
    fitting = [
        config.name
        for config in recipe.dictionaries
        if config.kind == CROSSCODER and config.checkpoints == tuple(names) and not config.for_contrast
    ]
    what = f"crosscoder of {', '.join(names)} called"
    more = f"; `python -m workbench crosscoder {lab.name} {' '.join(names)}` makes one" if not fitting else ""
    return Misuse(f"{unknown(what, asked, fitting)}{more}")


def compare_beside_controls(lab: Lab, names: Sequence[str]) -> list[str]:
    """`compare`, and the comparisons that tell the stages among `names` from their controls, which are entered too,
    as is another seed of each SAE that is matched; the names of all, the one asked for first."""
    beside = pairs_of(tuple(names))  # refuses checkpoints without controls before anything is written
    asked = compare(lab, names)
    request_controls(lab)
    request_seeds(lab, names)
    return [asked, *(compare(lab, (pair.before, pair.after)) for pair in beside)]


def compare_for_contrast(lab: Lab, names: Sequence[str]) -> str:
    """Name of the comparison of these checkpoints through an L1 crosscoder of the same width [Lindsey 2024],
    entered beside the usual one: it invents latents of one checkpoint alone, and latent scaling tells how many."""
    usual = compare(lab, names)
    recipe = read_recipe(lab.path / "recipe.toml")
    like = recipe.dictionary(recipe.comparison(usual).dictionary)
    site = None if like.layer is None else Site(like.layer, like.point)
    return compare(lab, names, request_crosscoder(lab, names, site, like.d_sae, like.k, L1, steps=like.steps))


def grown_first(lab: Lab, steps: Sequence[str]) -> str:
    """A line about the checkpoints that `steps` stand on and that are not on the disk; empty if all are."""
    from workbench.grow import missing

    names = [step.name for step in missing(lab, steps)[1] if step.kind == "checkpoint"]
    return f"not on the disk, and so grown first: checkpoint {', '.join(names)}\n" if names else ""


def time_needed(lab: Lab, steps: Sequence[str], takes: Mapping[str, str]) -> str:
    """A line that says how long the options in `takes` take, and that they may be stopped; empty if nothing is to
    be made."""
    from workbench.grow import missing

    todo = missing(lab, steps)[1]
    if not (todo and takes):
        return ""
    told = ", ".join(f"{option} takes {time}" for option, time in takes.items())
    return (
        f"{len(todo)} steps to go; from the start {told}: Ctrl-C stops, the same command goes on from there\n"
    )


def finished_comparison(lab: Lab, names: Sequence[str]) -> str:
    """Name of the recipe's comparison of just these checkpoints, in any order; `Misuse` where there is none."""
    names = checked_names(names)
    refuse_unlike(lab, names, "a sheet")
    recipe = read_recipe(lab.path / "recipe.toml")
    found = [config for config in recipe.comparisons if set(config.checkpoints) == set(names)]
    usual = [config for config in found if recipe.dictionary(config.dictionary).usual]
    if found:
        return (usual or found)[0].name
    raise Misuse(
        f"{', '.join(names)} have not been compared: `python -m workbench compare {lab.name} {' '.join(names)}`"
    )


def with_comparison(
    recipe: Recipe,
    names: tuple[str, ...],
    depths: Mapping[str, int] | None = None,
    dictionary: str | None = None,
) -> tuple[Recipe, str]:
    """The recipe with a comparison of `names` through `dictionary`; else through a crosscoder of just these, made
    like the first one if there is none.

    That one's layer is taken over where all have it (`depths`: how many layers each has, as far as that is known),
    else the middle."""
    if dictionary is not None:
        return _through(recipe, names, recipe.dictionary(dictionary))
    if (known := _usual_comparison(recipe, names)) is not None:
        return recipe, known.name
    name = short_name(joined(names))
    crosscoder = next((d for d in recipe.dictionaries if d.checkpoints == names and d.usual), None)
    if crosscoder is None:
        model = next((d for d in recipe.dictionaries if d.kind == CROSSCODER and d.usual), None)
        fresh = DictionaryConfig(f"{CROSSCODER}-{name}", names)
        crosscoder = dataclasses.replace(model, name=fresh.name, checkpoints=names) if model else fresh
        if crosscoder.layer is not None and crosscoder.layer >= min((depths or {}).values(), default=10**9):
            crosscoder = dataclasses.replace(crosscoder, layer=None)
        recipe = dataclasses.replace(recipe, dictionaries=(*recipe.dictionaries, crosscoder))
    return _with(recipe, name, names, crosscoder)


def _usual_comparison(recipe: Recipe, names: tuple[str, ...]) -> ComparisonConfig | None:
    """That of `names` which nobody asked a dictionary of their own for, if there is one."""
    of_these = (c for c in recipe.comparisons if c.checkpoints == names)
    return next((c for c in of_these if recipe.dictionary(c.dictionary).usual), None)


def _through(recipe: Recipe, names: tuple[str, ...], used: DictionaryConfig) -> tuple[Recipe, str]:
    """A comparison through a dictionary that was asked for, called after both."""
    for known in recipe.comparisons:
        if known.dictionary == used.name and known.checkpoints == names:
            return recipe, known.name
    return _with(recipe, short_name(f"{joined(names)}-{L1 if used.for_contrast else used.name}"), names, used)


def _with(
    recipe: Recipe, name: str, names: tuple[str, ...], crosscoder: DictionaryConfig
) -> tuple[Recipe, str]:
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
    stages = {n: current.step("checkpoint", stage_of(n)) for n in names}
    grown = [n for n, s in stages.items() if lab.artefact("checkpoint", s.name, s.id) is not None]
    return {name: lab.checkpoint(name).n_layers for name in grown}
