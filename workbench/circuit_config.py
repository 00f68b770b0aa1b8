"""What is asked of circuits: settings of a task's edges, and of its latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from workbench.settings import LATER, given, parse

EAP_IG, EXACT, ACDC = FINDERS = ("eap-ig", "exact", "acdc")  # of a circuit's edges


@dataclasses.dataclass(frozen=True)
class CircuitConfig:
    """One task's circuit in several checkpoints. `beside`: siblings, for the floor of what two have in common;
    `other`: another task, whose circuit should not do; `source`: the file of a task of one's own; `finder`: how
    edges are found, and `tau`, of ACDC alone."""

    name: str
    task: str
    checkpoints: tuple[str, ...]
    beside: tuple[str, ...] = ()
    other: str = ""
    n_pairs: int = 64  # to find it, and as many to judge it
    n_steps: int = 5  # of integrated gradients
    seed: int = 0
    source: str = ""
    source_sha256: str = ""
    finder: str = dataclasses.field(default=EAP_IG, metadata=LATER)
    tau: float = dataclasses.field(default=0.0, metadata=LATER)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> CircuitConfig:
        """As an artefact has it; one of before there was a choice of finders names none."""
        return parse(cls, config, "a circuit's configuration")

    def settings(self) -> dict[str, Any]:
        """What the circuit's id is made of."""
        return given(self)


@dataclasses.dataclass(frozen=True)
class FeatureCircuitConfig:
    """What the latents of a checkpoint's SAEs, one a site, are worth to one task; `source` as of a circuit."""

    name: str
    task: str
    checkpoint: str
    dictionaries: tuple[str, ...]
    n_pairs: int = 64  # to score latents, and as many to judge them
    n_steps: int = 10  # of integrated gradients
    seed: int = 0
    source: str = ""
    source_sha256: str = ""
