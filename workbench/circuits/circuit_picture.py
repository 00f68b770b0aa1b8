"""Where a circuit is drawn: one fixed place for every component, so that two checkpoints lie over each other.

Layers are two rows each, the embedding at the bottom and the logits on top. Embedding, MLPs and logits stand in the
middle, heads in columns at both sides; a layer's MLP stands a row above its heads, which it reads, so that every
edge goes upward. An edge leaves a component at its top and enters below it: q on the left, k in the middle, v on
the right.

    B(t) = (1−t)³ a + 3(1−t)²t b + 3(1−t)t² c + t³ d    a, d: the two ends; b, c: straight above and below them

is its line; one that would run through components straight between its ends is bent aside.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from workbench.circuits.graph import EMBED, LOGITS, READS, Graph, head_at

HALF = 0.2  # half of a component's height, in rows
PORT = 0.14  # how far q and v enter from the middle, in columns
BEND, MOST_BENT = 0.15, 0.8  # how far a line is bent aside, in columns: a row, and at the most
APART = 0.6  # rows between the outermost components and their neighbours, beyond the usual one
WIDTHS = 6  # of lines
POINTS = 20  # of a line
MIDDLE = {"q": 7, "k": 10, "v": 13, "": 10}  # the point that can be clicked: those of a head lie apart


class Place(NamedTuple):
    """Of a component; `kind` is "embed", "head", "mlp" or "logits"."""

    name: str
    kind: str
    layer: int
    x: float
    y: float


class Line(NamedTuple):
    """An edge as a curve, and the point of it that can be clicked."""

    x: Float[np.ndarray, "point"]
    y: Float[np.ndarray, "point"]
    middle: tuple[float, float]


def places(graph: Graph) -> dict[str, Place]:
    """Every component's place, from the graph alone."""
    centre = float((graph.n_heads + 1) // 2)
    found = [Place(EMBED, EMBED, -1, centre, -APART)]
    for layer in range(graph.n_layers):
        for head in range(graph.n_heads):
            x = head if head < centre else head + 1
            found.append(Place(f"a{layer}.h{head}", "head", layer, float(x), 2.0 * layer + 1))
        found.append(Place(f"m{layer}", "mlp", layer, centre, 2.0 * layer + 2))
    found.append(Place(LOGITS, LOGITS, graph.n_layers, centre, 2.0 * graph.n_layers + 1 + APART))
    return {place.name: place for place in found}


def fed_by(graph: Graph, receiver: str) -> list[str]:
    """The components that a receiver is an input of: several heads where they share a key and a value."""
    if receiver == LOGITS:
        return [LOGITS]
    at = [each.name for each in graph.receivers].index(receiver)
    return [name for name, on in zip(graph.senders, graph.feeds[:, at], strict=True) if on]


def read_of(receiver: str) -> str:
    """q, k or v; nothing of an MLP and of the logits."""
    return receiver[-2] if receiver.endswith(">") else ""


def line(graph: Graph, where: dict[str, Place], sender: str, receiver: str) -> Line:
    """The curve of an edge."""
    into = [where[name] for name in fed_by(graph, receiver)]
    read = read_of(receiver)
    port = (READS.index(read) - 1) * PORT if read else 0.0
    start = np.array([where[sender].x, where[sender].y + HALF])
    end = np.array([float(np.mean([place.x for place in into])) + port, into[0].y - HALF])
    rise = 0.5 * (end[1] - start[1])
    aside = 0.0
    if end[1] - start[1] > 2 and abs(end[0] - start[0]) < 0.5:
        aside = min(MOST_BENT, BEND * float(end[1] - start[1]) + 0.2)
        aside = -aside if start[0] < where[EMBED].x else aside
    b, c = start + np.array([aside, rise]), end + np.array([aside, -rise])
    t = np.linspace(0, 1, POINTS + 1)[:, None]
    way = (1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * end
    x, y = way[MIDDLE[read]]
    return Line(way[:, 0], way[:, 1], (float(x), float(y)))


def widths(scores: Float[np.ndarray, "edge"]) -> Int[np.ndarray, "edge"]:
    """1 to `WIDTHS`, by √(|score| / the largest): what is a hundredth of the largest is still seen."""
    largest = np.abs(scores).max(initial=0.0)
    share = np.sqrt(np.abs(scores) / largest) if largest > 0 else np.zeros_like(scores)
    return np.clip(np.ceil(share * WIDTHS), 1, WIDTHS).astype(np.int64)


def writer_name(node: str) -> str:
    """A component as direct logit attribution and the writers of latents call it; nothing of the logits."""
    if node in (EMBED, LOGITS):
        return "embedding" if node == EMBED else ""
    if node.startswith("m"):
        return f"mlp {node[1:]}"
    layer, head = head_at(node)
    return f"head {layer}.{head}"
