"""ACDC: a circuit found by taking edges out for good, one after the other [Conmy 2023].

From the logits down, and of each reader the latest writer first: an edge stays out if without it (its corrupt value
in its place) what the circuit does falls by at most τ, in units of m(M) − m(∅). It is slower than scores by
gradients, and it depends on the order; as a second finder it shows which edges both agree on.

    score(e) = m(C ∖ e) − m(C)    C: the circuit as it stood when e was tried; with e went what became a dead end

That is what an edge of the circuit was kept for, and what taking another out cost; an edge that fell away as a dead
end was never tried and has 0. The sign is that of other scores: an edge that helps has a negative one. Since C
shrinks on the way, scores of edges that were tried late are of a smaller circuit than those tried early.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from workbench.circuits.attribution import EdgeScores
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.faithfulness import ends
from workbench.circuits.graph import Edges, alive
from workbench.circuits.pairs import Pairs
from workbench.errors import Misuse

TAU = 0.01


class TakenOut(NamedTuple):
    """The edges that are left, and what m changed by as each was tried."""

    edges: Edges
    scores: EdgeScores


def take_out(
    model: CircuitModel, pairs: Pairs, tau: float = TAU, done: Callable[[int], None] = lambda n: None
) -> TakenOut:
    """The edges that are left, with scores; `done` is told of every edge that has been tried or fell away with
    others. Where m(M) is below m(∅) the change towards m(∅) counts, as in f."""
    pairs = pairs.to(model.device)
    corrupt, between = model.written(pairs.corrupt), ends(model, pairs)
    whole = float((between.full - between.none).mean())
    if whole == 0:
        raise Misuse(
            f"clean and corrupt prompts of task {pairs.task!r} give the same m, so no edge can be told to matter: "
            "take other prompts"
        )

    def worth(edges: Edges) -> Float[np.ndarray, "pair"]:
        kept = torch.from_numpy(edges).to(model.device).expand(len(pairs), -1, -1)
        return model.patched(pairs, corrupt, kept).double().cpu().numpy()

    edges, usual = model.graph.edges.copy(), between.full
    scores = np.zeros((len(pairs), *edges.shape), dtype=np.float32)
    for receiver in reversed(range(edges.shape[1])):
        for sender in reversed(np.flatnonzero(edges[:, receiver])):
            if not edges[sender, receiver]:
                continue  # fell away as a dead end
            tried = edges.copy()
            tried[sender, receiver] = False
            tried = alive(model.graph, tried)
            left = worth(tried)
            scores[:, sender, receiver] = left - usual
            if float((usual - left).mean()) / whole <= tau:
                done(int(edges.sum() - tried.sum()))
                edges, usual = tried, left
            else:
                done(1)
    return TakenOut(edges, EdgeScores(model.graph, f"ACDC, τ {tau:g}", scores))
