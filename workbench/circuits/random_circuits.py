"""What a circuit has to beat: circuits as large, as connected and with the same degrees, of other edges.

A random set of edges is mostly disconnected and does nothing, so beating it proves nothing. Here the heads of each
layer change places at random (with their q, k and v), and then edges swap their readers (u→v, u'→v' becomes u→v',
u'→v), which keeps how many edges leave and enter every component; a swap that would leave a dead end is undone
[double edge swaps: Maslov & Sneppen 2002]. Where a circuit is so dense that little can change, the control is like
the circuit itself: `overlap` says how like.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from workbench.circuits.graph import READS, Edges, Graph, alive

SWAPS_AN_EDGE = 10


class RandomCircuit(NamedTuple):
    """`overlap`: the share of its edges that the circuit has too."""

    edges: Edges
    overlap: float


def random_circuit(graph: Graph, edges: Edges, rng: np.random.Generator) -> RandomCircuit:
    """Another circuit with the degrees of this one, without dead ends."""
    now = shuffled_heads(graph, edges, rng)
    listed = np.argwhere(now)
    if len(listed) > 1:
        for _ in range(SWAPS_AN_EDGE * len(listed)):
            i, j = rng.choice(len(listed), 2, replace=False)
            (u, v), (s, t) = listed[i], listed[j]
            if not (graph.edges[u, t] and graph.edges[s, v]) or now[u, t] or now[s, v]:
                continue
            now[u, v] = now[s, t] = False
            now[u, t] = now[s, v] = True
            if (alive(graph, now) == now).all():
                listed[i], listed[j] = (u, t), (s, v)
            else:
                now[u, v] = now[s, t] = True
                now[u, t] = now[s, v] = False
    return RandomCircuit(now, float((now & edges).sum() / max(1, edges.sum())))


def shuffled_heads(graph: Graph, edges: Edges, rng: np.random.Generator) -> Edges:
    """The circuit with the heads of each layer in other places; heads that share a key stay together."""
    group = graph.n_heads // graph.n_kv_heads
    sender, receiver = np.arange(edges.shape[0]), np.arange(edges.shape[1])
    for layer in range(graph.n_layers):
        kv = rng.permutation(graph.n_kv_heads)
        heads = (kv[:, None] * group + np.stack([rng.permutation(group) for _ in kv])).ravel()
        first = 1 + layer * (graph.n_heads + 1)
        sender[first : first + graph.n_heads] = first + heads
        for read in READS:
            at = graph.slice_of(layer, read)
            receiver[at] = at.start + (heads if read == "q" else kv)
    return edges[np.ix_(sender, receiver)]
