"""Entering a dictionary that a person asked for in the lab's recipe."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from saes.config import ARCHITECTURES, BATCHTOPK, SPARSE
from workbench.errors import Misuse, unknown
from workbench.lab import Lab, checked_name
from workbench.plan import plan
from workbench.points import MLP_IN, MLP_OUT, RESID_POST, Site, parse_site
from workbench.recipe import TRANSCODER, DictionaryConfig, read_recipe, write_recipe

if TYPE_CHECKING:
    from workbench.checkpoint import Checkpoint


def request_sae(
    lab: Lab,
    checkpoint: str,
    layer: int | None,
    width: int,
    k: int,
    arch: str,
    name: str | None,
    point: str = RESID_POST,
) -> str:
    """Append an SAE to the recipe unless an equal one is there; returns its name."""
    if arch not in ARCHITECTURES:
        raise unknown("architecture", arch, ARCHITECTURES)
    if point == MLP_IN:
        raise Misuse(
            "an SAE of what an MLP reads writes nothing into the residual stream, so its table could not say "
            "what its latents promote: `transcoder` reads there and writes where the MLP does"
        )
    kind = "sae" if arch == BATCHTOPK else arch.partition("_")[0]
    config = DictionaryConfig("", (checkpoint,), width, k, arch, layer, point=point)
    return _request(lab, config, kind, name)


def request_transcoder(
    lab: Lab, checkpoint: str, layer: int | None, width: int, k: int, arch: str, name: str | None, skip: bool
) -> str:
    """Append a transcoder of one layer's MLP to the recipe unless an equal one is there; returns its name."""
    if arch not in SPARSE:
        raise unknown("architecture of a transcoder", arch, SPARSE)
    config = DictionaryConfig("", (checkpoint,), width, k, arch, layer, point=MLP_IN, target=MLP_OUT, skip=skip)
    kind = TRANSCODER if arch == BATCHTOPK else f"{TRANSCODER}-{arch.partition('_')[0]}"
    return _request(lab, config, f"{kind}-skip" if skip else kind, name)


def requested_sites(lab: Lab, checkpoint: str, written: str | None) -> list[Site | None]:
    """The sites in a comma-separated list, each once; None, the middle resid_post, where none is given."""
    if written is None:
        return [None]
    n_layers = known_checkpoint(lab, checkpoint).n_layers
    return list(dict.fromkeys(parse_site(each, n_layers) for each in written.split(",")))


def _request(lab: Lab, config: DictionaryConfig, kind: str, name: str | None) -> str:
    """Append `config` to the recipe, under `name` or one made of what it is."""
    (checkpoint,), layer, width, k = config.checkpoints, config.layer, config.d_sae, config.k
    if width < 1 or not 1 <= k <= width:
        raise Misuse(f"width {width} with k {k} cannot be: k must be at least 1 and at most the width")
    with lab.writing("sae"):
        recipe = read_recipe(lab.path / "recipe.toml")
        n_layers = known_checkpoint(lab, checkpoint).n_layers
        if layer is not None:
            parse_site(str(layer), n_layers)
        place = "" if layer is None else f"-layer{layer}"
        place += f"-{MLP_OUT}" if config.point == MLP_OUT else ""
        chosen = checked_name(name or f"{kind}-{checkpoint}{place}-{width}-k{k}", "dictionary name")
        config = dataclasses.replace(config, name=chosen)
        for known in recipe.dictionaries:
            if dataclasses.replace(known, name=chosen) == config and (name is None or known.name == name):
                return known.name
            if known.name == chosen:
                raise Misuse(f"dictionary {chosen!r} is in the recipe with other settings: give another --name")
        recipe = dataclasses.replace(recipe, dictionaries=(*recipe.dictionaries, config))
        plan(recipe)
        write_recipe(lab.path / "recipe.toml", recipe)
    return chosen


def known_checkpoint(lab: Lab, name: str) -> Checkpoint:
    """A checkpoint that the recipe names."""
    known = read_recipe(lab.path / "recipe.toml").checkpoint_names
    if name not in known:
        raise unknown("checkpoint", name, known)
    return lab.checkpoint(name)
