"""What a later checkpoint made of a circuit: reused, reweighted, rewired, or nobody can say.

    F[i, j]  faithfulness in checkpoint j of the circuit found in i, on the same pairs

    reused        i's circuit is as faithful in j as j's own, and edges and weights overlap as much as two drawings
                  of one checkpoint (or two seeds of the stage, where a sibling is grown) do
    reweighted    i's circuit is as faithful in j, but edges or weights overlap less than that
    rewired       i's circuit is less faithful in j than j's own, and edges overlap less than that
    undetermined  a checkpoint does not do the task, a circuit is not faithful at home or is most of the model, the
                  circuit of another task does as well, i's circuit does far more than the task in j (it leaves out
                  what hinders there), or the evidence points both ways

Overlap of edges says nothing of whether a circuit works [Hanna 2024], so faithfulness is asked first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from workbench.circuits.faithfulness import Ends, Measured, share_of_task
from workbench.circuits.overlap import Overlap

REUSED, REWEIGHTED, REWIRED, UNDETERMINED = "reused", "reweighted", "rewired", "undetermined"
WITHIN = 0.2  # of f: what counts as faithful, and as as faithful as
HARDLY = 0.5  # of random circuits: where so many are faithful, being faithful is hardly the edges' doing
LARGEST = 0.5  # of the edges: a circuit that needs more is faithful wherever it is put


class Evidence(NamedTuple):
    """What a verdict on the way from i to j stands on. `gap`: F[i, j] − F[j, j] with its interval."""

    does_before: bool
    does_after: bool
    home_before: Measured
    home_after: Measured
    moved: Measured
    gap: Measured
    other_task: Measured | None
    overlap: Overlap
    floor: Overlap
    n_edges: int  # of i's circuit
    share_before: float  # of all edges
    share_after: float
    n_compared: int  # edges of either in `overlap`
    random_faithful: float  # of the random circuits with the degrees of j's, the share that is faithful in j


class Verdict(NamedTuple):
    """One of the four words, and the sentence that says why."""

    word: str
    why: str


def gap(
    moved: Float[np.ndarray, "pair"], own: Float[np.ndarray, "pair"], between: Ends, seed: int = 0
) -> Measured:
    """F[i, j] − F[j, j], its interval over pairs drawn for both at once."""
    return share_of_task(moved - own, between, seed)


def verdict(found: Evidence, before: str, after: str) -> Verdict:
    """The word, by the rules above."""
    for name, does in ((before, found.does_before), (after, found.does_after)):
        if not does:
            why = f"{name} does not do the task, so it has no circuit for it"
            if found.does_after and abs(1 - found.home_before.f) <= WITHIN:
                why += (
                    f"; the {found.n_edges} edges by which the prompts move its answer do f {found.moved.f:.2f} in "
                    f"{after}, whose own circuit has {found.home_after.f:.2f}"
                )
            return Verdict(UNDETERMINED, why)
    for name, home in ((before, found.home_before), (after, found.home_after)):
        if not abs(1 - home.f) <= WITHIN:
            return Verdict(
                UNDETERMINED, f"the circuit of {name} is not faithful in {name} itself (f {home.f:.2f})"
            )
    for name, share in ((before, found.share_before), (after, found.share_after)):
        if share > LARGEST:
            return Verdict(
                UNDETERMINED, f"{name} needs {share:.0%} of all edges for the task, which is no circuit"
            )
    if found.other_task is not None and found.other_task.high >= found.moved.f:
        return Verdict(
            UNDETERMINED,
            f"the circuit of another task does as well in {after} "
            f"(f {found.other_task.f:.2f} against {found.moved.f:.2f})",
        )
    same_edges = found.overlap.edges >= found.floor.edges
    same_weights = found.overlap.weights >= found.floor.weights
    told = (
        f"of {found.n_compared} edges of each, edges {found.overlap.edges:.2f} (floor {found.floor.edges:.2f}), "
        f"weights {found.overlap.weights:.2f} (floor {found.floor.weights:.2f})"
    )
    there = (
        f"the circuit of {before} has f {found.moved.f:.2f} in {after}, whose own has {found.home_after.f:.2f}"
    )
    if found.random_faithful >= HARDLY:
        told += (
            f"; {found.random_faithful:.0%} of random circuits are faithful in {after} too, so which edges it has "
            "says little"
        )
    if found.gap.low > WITHIN:
        return Verdict(UNDETERMINED, f"{there}: far more than the task, so it leaves out edges that hinder")
    if found.gap.low >= -WITHIN:
        word = REUSED if same_edges and same_weights else REWEIGHTED
        return Verdict(word, f"{there}; in common: {told}")
    if found.gap.high < 0 and not same_edges:
        return Verdict(REWIRED, f"{there}; in common: {told}")
    return Verdict(UNDETERMINED, f"{there}, and yet in common: {told}")
