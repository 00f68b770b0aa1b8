"""Every edge patched for itself: what attribution estimates, exactly.

    effect(u→v) = m with a_u^corr in the place of a_u in what v reads, and nowhere else, minus m

One forward pass an edge and pair, many of them in a batch. What an edge is worth alone is no estimate, but it is
not what it is worth together with others: of two edges that do the same, each looks idle.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from workbench.circuits.attribution import EdgeScores
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.graph import Graph
from workbench.circuits.pairs import Pairs
from workbench.errors import Misuse

MOST_EDGES = 5_000  # that are patched one by one


def refuse_many(graph: Graph, most_edges: int = MOST_EDGES) -> None:
    """`Misuse` where a graph has too many edges for a forward pass each."""
    if (n := graph.n_edges) > most_edges:
        raise Misuse(
            f"this model has {n:,} edges, and patching each takes a forward pass of every pair: at most "
            f"{most_edges:,} are patched one by one; EAP-IG estimates all of them from a few passes"
        )


def exact_scores(
    model: CircuitModel,
    pairs: Pairs,
    most_edges: int = MOST_EDGES,
    done: Callable[[int], None] = lambda n: None,
) -> EdgeScores:
    """The effect of every edge on every pair; `done` is told how many runs of one prompt have been made."""
    refuse_many(model.graph, most_edges)
    pairs = pairs.to(model.device)
    difference = model.written(pairs.corrupt) - model.written(pairs.clean)
    usual = model.scores(pairs.clean, pairs)
    # by receiver, so that a batch touches few reads
    receiver, sender = np.nonzero(model.graph.edges.T)
    edge, pair = np.divmod(np.arange(len(receiver) * len(pairs)), len(pairs))
    found = np.zeros((len(pairs), *model.graph.edges.shape), dtype=np.float32)
    size = max(1, model.tokens_at_once // pairs.clean.shape[1])
    for at in range(0, len(edge), size):
        e, p = edge[at : at + size], pair[at : at + size]
        some = pairs.rows(torch.from_numpy(p))
        m = model.nudged(some, torch.from_numpy(receiver[e]), difference[p, :, sender[e]])
        found[p, sender[e], receiver[e]] = (m - usual[p]).cpu().numpy()
        done(len(e))
    return EdgeScores(model.graph, "exact", found)
