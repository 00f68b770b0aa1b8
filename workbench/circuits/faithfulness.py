"""How much of what a checkpoint does at a task its circuit does alone, everything else as on the corrupt prompt.

    f(C) = (m(C) − m(∅)) / (m(M) − m(∅))        ∅ no edge, M all of them; a ratio of means over pairs [MIB 2025]
    CPR  = ∫ f dk, edges in order of how much they help; CMD = ∫ |1 − f| dk, edges in order of |score|
           k the share of edges in {.01, .02, .05, .1, .2, .5, 1}, by trapezoids

Intervals are over pairs drawn with return, together in numerator and denominator. Where the checkpoint does not do
the task, m(M) − m(∅) is noise and so is f: ask `competence` first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float

from workbench.circuits.circuit import TOP, Scores, chosen
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.graph import Graph
from workbench.circuits.pairs import Pairs
from workbench.intervals import ratio_interval

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

Circuits = Bool[np.ndarray, "circuit sender receiver"]
ByPair = Float[np.ndarray, "circuit pair"]


class Ends(NamedTuple):
    """m of every pair with all edges and with none."""

    full: Float[np.ndarray, "pair"]
    none: Float[np.ndarray, "pair"]


class Measured(NamedTuple):
    """f with its 95 % interval over pairs."""

    f: float
    low: float
    high: float


def circuit_scores(
    model: CircuitModel, pairs: Pairs, circuits: Circuits, done: Callable[[int], None] = lambda n: None
) -> ByPair:
    """m of every pair within each circuit; equal circuits are run once. `done` is told how many runs were made."""
    pairs = pairs.to(model.device)
    corrupt = model.written(pairs.corrupt)
    distinct, which = np.unique(circuits.reshape(len(circuits), -1), axis=0, return_inverse=True)
    kept = torch.from_numpy(distinct.reshape(-1, *circuits.shape[1:])).to(model.device)
    circuit, pair = np.divmod(np.arange(len(distinct) * len(pairs)), len(pairs))
    found = np.zeros(len(circuit), dtype=np.float64)
    size = max(1, model.tokens_at_once // pairs.clean.shape[1])
    for at in range(0, len(circuit), size):
        c, p = torch.from_numpy(circuit[at : at + size]), torch.from_numpy(pair[at : at + size])
        found[at : at + size] = model.patched(pairs.rows(p), corrupt[p], kept[c]).cpu().numpy()
        done(len(c))
    return found.reshape(len(distinct), len(pairs))[which.ravel()]


def ends(model: CircuitModel, pairs: Pairs) -> Ends:
    """m(M) and m(∅), from the clean and the corrupt prompts themselves."""
    pairs = pairs.to(model.device)
    full, none = (model.scores(ids, pairs).double().cpu().numpy() for ids in (pairs.clean, pairs.corrupt))
    return Ends(full, none)


def faithfulness(scores: Float[np.ndarray, "pair"], between: Ends, seed: int = 0) -> Measured:
    """f of one circuit."""
    return share_of_task(scores - between.none, between, seed)


def share_of_task(over: Float[np.ndarray, "pair"], between: Ends, seed: int = 0) -> Measured:
    """Σ over / Σ (m(M) − m(∅)), with its interval over pairs drawn for both at once."""
    under = between.full - between.none
    return Measured(float(over.sum() / under.sum()), *ratio_interval(over, under, seed))


def ladder(graph: Graph, scores: Scores, how: str = TOP, shares: Sequence[float] = SHARES) -> Circuits:
    """The circuits of those shares of the edges."""
    return np.stack([chosen(graph, scores, max(1, round(share * graph.n_edges)), how) for share in shares])


def cpr(f: Sequence[float], shares: Sequence[float] = SHARES) -> float:
    """∫ f dk, of circuits chosen by how much their edges help."""
    return float(np.trapezoid(f, shares))


def cmd(f: Sequence[float], shares: Sequence[float] = SHARES) -> float:
    """∫ |1 − f| dk, of circuits chosen by |score|."""
    return float(np.trapezoid(np.abs(1 - np.asarray(f)), shares))
