"""The computational graph of a decoder, down to heads and their three inputs: who writes into the residual stream,
who reads from it, and which of them are joined.

    senders     embed, a{l}.h{h} (what head h of layer l writes), m{l} (its MLP)
    receivers   a{l}.h{h}<q>, a{l}.h{h}<k>, a{l}.h{h}<v>, m{l}, logits (the final norm)

Whatever was written before a receiver reads reaches it directly through the stream: that is an edge. Where heads
share keys and values (GQA) there are as many <k> and <v> as kv heads, called a{l}.kv{h}. In parallel blocks an MLP
does not read what the attention of its layer writes. Biases are the same in every run and so are no senders.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

EMBED, LOGITS = "embed", "logits"
READS = ("q", "k", "v")

Edges = Bool[np.ndarray, "sender receiver"]


class Receiver(NamedTuple):
    """`read`: q, k, v of head `head`, "mlp" or "logits" (`head` 0)."""

    name: str
    layer: int
    read: str
    head: int
    n_senders: int  # the first so many senders reach it


@dataclasses.dataclass(frozen=True)
class Graph:
    """Senders and receivers in the order in which they are computed."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    parallel: bool = False

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"{self.n_heads} heads cannot share {self.n_kv_heads} keys")

    @functools.cached_property
    def senders(self) -> tuple[str, ...]:
        names = [EMBED]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)] + [f"m{layer}"]
        return tuple(names)

    @functools.cached_property
    def receivers(self) -> tuple[Receiver, ...]:
        return tuple(self._receivers())

    def _receivers(self) -> Iterator[Receiver]:
        for layer in range(self.n_layers):
            before = 1 + layer * (self.n_heads + 1)
            for read in READS:
                shared = read != "q" and self.n_kv_heads != self.n_heads
                for head in range(self.heads_reading(read)):
                    kind = "kv" if shared else "h"
                    yield Receiver(f"a{layer}.{kind}{head}<{read}>", layer, read, head, before)
            yield Receiver(f"m{layer}", layer, "mlp", 0, before if self.parallel else before + self.n_heads)
        yield Receiver(LOGITS, self.n_layers, LOGITS, 0, len(self.senders))

    def heads_reading(self, read: str) -> int:
        return self.n_heads if read == "q" else self.n_kv_heads

    @functools.cached_property
    def edges(self) -> Edges:
        """Which edges there are."""
        reach = np.array([receiver.n_senders for receiver in self.receivers])
        return np.arange(len(self.senders))[:, None] < reach[None, :]

    @property
    def n_edges(self) -> int:
        return int(self.edges.sum())

    @functools.cached_property
    def feeds(self) -> Edges:
        """[sender, receiver]: the receiver is an input of the very component that the sender is the output of."""
        group = self.n_heads // self.n_kv_heads
        found = np.zeros(self.edges.shape, dtype=bool)
        for at, receiver in enumerate(self.receivers[:-1]):
            first = 1 + receiver.layer * (self.n_heads + 1)
            if receiver.read == "mlp":
                found[first + self.n_heads, at] = True
            elif receiver.read == "q":
                found[first + receiver.head, at] = True
            else:
                found[first + receiver.head * group : first + (receiver.head + 1) * group, at] = True
        return found

    def told(self) -> dict[str, int]:
        """For JSON: what the graph is made of, and how many edges that makes."""
        return {**dataclasses.asdict(self), "n_edges": self.n_edges}

    def slice_of(self, layer: int, read: str) -> slice:
        """The receivers of a layer with that read, in the order of their heads; "logits" has them all to itself."""
        found = [i for i, r in enumerate(self.receivers) if r.read == read and r.layer == layer]
        return slice(found[0], found[-1] + 1)

    def named(self, sender: str, receiver: str) -> tuple[int, int]:
        """The place of an edge in a [sender, receiver] array; `KeyError` where there is none such."""
        names = [r.name for r in self.receivers]
        if sender not in self.senders or receiver not in names:
            raise KeyError(f"{sender}->{receiver}")
        at = (self.senders.index(sender), names.index(receiver))
        if not self.edges[at]:
            raise KeyError(f"{sender}->{receiver}")
        return at


def head_at(node: str) -> tuple[int, int]:
    """Layer and number of the head that a component is called after: `a1.h3`."""
    layer, head = node[1:].split(".h")
    return int(layer), int(head)


def alive(graph: Graph, edges: Edges) -> Edges:
    """The edges that lie on a way from the embedding to the logits: dead ends are taken out [Conmy 2023].

    A component passes on what reaches any of its inputs: a head with a value alone still writes.
    """
    kept: Edges = np.logical_and(edges, graph.edges)
    while True:
        arrives, leaves = np.asarray(kept.any(axis=0)), np.asarray(kept.any(axis=1))
        written = np.asarray((graph.feeds & arrives).any(axis=1))
        written[0] = True  # the embedding
        read = np.asarray((graph.feeds.T & leaves).any(axis=1))
        read[-1] = True  # the logits
        left = kept & np.outer(written, read)
        if np.array_equal(left, kept):
            return kept
        kept = left


def nodes_of(graph: Graph, edges: Edges) -> list[str]:
    """The components that an edge leaves or enters, and the logits where one does."""
    reached = np.asarray(edges.any(axis=0))
    used = np.asarray(edges.any(axis=1)) | (graph.feeds & reached).any(axis=1)
    names = [name for name, on in zip(graph.senders, used, strict=True) if on]
    return [*names, LOGITS] if bool(np.any(edges[:, -1])) else names
