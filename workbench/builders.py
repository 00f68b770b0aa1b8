"""Where each kind of step is built, and the version of that code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Builder(NamedTuple):
    """Where a step is built (`module:function`) and its code version: raise it when the result changes."""

    function: str
    version: int


BUILDERS: Mapping[str, Builder] = {
    "corpus": Builder("workbench.corpus:build", 4),
    "tokenizer": Builder("workbench.tokenizer:build", 2),
    "base": Builder("workbench.base:build", 4),
    "sft": Builder("workbench.sft:build", 4),
    "grpo": Builder("workbench.grpo:build", 3),
    "sham": Builder("workbench.sham:build", 1),
    "added": Builder("workbench.added:build", 1),
    "tokens": Builder("workbench.token_sets:build", 1),
    "activations": Builder("workbench.activations:build", 1),
    "subtracted": Builder("workbench.subtracted:build", 1),
    "dictionary": Builder("workbench.dictionaries:build", 2),
    "imported": Builder("workbench.imported:build", 2),
    "features": Builder("workbench.feature_build:build", 4),
    "comparison": Builder("workbench.comparison:build", 2),
    "drift": Builder("workbench.drift_build:build", 1),
    "scaling": Builder("workbench.scaling_build:build", 1),
    "changes": Builder("workbench.changes_build:build", 1),
    "gains": Builder("workbench.gain_build:build", 2),
    "patching": Builder("workbench.patching_build:build", 1),
    "probe_transfer": Builder("workbench.probe_transfer_build:build", 1),
    "matching": Builder("workbench.matching_build:build", 1),
    "samples": Builder("workbench.samples_build:build", 1),
    "differences": Builder("workbench.differences_build:build", 1),
    "lives": Builder("workbench.lives_build:build", 1),
    "paths": Builder("workbench.paths_build:build", 1),
    "unlike": Builder("workbench.unlike_build:build", 1),
    "circuit": Builder("workbench.circuits.circuit_build:build", 4),
    "circuit_history": Builder("workbench.circuits.history_build:build", 2),
    "feature_circuit": Builder("workbench.circuits.feature_circuit_build:build", 2),
    "circuit_check": Builder("workbench.circuits.check_build:build", 1),
    "lens": Builder("workbench.circuits.lens_build:build", 1),
    "quality": Builder("workbench.quality_build:build", 2),
    "sweep": Builder("workbench.sweep_build:build", 2),
    "truth": Builder("workbench.truth_build:build", 3),
    "superposition": Builder("workbench.superposition:build", 3),
}
