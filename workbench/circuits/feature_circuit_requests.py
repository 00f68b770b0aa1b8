"""Entering feature circuits that a person asked for in the lab's recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from workbench.circuit_config import FeatureCircuitConfig
from workbench.circuits.circuit_requests import asked_task, check_pairs, named_once
from workbench.circuits.site_dictionaries import site_sae_names
from workbench.errors import Misuse, unknown
from workbench.lab import Lab
from workbench.plan import Plan, latents_name, plan
from workbench.recipe import read_recipe, stage_of, write_recipe


def request_feature_circuits(
    lab: Lab,
    task: str,
    names: Sequence[str],
    dictionaries: Sequence[str] = (),
    n_pairs: int = 64,
    seed: int = 0,
) -> list[str]:
    """Names of the feature circuits of `task` (one of the workbench's, or a jsonl file), one of each checkpoint,
    entered in the recipe if new. A checkpoint is read through those of `dictionaries` that are of it, or
    through its own at every site. `grow` builds them."""
    asked, source, sha256 = asked_task(task, n_pairs)
    checkpoints, current = named_once(names), Plan.of(lab)
    for name in checkpoints:
        current.step("checkpoint", stage_of(name))  # near names are offered for unknown ones
    wanted = []
    for name, own in _by_checkpoint(current, checkpoints, dictionaries).items():
        read = tuple(site_sae_names(lab, name, own).values())
        check_pairs(lab, current, asked, name, n_pairs, seed)
        config = FeatureCircuitConfig(
            latents_name(asked.name, name), asked.name, name, read, n_pairs, seed=seed
        )
        wanted.append(dataclasses.replace(config, source=source, source_sha256=sha256))
    with lab.writing("feature-circuit"):
        recipe = read_recipe(lab.path / "recipe.toml")
        new = {each.name for each in wanted}
        kept = [each for each in recipe.feature_circuits if each.name not in new]
        changed = dataclasses.replace(recipe, feature_circuits=(*kept, *wanted))
        plan(changed)
        if changed != recipe:
            write_recipe(lab.path / "recipe.toml", changed)
    return [each.name for each in wanted]


def _by_checkpoint(
    current: Plan, checkpoints: Sequence[str], dictionaries: Sequence[str]
) -> dict[str, list[str]]:
    """The dictionaries named, by the checkpoint that they read: with one of a checkpoint, one of each."""
    known = {each.name: each.checkpoints for each in current.recipe.dictionaries}
    found: dict[str, list[str]] = {name: [] for name in checkpoints}
    for each in dictionaries:
        if each not in known:
            raise unknown("dictionary", each, known)
        owners = [name for name in checkpoints if known[each] == (name,)]
        if not owners:
            raise Misuse(
                f"dictionary {each!r} reads {', '.join(known[each])}, and --checkpoints is {','.join(checkpoints)}"
                ": name SAEs of these alone"
            )
        found[owners[0]].append(each)
    if dictionaries and (without := [name for name, own in found.items() if not own]):
        raise Misuse(
            f"--dictionaries names none of {without[0]!r}: name one of each checkpoint, or leave the option out"
        )
    return found
