"""One prompt, continued greedily at snapshots from a model's first step to what it became.

The root of the lineage is shown at snapshots from its first step on (they are kept at steps about a factor apart,
since training changes most where steps are few), every later stage at its end.
"""

from __future__ import annotations

from workbench.checkpoint import Checkpoint
from workbench.lab import Lab

ROOT_SNAPSHOTS = 5  # of the root, its end left out


def moments(lab: Lab, address: str, n: int = ROOT_SNAPSHOTS) -> list[str]:
    """Addresses along a checkpoint's lineage: `n` snapshots of the root, then the end of each stage up to it."""
    asked = Checkpoint.of(lab, address)
    root, *later = asked.lineage()
    grown = Checkpoint.of(lab, f"{root}@latest") if later else asked
    steps = grown.snapshots()
    before = steps[:-1] if grown.step is None else [step for step in steps if step < grown.step]
    ends = [grown.address, *later[:-1], asked.address] if later else [asked.address]
    return [*(f"{root}@{step}" for step in spread(before, n)), *ends]


def spread(steps: list[int], n: int) -> list[int]:
    """`n` of ascending steps, evenly spaced in their order, the first and the last among them."""
    if len(steps) <= n:
        return steps
    return [steps[round(i * (len(steps) - 1) / (n - 1))] for i in range(n)]
