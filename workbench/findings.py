"""Answers of probes that a lab holds. No recipe names them: one is current while the checkpoints that it is about
are those of the recipe."""

from __future__ import annotations

from typing import Any

from workbench.lab import Artefact, Lab
from workbench.plan import Plan

KIND = "probe"


def current_findings(lab: Lab, plan: Plan) -> list[Artefact]:
    """Those about checkpoints as they are now, newest first."""
    now = {step.key: step.id for step in plan.steps.values()}
    found = reversed(lab.artefacts(KIND))
    return [a for a in found if all(now.get(key) == id_ for key, id_ in a.manifest["parents"].items())]


def newest_by_name(findings: list[Artefact]) -> dict[str, dict[str, Any]]:
    """What each probe last answered, and about which checkpoints."""
    told: dict[str, dict[str, Any]] = {}
    for each in findings:
        told.setdefault(each.name, {"checkpoints": each.config["checkpoints"], **each.figures})
    return dict(sorted(told.items()))
