"""Why a step is built that the lab already has an artefact of, by name: what differs from that one.

An id follows from configuration, parents and code version, and the manifest keeps all three: a step whose id is
another differs in one of them from each earlier artefact of its name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from workbench.errors import Failure
from workbench.lab import MANIFEST, Artefact, Lab, canonical, read_artefact

if TYPE_CHECKING:
    from workbench.steps import Step

_ID = "[0-9a-f]" * 12


def why_again(lab: Lab, step: Step) -> str:
    """A line; empty where the lab has no artefact of the step's name. Of several the newest is meant."""
    differs = what_differs(lab, step)
    if not differs:
        return ""
    return (
        f"{step.key} was built before and is built again: {differs}; the earlier one stays on the disk until "
        "`prune` removes it"
    )


def what_differs(lab: Lab, step: Step) -> str:
    """In what the newest earlier artefact of the step's name is another; empty where there is none."""
    found = []
    for manifest in (lab.path / step.kind).glob(f"{step.name}-{_ID}/{MANIFEST}"):
        with contextlib.suppress(Failure):  # a damaged one tells nothing, and is not what is built
            found.append(read_artefact(manifest.parent))
    found = [each for each in found if each.id != step.id]
    if not found:
        return ""
    newest = max(found, key=lambda each: each.manifest["created"])
    return "; ".join(_differences(newest, step))


def _differences(before: Artefact, step: Step) -> Iterator[str]:
    version = before.manifest["version"]
    if version != step.builder.version:
        yield f"the code of this step has changed since (version {version}, now {step.builder.version})"
    old, new = ({key: canonical(value) for key, value in each.items()} for each in (before.config, step.config))
    if changed := [key for key in dict.fromkeys((*new, *old)) if new.get(key) != old.get(key)]:
        yield f"settings differ ({', '.join(changed)})"
    stood, stands = before.manifest["parents"], step.parents
    if parents := [key for key in dict.fromkeys((*stands, *stood)) if stands.get(key) != stood.get(key)]:
        yield f"what it stands on is another ({', '.join(parents)})"
