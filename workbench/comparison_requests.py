"""Entering comparisons that a person asked for in the lab's recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from saes.config import L1, SPARSE
from workbench.branches import request_controls
from workbench.controls import pairs_of
from workbench.dictionary_requests import request_crosscoder
from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.matched_saes import chosen, other_seed
from workbench.plan import Plan, plan
from workbench.points import Site
from workbench.recipe import (
    CROSSCODER,
    ComparisonConfig,
    DictionaryConfig,
    PathsConfig,
    Recipe,
    joined,
    read_recipe,
    stage_of,
    write_recipe,
)


def compare(lab: Lab, names: Sequence[str], dictionary: str | None = None) -> str:
    """Name of the comparison of these checkpoints, added to the recipe with its crosscoder if it is new, and to be
    taken apart (`workbench.parts`).

    `dictionary`: the crosscoder that they are read through, if not one like the lab's first. `grow` then builds it.
    Checkpoints that cannot be compared are `Misuse`.
    """
    names = tuple(names)
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise Misuse(
            f"a comparison needs two or more different checkpoints, found {', '.join(names) or 'none'}"
        )
    current = Plan.of(lab)
    for name in names:
        current.step("checkpoint", stage_of(name))
        if stage_of(name) != name:
            lab.checkpoint(name)  # refuses a snapshot that there is not
    _same_tokens(lab, current, names)
    with lab.writing("compare"):
        recipe = read_recipe(lab.path / "recipe.toml")
        changed, name = with_comparison(recipe, names, dictionary)
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
        if read_recipe(lab.path / "recipe.toml").dictionary(dictionary).for_contrast:
            raise Misuse(f"{dictionary!r} is an L1 crosscoder, which is for contrast: give --l1 instead")
    asked, *beside = compare_beside_controls(lab, names) if controls else [compare(lab, names, dictionary)]
    return Requested(asked, compare_for_contrast(lab, names) if l1 else None, beside)


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


def finished_comparison(lab: Lab, names: Sequence[str]) -> str:
    """Name of the recipe's comparison of just these checkpoints, in any order; `Misuse` where there is none."""
    for config in read_recipe(lab.path / "recipe.toml").comparisons:
        if set(config.checkpoints) == set(names):
            return config.name
    raise Misuse(
        f"{', '.join(names)} have not been compared: `python -m workbench compare {lab.name} {' '.join(names)}`"
    )


def with_comparison(
    recipe: Recipe, names: tuple[str, ...], dictionary: str | None = None
) -> tuple[Recipe, str]:
    """The recipe with a comparison of `names` through `dictionary`; else through a crosscoder of just these, made
    like the first one if there is none."""
    if dictionary is not None:
        return _through(recipe, names, recipe.dictionary(dictionary))
    if (known := _usual_comparison(recipe, names)) is not None:
        return recipe, known.name
    name = joined(names)
    crosscoder = next((d for d in recipe.dictionaries if d.checkpoints == names and d.usual), None)
    if crosscoder is None:
        model = next((d for d in recipe.dictionaries if d.kind == CROSSCODER and d.usual), None)
        fresh = DictionaryConfig(f"{CROSSCODER}-{name}", names)
        crosscoder = dataclasses.replace(model, name=fresh.name, checkpoints=names) if model else fresh
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
    return _with(recipe, f"{joined(names)}-{L1 if used.for_contrast else used.name}", names, used)


def _with(
    recipe: Recipe, name: str, names: tuple[str, ...], crosscoder: DictionaryConfig
) -> tuple[Recipe, str]:
    taken = {c.name for c in recipe.comparisons}
    if name in taken:
        raise Misuse(f"the recipe has another comparison called {name!r}: rename it there")
    added = ComparisonConfig(name, names, crosscoder.name)
    return dataclasses.replace(recipe, comparisons=(*recipe.comparisons, added)), name


def _same_tokens(lab: Lab, current: Plan, names: Sequence[str]) -> None:
    """All descend from one checkpoint, and (as far as they are grown) have one vocabulary."""
    families = {name: current.family(name) for name in names}
    if len(set(families.values())) > 1:
        told = ", ".join(f"{name} from {family}" for name, family in families.items())
        raise Misuse(
            f"only checkpoints that descend from one can be compared token by token ({told}): "
            "give them one root with `add --parent`"
        )
    stages = {n: current.step("checkpoint", stage_of(n)) for n in names}
    grown = [n for n, s in stages.items() if lab.artefact("checkpoint", s.name, s.id) is not None]
    vocabularies = {name: lab.checkpoint(name).tokenizer().get_vocab() for name in grown}
    for name in grown[1:]:
        if vocabularies[name] != vocabularies[grown[0]]:
            raise Misuse(
                f"{grown[0]!r} and {name!r} have different tokenizers: their tokens cannot be laid side by side"
            )
