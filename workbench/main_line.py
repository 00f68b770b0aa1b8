"""Which checkpoint to look at beside another: the end of its own main line.

The main line of a family is its stages (and checkpoints that were added to it) in order; branches, such as controls
and GRPO without SFT, stand beside it. A branch may equal its parent in every weight, so it is never
proposed.
"""

from __future__ import annotations

from collections.abc import Sequence

from workbench.plan import Plan
from workbench.recipe import stage_of


def main_first(plan: Plan, addresses: Sequence[str]) -> list[str]:
    """`addresses` in their order, those of branches last."""
    aside = {branch.name for branch in plan.recipe.branches}
    return sorted(addresses, key=lambda address: stage_of(address) in aside)


def end_of_line(plan: Plan, first: str, addresses: Sequence[str]) -> str | None:
    """The last finished checkpoint of the main line of `first`, another than `first`; None where there is none."""
    aside = {branch.name for branch in plan.recipe.branches}
    family = plan.family(first)
    line = [a for a in addresses if "@" not in a and a not in aside and plan.family(a) == family]
    others = [address for address in line if address != first]
    return others[-1] if others else None
