"""Entering dictionaries that a person asked for in the lab's recipe."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from saes.config import ARCHITECTURES, BATCHTOPK, L1, SPARSE
from workbench.errors import Misuse, unknown
from workbench.lab import Lab, checked_name
from workbench.plan import plan
from workbench.points import MLP_IN, MLP_OUT, RESID_POST, Site, parse_site
from workbench.recipe import (
    CROSSCODER,
    DIFFERENCE,
    SAE,
    TRANSCODER,
    DictionaryConfig,
    Recipe,
    joined,
    read_recipe,
    stage_of,
    write_recipe,
)

if TYPE_CHECKING:
    from workbench.checkpoint import Checkpoint

CROSSCODERS = (*SPARSE, L1)


def request_saes(
    lab: Lab,
    checkpoint: str,
    sites: Sequence[Site | None],
    widths: Sequence[int],
    ks: Sequence[int],
    arch: str = BATCHTOPK,
    name: str | None = None,
    seeds: Sequence[int] = (0,),
    minus: str = "",
) -> list[str]:
    """Append an SAE of every site, width, k and seed to the recipe unless an equal one is there; their names.
    `minus`: of what the checkpoint's activations are more than this one's at the same tokens."""
    if minus:
        known_checkpoint(lab, minus)
        if minus == checkpoint:
            raise Misuse(f"{checkpoint} less itself is nothing: give --minus another checkpoint")
    if arch not in ARCHITECTURES:
        raise unknown("architecture", arch, ARCHITECTURES)
    if any(site is not None and site.point == MLP_IN for site in sites):
        raise Misuse(
            "an SAE of what an MLP reads writes nothing into the residual stream, so its table could not say "
            "what its latents promote: `transcoder` reads there and writes where the MLP does"
        )
    places = [(None, RESID_POST) if site is None else (site.layer, site.point) for site in sites]
    wanted = [
        DictionaryConfig("", (checkpoint,), width, k, arch, layer, seed=seed, point=point, minus=minus)
        for (layer, point), width, k, seed in itertools.product(places, widths, ks, seeds)
    ]
    usual = DIFFERENCE if minus else SAE
    kind = (
        usual if arch == BATCHTOPK else f"{usual}-{arch.partition('_')[0]}" if minus else arch.partition("_")[0]
    )
    return _request(lab, checkpoint, wanted, kind, name)


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
    """`request_saes` of one; without a layer it reads the middle resid_post."""
    site = None if layer is None else Site(layer, point)
    return request_saes(lab, checkpoint, [site], [width], [k], arch, name)[0]


def request_crosscoder(
    lab: Lab,
    checkpoints: Sequence[str],
    site: Site | None,
    width: int,
    k: int,
    arch: str = BATCHTOPK,
    name: str | None = None,
    seed: int = 0,
    dedicated: float = 0.0,
    steps: int | None = None,
) -> str:
    """Append a crosscoder of checkpoints, or of snapshots (`sft@64`), to the recipe unless an equal one is there;
    its name. `dedicated`: the share of the latents that each checkpoint has to itself."""
    if arch not in CROSSCODERS:
        raise unknown("architecture of a crosscoder", arch, CROSSCODERS)
    if len(checkpoints) < 2 or len(set(checkpoints)) < len(checkpoints):
        found = ", ".join(checkpoints) or "none"
        raise Misuse(f"a crosscoder reads two or more different checkpoints, found {found}: `sae` reads one")
    if not 0 <= dedicated * len(checkpoints) <= 1:
        raise Misuse(
            f"{len(checkpoints)} checkpoints cannot each have {dedicated:g} of the latents to themselves: "
            f"give --dedicated at most {1 / len(checkpoints):.2g}"
        )
    for checkpoint in checkpoints:
        known_checkpoint(lab, checkpoint)
    layer, point = (None, RESID_POST) if site is None else (site.layer, site.point)
    config = DictionaryConfig(
        "", tuple(checkpoints), width, k, arch, layer, seed=seed, point=point, dedicated=dedicated
    )
    if steps is not None:
        config = dataclasses.replace(config, steps=steps)
    kind = CROSSCODER if arch == BATCHTOPK else f"{CROSSCODER}-{arch.partition('_')[0]}"
    return _request(lab, checkpoints[0], [config], f"{kind}-dedicated" if dedicated else kind, name)[0]


def request_transcoders(
    lab: Lab,
    checkpoint: str,
    layers: Sequence[int | None],
    width: int,
    k: int,
    arch: str,
    name: str | None,
    skip: bool,
) -> list[str]:
    """Append a transcoder of each layer's MLP to the recipe unless an equal one is there; their names."""
    if arch not in SPARSE:
        raise unknown("architecture of a transcoder", arch, SPARSE)
    wanted = [
        DictionaryConfig("", (checkpoint,), width, k, arch, layer, point=MLP_IN, target=MLP_OUT, skip=skip)
        for layer in layers
    ]
    kind = TRANSCODER if arch == BATCHTOPK else f"{TRANSCODER}-{arch.partition('_')[0]}"
    return _request(lab, checkpoint, wanted, f"{kind}-skip" if skip else kind, name)


def request_transcoder(
    lab: Lab, checkpoint: str, layer: int | None, width: int, k: int, arch: str, name: str | None, skip: bool
) -> str:
    """`request_transcoders` of one."""
    return request_transcoders(lab, checkpoint, [layer], width, k, arch, name, skip)[0]


def listed_numbers(written: str, option: str) -> list[int]:
    """The whole numbers of a comma-separated list, each once."""
    parts = [part.strip() for part in written.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise Misuse(f"{option} is {written!r}, no list of whole numbers: write {option} 16 or {option} 16,32")
    return list(dict.fromkeys(map(int, parts)))


def requested_sites(lab: Lab, checkpoint: str, written: str | None) -> list[Site | None]:
    """The sites in a comma-separated list, each once; None, the middle resid_post, where none is given."""
    if written is None:
        return [None]
    n_layers = known_checkpoint(lab, checkpoint).n_layers
    return list(dict.fromkeys(parse_site(each, n_layers) for each in written.split(",")))


def _request(
    lab: Lab, checkpoint: str, wanted: Sequence[DictionaryConfig], kind: str, name: str | None
) -> list[str]:
    """Append all of `wanted` to the recipe, or, where one cannot be, none: under `name` or names made of what
    they are."""
    if name is not None and len(wanted) > 1:
        raise Misuse(f"--name names one dictionary and {len(wanted)} are asked for: leave it out")
    for config in wanted:
        if config.d_sae < 1 or not 1 <= config.k <= config.d_sae:
            raise Misuse(
                f"width {config.d_sae} with k {config.k} cannot be: k must be at least 1 and at most the width"
            )
        if config.seed >= 2**63:
            raise Misuse(f"seed {config.seed} is too large: give one below 2^63")
    with lab.writing("sae"):
        before = recipe = read_recipe(lab.path / "recipe.toml")
        n_layers = known_checkpoint(lab, checkpoint).n_layers
        names = []
        for config in wanted:
            if config.layer is not None:
                parse_site(str(config.layer), n_layers)
            recipe, chosen = _with(recipe, config, kind, name)
            names.append(chosen)
        if recipe != before:
            plan(recipe)
            write_recipe(lab.path / "recipe.toml", recipe)
    return names


def _with(recipe: Recipe, config: DictionaryConfig, kind: str, name: str | None) -> tuple[Recipe, str]:
    """The recipe with a dictionary, and what that is called: an equal one that is there stays as it is."""
    chosen = checked_name(name or _name(config, kind), "dictionary name")
    config = dataclasses.replace(config, name=chosen)
    for known in recipe.dictionaries:
        if dataclasses.replace(known, name=chosen) == config and (name is None or known.name == name):
            return recipe, known.name
        if known.name == chosen:
            raise Misuse(f"dictionary {chosen!r} is in the recipe with other settings: give another --name")
    return dataclasses.replace(recipe, dictionaries=(*recipe.dictionaries, config)), chosen


def _name(config: DictionaryConfig, kind: str) -> str:
    """`sae-base-2048-k16`, `crosscoder-base-sft.64-layer1-2048-k16-s1`: what differs from the usual is named."""
    place = "" if config.layer is None else f"-layer{config.layer}"
    place += f"-{MLP_OUT}" if config.point == MLP_OUT else ""
    seed = f"-s{config.seed}" if config.seed else ""
    return f"{kind}-{joined(config.reads)}{place}-{config.d_sae}-k{config.k}{seed}"


def known_checkpoint(lab: Lab, name: str) -> Checkpoint:
    """A checkpoint that the recipe names, or a snapshot of one."""
    known = read_recipe(lab.path / "recipe.toml").checkpoint_names
    if stage_of(name) not in known:
        raise unknown("checkpoint", stage_of(name), known)
    return lab.checkpoint(name)
