"""Activations of the model before its first training step, on the same tokens: what structure alone gives.

The step-0 model of a dictionary is the first snapshot of the root of its checkpoints' lineage (`base@0` for the
lab's own). Checkpoints from outside have no snapshots, so theirs is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from saes.arrays import ActivationArrays
from workbench.checkpoint import Checkpoint
from workbench.device import best_device
from workbench.grow import Build
from workbench.harvest import Target, harvest
from workbench.points import Site
from workbench.site import with_fast_attention
from workbench.tokens import TokenSet


def untrained_address(build: Build, checkpoint: str) -> str | None:
    """Where the model is that `checkpoint` descends from before its first step; None if nobody kept it."""
    root = Checkpoint.of(build.lab, build.plan.family(checkpoint))
    return f"{root.name}@0" if 0 in root.snapshots() else None


def untrained_activations(
    build: Build, address: str, site: Site, sets: Mapping[str, TokenSet], folder: Path
) -> dict[str, ActivationArrays]:
    """What stands at the site of the model at `address` for every token of the sets, kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    model = with_fast_attention(Checkpoint.of(build.lab, address).model(best_device()))
    windows = sum(len(s.starts) for s in sets.values())
    build.progress.start(windows, "windows", label=f"activations of {address}")
    arrays = {}
    for name, token_set in sets.items():
        path = folder / f"{name}.npy"
        target = Target(site, path, folder / f"{name}.json")
        for n in harvest(model, [target], token_set, "float32"):
            build.progress.advance(n)
        arrays[name] = ActivationArrays([path])
    return arrays
