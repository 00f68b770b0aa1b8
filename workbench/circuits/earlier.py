"""Circuits on the disk that earlier code found, or other settings: no longer what the recipe asks for."""

from __future__ import annotations

from typing import NamedTuple

from workbench.circuits.circuit_history import how_to_ask
from workbench.lab import Lab
from workbench.plan import Plan
from workbench.rebuilt import what_differs


class Earlier(NamedTuple):
    """`why`: what differs from the circuit of the name that is on the disk; `command` finds it anew."""

    name: str
    why: str
    command: str


def earlier_circuits(lab: Lab) -> list[Earlier]:
    """The recipe's circuits that are not finished as they would be found now, and were found otherwise before."""
    plan, found = Plan.of(lab), []
    for circuit in plan.recipe.circuits:
        step = plan.step("circuit", circuit.name)
        if lab.artefact(step.kind, step.name, step.id) is None and (why := what_differs(lab, step)):
            found.append(Earlier(circuit.name, why, how_to_ask(lab.name, step.config)))
    return found
