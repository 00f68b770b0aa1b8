"""Two checkpoints' circuits on one graph: which edges were kept, lost, gained, reweighted.

    s_e = score_e / Σ |score|    over all edges of the checkpoint, so that a larger m alone changes nothing

Both circuits have as many edges (those that `overlap` compares), so none is lost because one was allowed fewer.
kept and reweighted edges are in both; an edge is reweighted if the 95 % intervals of its s in the two do not meet.
Intervals are each checkpoint's own, on the same pairs: edges whose change is small beside the spread over pairs
count as kept. Lost and gained edges may lie just at the cut: two drawings of pairs from one checkpoint lose and
gain some too (the floor of `overlap`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from workbench.circuits.circuit import GREEDY, Scores, sized
from workbench.circuits.graph import Edges, Graph, nodes_of

KEPT, REWEIGHTED, LOST, GAINED = KINDS = ("kept", "reweighted", "lost", "gained")


class Scored(NamedTuple):
    """Scores of every edge with their intervals over pairs."""

    mean: Scores
    low: Scores
    high: Scores

    def scaled(self) -> Scored:
        """To a sum of |mean| of 1; as it is where there is none."""
        total = np.abs(self.mean).sum()
        return self if total == 0 else Scored(*(part / total for part in self))


class Change(NamedTuple):
    """One edge; scores are in logits, `s_before` and `s_after` shares of each checkpoint's Σ |score|."""

    sender: str
    receiver: str
    kind: str
    before: float
    after: float
    s_before: float
    s_after: float


@dataclasses.dataclass(frozen=True)
class DifferenceGraph:
    """What became of every edge of either circuit, the largest change of s first."""

    sizes: tuple[int, int]  # of the two circuits; they differ where one edge more brought several to life
    changes: tuple[Change, ...]

    def counts(self) -> Mapping[str, int]:
        """Edges of each kind."""
        return {kind: sum(each.kind == kind for each in self.changes) for kind in KINDS}

    @property
    def jaccard(self) -> float:
        """Of the edges, as `overlap` has it; 1 of two empty circuits."""
        counts = self.counts()
        both = counts[KEPT] + counts[REWEIGHTED]
        return both / len(self.changes) if self.changes else 1.0

    def nodes(self, graph: Graph) -> list[str]:
        """Components of either circuit."""
        edges = np.zeros(graph.edges.shape, dtype=bool)
        for each in self.changes:
            edges[graph.named(each.sender, each.receiver)] = True
        return nodes_of(graph, edges)


def difference(graph: Graph, before: Scored, after: Scored, n: int, how: str = GREEDY) -> DifferenceGraph:
    """Of the circuits of n edges that the two choose."""
    first, second = sized(graph, before.mean, n, how), sized(graph, after.mean, n, how)
    a, b = before.scaled(), after.scaled()
    apart = (a.low > b.high) | (b.low > a.high)
    found = [
        Change(
            graph.senders[s], graph.receivers[r].name, _kind(first, second, apart, (s, r)),
            float(before.mean[s, r]), float(after.mean[s, r]), float(a.mean[s, r]), float(b.mean[s, r]),
        )
        for s, r in np.argwhere(first | second).tolist()
    ]  # fmt: skip
    sizes = (int(first.sum()), int(second.sum()))
    return DifferenceGraph(sizes, tuple(sorted(found, key=lambda each: -abs(each.s_after - each.s_before))))


def _kind(first: Edges, second: Edges, apart: Edges, at: tuple[int, int]) -> str:
    if first[at] and second[at]:
        return REWEIGHTED if apart[at] else KEPT
    return LOST if first[at] else GAINED
