"""ACDC: a circuit found by taking edges out for good, one after the other [Conmy 2023].

From the logits down, and of each reader the latest writer first: an edge stays out if without it (its corrupt value
in its place) what the circuit does falls by at most τ, in units of m(M) − m(∅). It is slower than scores by
gradients, and it depends on the order; as a second finder it shows which edges both agree on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.faithfulness import ends
from workbench.circuits.graph import Edges, alive
from workbench.circuits.pairs import Pairs

TAU = 0.01


def acdc(
    model: CircuitModel, pairs: Pairs, tau: float = TAU, done: Callable[[int], None] = lambda n: None
) -> Edges:
    """The edges that are left; `done` is told of every edge that has been tried or fell away with others."""
    pairs = pairs.to(model.device)
    corrupt, between = model.written(pairs.corrupt), ends(model, pairs)
    whole = float((between.full - between.none).mean())
    if whole <= 0:
        raise ValueError("the model does not do the task, so no edge can be told to matter")

    def worth(edges: Edges) -> float:
        kept = torch.from_numpy(edges).to(model.device).expand(len(pairs), -1, -1)
        return float(model.patched(pairs, corrupt, kept).double().mean())

    edges, usual = model.graph.edges.copy(), float(between.full.mean())
    for receiver in reversed(range(edges.shape[1])):
        for sender in reversed(np.flatnonzero(edges[:, receiver])):
            if not edges[sender, receiver]:
                continue  # fell away as a dead end
            tried = edges.copy()
            tried[sender, receiver] = False
            tried = alive(model.graph, tried)
            if (usual - (left := worth(tried))) / whole <= tau:
                done(int(edges.sum() - tried.sum()))
                edges, usual = tried, left
            else:
                done(1)
    return edges
