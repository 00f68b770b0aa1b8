"""Which nodes and edges of an attribution graph carry what it says, and how much of it the errors carry.

    Â = |A| / row sums                     row = target, column = source
    B = Â + Â² + … = (I − Â)⁻¹ − I         all paths; Â is nilpotent, a graph has no cycle
    influence_s = Σ_t w_t B_ts             w: the probabilities of the logit nodes, 0 elsewhere

Nodes are kept in order of influence until they hold `NODES` of it all, then edges in order of Â_ts (influence_t +
w_t) until they hold `EDGES`; nodes that lead nowhere any more, and latents that nothing leads to, are taken out
until none is left. Tokens and logits always stay. [Ameisen 2025; defaults and scores as in circuit-tracer]

    replacement score    influence of the tokens / (tokens + errors): paths that pass no error
    completeness score   mean over nodes, weighted by influence + w, of the share of a node's input that is no error
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from workbench.circuits.attribution_graph import AttributionGraph

NODES, EDGES = 0.8, 0.98

Matrix = Float[np.ndarray, "target source"]
ByNode = Float[np.ndarray, "node"]


class Pruned(NamedTuple):
    """What is kept. `cumulative`: the share of all influence that a node and those before it hold."""

    nodes: Bool[np.ndarray, "node"]
    edges: Bool[np.ndarray, "target source"]
    influence: ByNode
    cumulative: ByNode


class GraphScores(NamedTuple):
    replacement: float
    completeness: float


def normalised(adjacency: Matrix) -> Matrix:
    """|A| with rows that sum to one (or to zero, where nothing comes in)."""
    weight = np.abs(adjacency, dtype=np.float64)
    total = weight.sum(axis=1, keepdims=True)
    return np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)


def influence(weights: Matrix, logits: ByNode) -> ByNode:
    """w B of a normalised adjacency. `ValueError` where it has a cycle."""
    found, on_the_way = np.zeros(len(weights)), logits.astype(np.float64)
    for _ in range(len(weights) + 1):
        on_the_way = on_the_way @ weights
        if not on_the_way.any():
            return found
        found += on_the_way
    raise ValueError("the graph has a cycle: influence would not end")


def prune(graph: AttributionGraph, nodes: float = NODES, edges: float = EDGES) -> Pruned:
    """The nodes and edges that hold those shares of the influence."""
    for name, share in (("nodes", nodes), ("edges", edges)):
        if not 0 <= share <= 1:
            raise ValueError(f"the share of {name} is {share}: give one from 0 to 1")
    logits, fixed = graph.logit_weights, graph.n_latents + graph.n_errors
    held = influence(normalised(graph.adjacency), logits)
    keep = held >= _bound(held, nodes)
    keep[fixed:] = True
    left = normalised(np.where(keep[:, None] & keep[None], graph.adjacency, 0))
    along = left * (influence(left, logits) + logits)[:, None]
    kept = (along >= _bound(along.ravel(), edges)) & (along > 0)
    while True:
        alive = keep.copy()
        alive[:fixed] &= kept[:, :fixed].any(axis=0)
        alive[: graph.n_latents] &= kept[: graph.n_latents].any(axis=1)
        kept = kept & alive[:, None] & alive[None]
        if (alive == keep).all():
            break
        keep = alive
    order = np.argsort(-held, kind="stable")
    cumulative = np.zeros_like(held)
    cumulative[order] = np.cumsum(held[order]) / (held.sum() or 1.0)
    return Pruned(keep, kept, held, cumulative)


def _bound(scores: Float[np.ndarray, "score"], share: float) -> float:
    """The score of the last that is needed for this share of their sum."""
    falling = np.sort(scores)[::-1]
    sums = np.cumsum(falling)
    return float(falling[min(int(np.searchsorted(sums, share * sums[-1])), len(falling) - 1)])


def graph_scores(graph: AttributionGraph) -> GraphScores:
    """Replacement and completeness of the whole graph. Where no path ends in a token or an error both are NaN."""
    weights, logits = normalised(graph.adjacency), graph.logit_weights
    held = influence(weights, logits)
    tokens, errors = held[graph.tokens].sum(), held[graph.errors].sum()
    out = held + logits
    own = 1 - weights[:, graph.errors].sum(axis=1)
    if not tokens + errors:
        return GraphScores(float("nan"), float("nan"))
    return GraphScores(float(tokens / (tokens + errors)), float((own * out).sum() / out.sum()))
