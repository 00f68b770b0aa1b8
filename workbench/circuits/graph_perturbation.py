"""Whether an attribution graph foretells what the model does when a latent's writing is taken out [Ameisen 2025].

    foretold   δ_s = −1 for the latent, δ_t = Σ_s A_ts δ_s / value_t for those above, Δ logit = Σ_s A_logit,s δ_s
    true       the change of logit − mean logit when a_s d_s is taken from what the MLP wrote at that position, and
               everything above goes on freely: patterns, norms, MLPs

    held       the same with patterns and norm scales held to those of the run as it is: what is left between it and
               the graph is what the transcoders make of the MLPs

The edges into a node sum to its value whatever the transcoders are worth (`AttributionGraph.residual`), so that sum
says nothing of this: here the true model, with its own MLPs, is the judge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from saes.transcoder import Transcoder
from workbench.circuits.attribution_graph import AttributionGraph
from workbench.circuits.graph_pruning import influence, normalised
from workbench.circuits.local_replacement import held_patterns, held_scales, of_last_row
from workbench.intervals import RESAMPLES, Interval
from workbench.points import MLP_OUT, Site
from workbench.site import replaced

N_LATENTS = 32


class Perturbed(NamedTuple):
    """By latent node: the change of the first logit that the graph foretells, the true one and the held one."""

    nodes: Int[np.ndarray, "node"]
    foretold: Float[np.ndarray, "node"]
    true: Float[np.ndarray, "node"]
    held: Float[np.ndarray, "node"]

    @property
    def pearson(self) -> float:
        """Of foretold and true; NaN where one of the two does not vary."""
        return _pearson(self.foretold, self.true)

    @property
    def pearson_held(self) -> float:
        """Of foretold and held."""
        return _pearson(self.foretold, self.held)

    @property
    def interval(self) -> Interval:
        """Of `pearson`, by bootstrap over latents; latents of one prompt are not independent: it is narrow."""
        return _interval(self.foretold, self.true)

    @property
    def interval_held(self) -> Interval:
        """Of `pearson_held`."""
        return _interval(self.foretold, self.held)


def _pearson(x: Float[np.ndarray, "node"], y: Float[np.ndarray, "node"]) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 2 and x.std() and y.std() else float("nan")


def _interval(x: Float[np.ndarray, "node"], y: Float[np.ndarray, "node"], seed: int = 0) -> Interval:
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(x), len(x)) for _ in range(RESAMPLES if len(x) > 2 else 0))
    found = np.array([_pearson(x[some], y[some]) for some in draws])
    found = found[np.isfinite(found)]
    return Interval(*map(float, np.quantile(found, (0.025, 0.975)))) if len(found) else Interval(np.nan, np.nan)


def most_influential(graph: AttributionGraph, n: int = N_LATENTS) -> Int[np.ndarray, "node"]:
    """The latent nodes of largest influence."""
    held = influence(normalised(graph.adjacency), graph.logit_weights)[: graph.n_latents]
    return np.argsort(-held, kind="stable")[:n]


def perturbed(
    model: PreTrainedModel,
    transcoders: Sequence[Transcoder],
    graph: AttributionGraph,
    nodes: Int[np.ndarray, "node"],
) -> Perturbed:
    """Each of these latent nodes taken out alone, one run a row."""
    ids = torch.from_numpy(graph.ids).to(model.device)
    logit = int(graph.logit_ids[0])
    with torch.no_grad(), contextlib.ExitStack() as hooks:
        for layer, transcoder in enumerate(transcoders):
            less = _less(graph, nodes, layer, transcoder)
            hooks.enter_context(
                replaced(model, Site(layer, MLP_OUT), lambda read, written, less=less: written - less)  # type: ignore[misc]
            )
        rows, found = ids.expand(len(nodes) + 1, -1), list[np.ndarray]()  # the last is the run as it is
        for held in (False, True):
            with contextlib.ExitStack() as still:
                for hold in (held_patterns, held_scales) if held else ():
                    still.enter_context(hold(model, of_last_row))
                logits = model(input_ids=rows, use_cache=False).logits[:, -1].double()
            told = (logits[:, logit] - logits.mean(dim=1)).cpu().numpy()
            found.append(told[:-1] - told[-1])
    return Perturbed(nodes, foretold(graph, nodes), *found)


def foretold(graph: AttributionGraph, nodes: Int[np.ndarray, "node"]) -> Float[np.ndarray, "node"]:
    """Δ of the first logit by all paths through latents, in the linear model."""
    n = graph.n_latents
    relative = graph.adjacency[:n, :n].astype(np.float64) / graph.values[:n, None]
    out = np.zeros((n, len(nodes)))
    out[nodes, np.arange(len(nodes))] = -1
    return graph.adjacency[graph.logits.start, :n] @ np.linalg.solve(np.eye(n) - relative, out)


def _less(
    graph: AttributionGraph, nodes: Int[np.ndarray, "node"], layer: int, transcoder: Transcoder
) -> Float[Tensor, "row position d_out"]:
    """What is taken from a layer's MLP in each row: a_s d_s at one place, or nothing."""
    less = torch.zeros(len(nodes) + 1, len(graph.ids), transcoder.d_out, device=transcoder.device)
    for row, node in enumerate(nodes):
        at, position, latent = graph.latents[node].tolist()
        if at == layer:
            less[row, position] = float(graph.activations[node]) * transcoder.W_dec[latent, 0]
    return less
