"""How alike two circuits are, and how alike two of one checkpoint would be.

    Jaccard           |A ∩ B| / |A ∪ B|, of nodes and of edges, both circuits of as many edges (`sized`)
    weighted Jaccard  Σ min / Σ max of scores over all edges, helping and hindering apart, each checkpoint's scaled
                      to a sum of 1: what share of the weight lies on the same edges with the same sign

The floor is what two drawings of pairs from one checkpoint have in common, both with return. (A drawing beside the
circuit of all pairs has more: it is as if one of the two had no noise.) Two checkpoints differ where they have less
in common than that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from workbench.circuits.attribution import EdgeScores
from workbench.circuits.circuit import GREEDY, Scores, sized
from workbench.circuits.graph import Graph, nodes_of

DRAWS = 200


class Overlap(NamedTuple):
    """Jaccard of edges and of nodes, and the weighted one."""

    edges: float
    nodes: float
    weights: float


def jaccard(a: set[Any], b: set[Any]) -> float:
    """1 for two empty ones."""
    return len(a & b) / len(a | b) if a | b else 1.0


def weighted_jaccard(a: Scores, b: Scores) -> float:
    """Of scores whose |sum| is one; 0 where one has none at all."""
    parts = [np.concatenate([np.maximum(s, 0).ravel(), np.maximum(-s, 0).ravel()]) for s in (a, b)]
    if not all(part.sum() > 0 for part in parts):
        return 0.0
    x, y = (part / part.sum() for part in parts)
    return float(np.minimum(x, y).sum() / np.maximum(x, y).sum())


def overlap(graph: Graph, a: Scores, b: Scores, n: int, how: str = GREEDY) -> Overlap:
    """Of the circuits of n edges that two checkpoints' scores choose."""
    first, second = sized(graph, a, n, how), sized(graph, b, n, how)
    edges = jaccard(set(np.flatnonzero(first)), set(np.flatnonzero(second)))
    nodes = jaccard(set(nodes_of(graph, first)), set(nodes_of(graph, second)))
    return Overlap(edges, nodes, weighted_jaccard(a, b))


def redrawn(scores: EdgeScores, n: int, seed: int = 0, draws: int = DRAWS) -> Float[np.ndarray, "draw 3"]:
    """The overlap of a checkpoint's circuit with its own, each found on pairs drawn with return."""
    rng = np.random.default_rng(seed)
    pairs = len(scores.by_pair)
    flat = scores.by_pair.reshape(pairs, -1)
    weights = rng.multinomial(pairs, np.full(pairs, 1 / pairs), size=2 * draws) / pairs
    means = (weights @ flat).reshape(draws, 2, *scores.mean.shape)
    return np.array([overlap(scores.graph, one, other, n) for one, other in means])


def floor(drawn: Float[np.ndarray, "draw 3"]) -> Overlap:
    """What 95 % of the drawings have at least."""
    return Overlap(*(float(each) for each in np.quantile(drawn, 0.05, axis=0)))
