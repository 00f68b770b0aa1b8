"""The strongest paths of an attribution graph to one of its logits.

    share          Π Â_ts along the path, Â = |A| / row sums: of all that comes into the logit, by whatever way
    contribution   A_logit,s · Π A_ts / value_t: what the path alone brings, in units of the logit

Paths begin at a token or an error, which nothing comes into. With the biases' own the contributions of all paths
sum to the logit, exactly in the linear model; they may be far larger than the logit and cancel, so paths are
ordered by share, as nodes are by influence [Ameisen 2025].
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from workbench.circuits.attribution_graph import AttributionGraph
from workbench.circuits.graph_pruning import normalised


class GraphPath(NamedTuple):
    """Nodes from the first to the logit."""

    share: float
    contribution: float
    nodes: tuple[int, ...]


def strongest_paths(
    graph: AttributionGraph, edges: Bool[np.ndarray, "target source"], n: int = 5, rank: int = 0
) -> list[GraphPath]:
    """The `n` paths of largest share along `edges` to the logit of this rank. What is pruned counts in the share's
    denominator."""
    weights, logit = normalised(graph.adjacency), graph.logits.start + rank
    best = {node: [GraphPath(1.0, 1.0, (node,))] for node in range(graph.errors.start, graph.tokens.stop)}
    for target in (*range(graph.n_latents), logit):  # latents come by layer: sources before targets
        row = graph.adjacency[target].astype(np.float64) / (graph.values[target] if target != logit else 1.0)
        best[target] = _best_into(target, np.flatnonzero(edges[target]).tolist(), weights[target], row, best, n)
    return best[logit]


def _best_into(
    target: int,
    sources: list[int],
    weights: Float[np.ndarray, "source"],
    relative: Float[np.ndarray, "source"],
    best: dict[int, list[GraphPath]],
    n: int,
) -> list[GraphPath]:
    longer = (
        GraphPath(float(weights[s]) * path.share, float(relative[s]) * path.contribution, (*path.nodes, target))
        for s in sources
        for path in best[s]
    )
    return heapq.nlargest(n, longer)
