"""What a dictionary is planned as: the tokens and activations that it stands on, itself, its feature table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from workbench.errors import Misuse, unknown
from workbench.part_steps import activations_name, read_names
from workbench.points import HOOKS, RESID_POST
from workbench.recipe import STAGES, DictionaryConfig, Recipe, stage_of
from workbench.steps import Planner

Family = Callable[[str], str]  # from a checkpoint to the root of its lineage


def add_dictionary(planner: Planner, recipe: Recipe, family_of: Family, config: DictionaryConfig) -> None:
    """A dictionary with the tokens and activations it stands on, and its feature table."""
    for point in {config.point, config.target or config.point} - set(HOOKS):
        raise unknown(f"point to read (dictionary {config.name!r} of the recipe)", point, HOOKS)
    family, tokens = add_tokens(planner, recipe, family_of, config)
    if config.minus:
        read, seen = [add_difference(planner, recipe, config, tokens)], []
    else:
        lineage = STAGES if family == "base" else config.checkpoints
        read, seen = (
            [add_activations(planner, recipe, config, c, config.point, tokens) for c in some]
            for some in (config.checkpoints, lineage)
        )
    targets = [
        add_activations(planner, recipe, config, c, config.target, tokens)
        for c in config.checkpoints
        if config.target
    ]
    builder = "imported" if config.source else "dictionary"
    planner.add("dictionary", config.name, builder, config.settings(), tokens, *read, *targets)
    stored = dict.fromkeys((*read, *seen))
    checkpoints = [f"checkpoint/{stage_of(c)}" for c in config.reads]
    parents = [f"dictionary/{config.name}", tokens, *stored, *checkpoints, "corpus/text"]
    planner.add("features", config.name, "features", {"dictionary": config.name}, *parents)


def add_tokens(
    planner: Planner, recipe: Recipe, family_of: Family, config: DictionaryConfig
) -> tuple[str, str]:
    """The family of the checkpoints that a dictionary reads, and the key of its tokens."""
    read = config.reads
    for checkpoint in read:
        if f"checkpoint/{stage_of(checkpoint)}" not in planner.steps:
            raise unknown("checkpoint", stage_of(checkpoint), recipe.checkpoint_names)
    families = {family_of(c) for c in read}
    if len(families) > 1:
        raise Misuse(
            f"dictionary {config.name!r} spans {', '.join(read)}, which do not descend from one "
            "checkpoint: give them one root with `add --parent`, or train an SAE on each"
        )
    family = families.pop()
    tokens = f"activations/tokens-{family}"
    if tokens not in planner.steps:
        own = STAGES if family == "base" else (family,)
        settings = {"family": family, "rollouts_of": own, **dataclasses.asdict(recipe.activations)}
        parents = ["corpus/text", "tokenizer/bpe", *(f"checkpoint/{c}" for c in own)]
        planner.add("activations", f"tokens-{family}", "tokens", settings, *parents)
    return family, tokens


def add_activations(
    planner: Planner, recipe: Recipe, config: DictionaryConfig, checkpoint: str, point: str, tokens: str
) -> str:
    """The key of the activations that a dictionary wants of a checkpoint at a point of its layer."""
    name = activations_name(checkpoint, config.layer, point)
    known = planner.steps.get(f"activations/{name}")
    if known is not None and known.config.get("of", stage_of(checkpoint)) != checkpoint:
        raise Misuse(
            f"a checkpoint is called like the snapshot {checkpoint!r}, {name}: rename it in the recipe"
        )
    if known is None:
        settings = {"layer": config.layer, "dtype": recipe.activations.dtype}
        if point != RESID_POST:
            settings["point"] = point
        if (stage := stage_of(checkpoint)) != checkpoint:
            settings["of"] = checkpoint
        planner.add("activations", name, "activations", settings, tokens, f"checkpoint/{stage}")
    return f"activations/{name}"


def add_difference(planner: Planner, recipe: Recipe, config: DictionaryConfig, tokens: str) -> str:
    """The key of what a difference dictionary reads."""
    (name,) = read_names(config, config.point)
    pair = [add_activations(planner, recipe, config, c, config.point, tokens) for c in config.reads]
    planner.add("activations", name, "subtracted", {"dtype": recipe.activations.dtype}, *pair)
    return f"activations/{name}"
