"""One edge taken out, exactly: of the whole model, and of the circuit.

    alone    m(M ∖ e) − m(M)    the sign of scores: an edge that helps has a negative one
    within   f(C), and f(C ∖ e) with what becomes a dead end

An edge that has a double looks idle alone and within alike; its score is an estimate of `alone`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from workbench.circuits.circuit import Circuit
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.competence import Estimate
from workbench.circuits.faithfulness import Measured, circuit_scores, ends, faithfulness
from workbench.circuits.graph import alive
from workbench.circuits.pairs import Pairs
from workbench.intervals import ratio_interval


class OneEdge(NamedTuple):
    """`circuit` and `without` are None where the edge is not in the circuit; `n` counts pairs."""

    alone: Estimate
    circuit: Measured | None
    without: Measured | None
    n: int


def taken_out(model: CircuitModel, pairs: Pairs, circuit: Circuit, sender: str, receiver: str) -> OneEdge:
    """What is left without an edge. `KeyError` where the graph has none such."""
    at = circuit.graph.named(sender, receiver)
    whole, left = circuit.graph.edges.copy(), circuit.edges.copy()
    whole[at] = left[at] = False
    inside = bool(circuit.edges[at])
    rows = [whole, circuit.edges, alive(circuit.graph, left)] if inside else [whole]
    m, between = circuit_scores(model, pairs, np.stack(rows)), ends(model, pairs)
    change = m[0] - between.full
    alone = Estimate(float(change.mean()), *ratio_interval(change, np.ones(len(change))))
    if not inside:
        return OneEdge(alone, None, None, len(pairs))
    return OneEdge(alone, faithfulness(m[1], between), faithfulness(m[2], between), len(pairs))
