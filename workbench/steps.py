"""One artefact of a recipe to be, and what collects them: ids follow as soon as the parents are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from workbench.builders import BUILDERS, Builder
from workbench.lab import artefact_id


@dataclasses.dataclass(frozen=True)
class Step:
    """One artefact to be: `key` is "kind/name"; `parents` are keys of earlier steps."""

    kind: str
    name: str
    id: str
    config: Mapping[str, Any]
    parents: Mapping[str, str]  # key -> id
    builder: Builder

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"


class Planner:
    """Collects steps; ids follow as soon as the parents are known."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}

    def add(self, kind: str, name: str, builder: str, config: Mapping[str, Any], *parents: str) -> None:
        parent_ids = {key: self.steps[key].id for key in parents}
        made = BUILDERS[builder]
        id_ = artefact_id(kind, config, list(parent_ids.values()), made.version)
        self.steps[f"{kind}/{name}"] = Step(kind, name, id_, config, parent_ids, made)
