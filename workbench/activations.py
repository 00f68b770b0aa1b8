"""Builds the activations of one checkpoint at one site, for every token of both sets.

`<set>.npy` `[token, d_model]` (in shards where a set is long), rows as in the family's token sets: row i is the
same token in every checkpoint, and `<set>-special.npy` beside the tokens marks its special ones. bfloat16 is
stored as its bits in uint16 (`saes.arrays` reads it so). The forward pass ends at the site. Steps of one
checkpoint that want other sites are served by the same pass: it runs to the deepest, and their turn comes with
nothing left to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.checkpoint import Checkpoint
from workbench.device import best_device
from workbench.errors import Misuse
from workbench.grow import Build
from workbench.harvest import STORED, Target, harvest, n_shards
from workbench.points import RESID_POST, Site
from workbench.site import site_module, with_fast_attention
from workbench.steps import Step
from workbench.tokens import SETS, TokenSet


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `activations/<checkpoint>` and `activations/<checkpoint>-layer<L>[-<point>]`."""
    keys = list(build.step.parents)
    sets = [TokenSet(build.parents[keys[0]].path, name) for name in SETS]
    checkpoint = Checkpoint.of(build.lab, build.config.get("of", keys[1].split("/", 1)[1]))
    site, dtype = site_of(build.config, checkpoint), checked_dtype(build.config["dtype"])
    folders = {site: build.draft.path} | _same_pass(build, checkpoint)
    model = with_fast_attention(checkpoint.model(best_device()))
    for wanted in folders:
        site_module(model, wanted)
    total = sum(len(s.starts) for s in sets)
    also = f" ({len(folders)} sites)" if len(folders) > 1 else ""
    build.progress.start(total, "windows", label=f"activations of {checkpoint.address}{also}")
    for token_set in sets:
        _check_vocabulary(model.get_input_embeddings().get_parameter("weight").shape[0], token_set, checkpoint)
        targets = [_target(*of, token_set.name) for of in folders.items()]
        for n_windows in harvest(model, targets, token_set, dtype):
            build.progress.advance(n_windows)
    return {
        "site": site.name,
        "layer": site.layer,
        "dtype": dtype,
        "stored_as": "bfloat16 bits in uint16" if dtype == "bfloat16" else dtype,
        "d_model": checkpoint.d_model,
        "tokens": {s.name: len(s) for s in sets},
        "shards": {s.name: n_shards(s) for s in sets},
    }


def site_of(config: Mapping[str, Any], checkpoint: Checkpoint) -> Site:
    """The site that a step's configuration means in its checkpoint."""
    layer = checkpoint.default_layer if config["layer"] is None else config["layer"]
    return Site(layer, config.get("point", RESID_POST))


def _same_pass(build: Build, checkpoint: Checkpoint) -> dict[Site, Path]:
    """Folders of the sites that later steps of this run want of the same checkpoint on the same tokens."""
    folders = {}
    for step in build.todo:
        if step.builder == build.step.builder and _alike(step, build.step):
            site = site_of(step.config, checkpoint)
            if 0 <= site.layer < checkpoint.n_layers:  # one that does not exist is refused when its turn comes
                draft = build.lab.begin(step.kind, step.name, step.config, step.parents, step.builder.version)
                folders[site] = draft.path
    return folders


def _alike(one: Step, other: Step) -> bool:
    same = all(one.config.get(setting) == other.config.get(setting) for setting in ("dtype", "of"))
    return same and one.parents == other.parents


def _target(site: Site, folder: Path, set_name: str) -> Target:
    (folder / "resume").mkdir(exist_ok=True)
    return Target(site, folder / f"{set_name}.npy", folder / "resume" / f"{set_name}.json")


def checked_dtype(name: str) -> str:
    """`name` if activations can be stored so."""
    if name not in STORED:
        raise Misuse(f"activations cannot be stored as {name!r}: choose {', '.join(STORED)}")
    return name


def _check_vocabulary(size: int, token_set: TokenSet, checkpoint: Checkpoint) -> None:
    largest = int(token_set.tokens.max())
    if largest >= size:
        raise Misuse(
            f"checkpoint {checkpoint.name!r} knows {size} tokens but its family's texts use token {largest}: "
            "it has another tokenizer, so add it without that parent"
        )
