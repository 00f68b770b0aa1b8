"""A circuit: the edges that a checkpoint needs for a task, and three ways of choosing them from scores.

    top      the n edges of largest |score| [Syed 2023]
    helping  the n edges of most negative score: those that help (MIB's CPR orders so)
    greedy   from the logits down, always the edge of largest |score| whose reader is in already [Hanna 2024]

Dead ends are pruned afterwards, so a circuit may have fewer edges than were asked for: where two are to be equally
large (`sized`), more are asked for until as many are left.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from workbench.circuits.graph import Edges, Graph, alive, nodes_of

if TYPE_CHECKING:
    from workbench.notebook import Shown

TOP, HELPING, GREEDY = "top", "helping", "greedy"

Scores = Float[np.ndarray, "sender receiver"]


@dataclasses.dataclass(frozen=True)
class Circuit:
    """Edges with their scores, for one task and one checkpoint. Nothing in it is a dead end."""

    graph: Graph
    task: str
    checkpoint: str
    edges: Edges
    scores: Scores

    def __post_init__(self) -> None:
        if not (alive(self.graph, self.edges) == self.edges).all():
            raise ValueError("a circuit has edges that are none of the graph's, or that lead nowhere")

    @property
    def n_edges(self) -> int:
        return int(self.edges.sum())

    @property
    def share(self) -> float:
        """Of the graph's edges."""
        return self.n_edges / self.graph.n_edges

    @property
    def nodes(self) -> list[str]:
        return nodes_of(self.graph, self.edges)

    def named_edges(self) -> list[tuple[str, str, float]]:
        """Sender, receiver and score, the largest |score| first."""
        found = [
            (self.graph.senders[s], self.graph.receivers[r].name, float(self.scores[s, r]))
            for s, r in np.argwhere(self.edges)
        ]
        return sorted(found, key=lambda edge: -abs(edge[2]))

    def show(self) -> Shown:
        """For a notebook: the picture, the sign of scores, the strongest edges."""
        from workbench.circuits.circuit_show import show_circuit

        return show_circuit(self)


def chosen(graph: Graph, scores: Scores, n: int, how: str = TOP) -> Edges:
    """At most n edges, none a dead end. `KeyError` for another way than the three."""
    if n >= graph.n_edges:
        return graph.edges.copy()
    return _left(graph, _order(graph, scores, n, how))


def sized(graph: Graph, scores: Scores, n: int, how: str = GREEDY) -> Edges:
    """The smallest circuit of n edges or more that these scores choose: one of n edges that `chosen` gave is found
    again. One edge more can bring several to life, so that there may be a few above n."""
    asked, order = n, _order(graph, scores, n, how)
    while _left(graph, order).sum() < n and asked < graph.n_edges:
        asked = min(2 * asked, graph.n_edges)
        order = _order(graph, scores, asked, how)
    # picks are added to those before and bring none of them to an end, so what is left grows with their number
    picks = range(len(order) + 1)
    return _left(graph, order[: bisect.bisect_left(picks, n, key=lambda k: int(_left(graph, order[:k]).sum()))])


def _left(graph: Graph, picked: Int[np.ndarray, "edge"]) -> Edges:
    """The edges picked, by their places in the flat table, without dead ends."""
    edges = np.zeros(graph.edges.shape, dtype=bool)
    edges.ravel()[picked] = True
    return alive(graph, edges)


def _order(graph: Graph, scores: Scores, n: int, how: str) -> Int[np.ndarray, "edge"]:
    """The first n picks, as places in the flat table."""
    if how == GREEDY:
        return _greedy(graph, scores, n)
    worth = {TOP: np.abs(scores), HELPING: -scores}[how]
    return np.argsort(-np.where(graph.edges, worth, -np.inf), axis=None, kind="stable")[:n]


def _greedy(graph: Graph, scores: Scores, n: int) -> Int[np.ndarray, "edge"]:
    taken: list[int] = []
    waiting: list[tuple[float, int, int]] = []
    opened = set[int]()

    def open_reader(receiver: int) -> None:
        if receiver not in opened:
            opened.add(receiver)
            for sender in range(graph.receivers[receiver].n_senders):
                heapq.heappush(waiting, (-abs(float(scores[sender, receiver])), sender, receiver))

    open_reader(len(graph.receivers) - 1)
    while waiting and len(taken) < n:
        _, sender, receiver = heapq.heappop(waiting)
        taken.append(sender * graph.edges.shape[1] + receiver)
        for reader in np.flatnonzero(graph.feeds[sender]):
            open_reader(int(reader))
    return np.array(taken, dtype=np.int64)


def smallest_faithful(shares: list[float], f: list[float], within: float = 0.2) -> float | None:
    """The smallest share from which |1 − f| stays within so much at every larger one; None where none does."""
    best = None
    for share, value in sorted(zip(shares, f, strict=True), reverse=True):
        if not abs(1 - value) <= within:
            break
        best = share
    return best
