"""Edge attribution patching: what every edge is worth, from two caches and a few gradients.

    EAP     score(u→v) = Σ_position (a_u^corr − a_u^clean) · ∂m/∂x_v at the clean prompt [Syed 2023]
    EAP-IG  the gradient averaged over n runs that begin at embeddings corr + (i/n)(clean − corr), i = 1…n,
            "inputs" of [Hanna 2024]; n = 1 is EAP

Sign: the score estimates m with that edge corrupt minus m as it is, so an edge that helps the clean answer has a
*negative* score. (TransformerLens' attribution patching has the opposite sign.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.circuit_model import CircuitModel, Read
from workbench.circuits.graph import Graph
from workbench.circuits.pairs import Pairs

SIGN = "score = m with this edge corrupt − m: an edge that helps has a negative score"
N_STEPS = 5


@dataclasses.dataclass(frozen=True)
class EdgeScores:
    """Scores of every edge for every pair, so that a mean has an interval; 0 where there is no edge."""

    graph: Graph
    method: str
    by_pair: Float[np.ndarray, "pair sender receiver"]

    @property
    def mean(self) -> Float[np.ndarray, "sender receiver"]:
        return self.by_pair.mean(axis=0)


def edge_scores(
    model: CircuitModel,
    pairs: Pairs,
    n_steps: int = N_STEPS,
    done: Callable[[int], None] = lambda n: None,
) -> EdgeScores:
    """EAP (`n_steps` 1) or EAP-IG of every edge; `done` is told how many pairs have been read."""
    if n_steps < 1:
        raise ValueError(f"n_steps is {n_steps}: at least one gradient is needed")
    found = []
    for some in portions(pairs, model.tokens_at_once):
        found.append(_scores(model, some.to(model.device), n_steps))
        done(len(some))
    method = "EAP" if n_steps == 1 else f"EAP-IG {n_steps}"
    return EdgeScores(model.graph, method, np.concatenate(found))


def portions(pairs: Pairs, tokens_at_once: int) -> list[Pairs]:
    """The pairs in equal batches of at most so many tokens, each of at least one pair."""
    most = max(1, tokens_at_once // pairs.clean.shape[1])
    size = math.ceil(len(pairs) / math.ceil(len(pairs) / most)) if len(pairs) else most
    return [pairs[at : at + size] for at in range(0, len(pairs), size)]


def _scores(model: CircuitModel, pairs: Pairs, n_steps: int) -> Float[np.ndarray, "pair sender receiver"]:
    clean, corrupt = model.written(pairs.clean), model.written(pairs.corrupt)
    start, way = corrupt[:, :, 0], clean[:, :, 0] - corrupt[:, :, 0]
    summed: dict[Read, Tensor] = {}
    for step in range(1, n_steps + 1):
        for read, gradient in model.gradients(pairs, start + (step / n_steps) * way).items():
            summed[read] = summed[read].add_(gradient) if read in summed else gradient
    change = corrupt.sub_(clean).transpose(1, 2).flatten(2)  # [pair, sender, position · d_model]
    found = torch.zeros(len(pairs), *model.graph.edges.shape, device=model.device)
    for read, gradient in summed.items():
        at = model.graph.slice_of(*read)
        n = model.graph.receivers[at.start].n_senders
        found[:, :n, at] = change[:, :n] @ gradient.transpose(1, 2).flatten(2).mT
    return found.div_(n_steps).cpu().numpy()
