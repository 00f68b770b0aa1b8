"""Entering a dictionary that a person asked for in the lab's recipe."""

from __future__ import annotations

import dataclasses

from saes.config import ABSTOPK, BATCHTOPK
from saes.config import ARCHITECTURES as TRAINABLE
from workbench.errors import Misuse, unknown
from workbench.lab import Lab, checked_name
from workbench.plan import plan
from workbench.recipe import DictionaryConfig, read_recipe, write_recipe

# Tables and dashboards read an activation as a strength; abstopk's latents have two signs (`saes` trains them).
ARCHITECTURES = tuple(arch for arch in TRAINABLE if arch != ABSTOPK)


def request_sae(
    lab: Lab, checkpoint: str, layer: int | None, width: int, k: int, arch: str, name: str | None
) -> str:
    """Append an SAE to the recipe unless an equal one is there; returns its name."""
    if arch not in ARCHITECTURES:
        raise unknown("architecture", arch, ARCHITECTURES)
    if width < 1 or not 1 <= k <= width:
        raise Misuse(f"width {width} with k {k} cannot be: k must be at least 1 and at most the width")
    with lab.writing("sae"):
        recipe = read_recipe(lab.path / "recipe.toml")
        if checkpoint not in recipe.checkpoint_names:
            raise unknown("checkpoint", checkpoint, recipe.checkpoint_names)
        check_layer(lab, checkpoint, layer)
        place = "" if layer is None else f"-layer{layer}"
        kind = "sae" if arch == BATCHTOPK else arch.partition("_")[0]
        chosen = checked_name(name or f"{kind}-{checkpoint}{place}-{width}-k{k}", "dictionary name")
        config = DictionaryConfig(chosen, (checkpoint,), width, k, arch, layer)
        for known in recipe.dictionaries:
            if dataclasses.replace(known, name=chosen) == config and (name is None or known.name == name):
                return known.name
            if known.name == chosen:
                raise Misuse(f"dictionary {chosen!r} is in the recipe with other settings: give another --name")
        recipe = dataclasses.replace(recipe, dictionaries=(*recipe.dictionaries, config))
        plan(recipe)
        write_recipe(lab.path / "recipe.toml", recipe)
    return chosen


def check_layer(lab: Lab, checkpoint: str, layer: int | None) -> None:
    """Refuse a layer that the checkpoint does not have."""
    n_layers = lab.checkpoint(checkpoint).n_layers
    if layer is not None and not 0 <= layer < n_layers:
        valid = ", ".join(f"blocks.{i}.hook_resid_post" for i in range(n_layers))
        raise Misuse(
            f"{checkpoint!r} has no block {layer}; its sites are {valid}: give --site 0 to {n_layers - 1}"
        )
