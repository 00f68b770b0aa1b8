"""An attribution graph as the JSON file that circuit-tracer's front end reads, and Neuronpedia's.

    metadata  slug, scan, transcoder_list, prompt_tokens, prompt, node_threshold, schema_version
    qParams   what is pinned and clicked on: nothing yet
    nodes     node_id, feature, layer, ctx_idx, feature_type, token_prob, is_target_logit, run_idx,
              reverse_ctx_idx, jsNodeId, clerp, influence, activation
    links     source, target, weight

[circuit-tracer, `frontend/graph_models.py`, schema version 1; Neuronpedia, `api/graph/graph-schema.json`]. A
latent's `feature` is Cantor's number of the pair (layer, latent), under which the front end looks its examples up.
A node's `influence` is the share that it holds together with all before it, by which the front end's slider prunes.
In the same folder `graph-metadata.json` lists the graphs.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.circuits.attribution_graph import AttributionGraph
from workbench.circuits.graph_pruning import EDGES, NODES, Pruned
from workbench.disk import write_text
from workbench.errors import Misuse
from workbench.lab import checked_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LATENT, ERROR, TOKEN, LOGIT = "cross layer transcoder", "mlp reconstruction error", "embedding", "logit"
INDEX = "graph-metadata.json"
PORT = 8041  # of circuit-tracer's server

Labels = Mapping[tuple[int, int], str]


def tracer_graph(
    graph: AttributionGraph,
    pruned: Pruned,
    tokenizer: PreTrainedTokenizerFast,
    slug: str,
    scan: str,
    transcoders: list[str] | None = None,
    labels: Labels | None = None,
    thresholds: tuple[float, float] = (NODES, EDGES),
) -> dict[str, Any]:
    """The document. `scan` names model and transcoders, `labels` latents by (layer, latent)."""
    checked_name(slug, "graph")
    shown = _Nodes(graph, pruned, tokenizer, labels or {})
    links = [
        {"source": shown.id(int(s)), "target": shown.id(int(t)), "weight": float(graph.adjacency[t, s])}
        for t, s in np.argwhere(pruned.edges)
    ]
    return {
        "metadata": {
            "slug": slug,
            "scan": scan,
            "transcoder_list": list(transcoders or []),
            "prompt_tokens": shown.tokens,
            "prompt": tokenizer.decode(graph.ids.tolist()),
            "node_threshold": thresholds[0],
            "schema_version": 1,
            "pruning_settings": {"node_threshold": thresholds[0], "edge_threshold": thresholds[1]},
            "info": {"generator": {"name": "Marble"}},
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [shown.node(int(n)) for n in np.flatnonzero(pruned.nodes)],
        "links": links,
    }


def write_tracer_graph(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write the document as `<slug>.json`, whole or not at all, and enter it in the folder's list; one of that name
    gives way."""
    folder.mkdir(parents=True, exist_ok=True)
    about, index = document["metadata"], folder / INDEX
    path = folder / f"{about['slug']}.json"
    if path == index:
        raise Misuse(f"a graph cannot be called {about['slug']!r}, the name of the folder's list: give another")
    listed = [each for each in _listed(index) if each["slug"] != about["slug"]] + [dict(about)]
    write_text(path, json.dumps(document, ensure_ascii=False, allow_nan=False))
    write_text(index, json.dumps({"graphs": listed}, ensure_ascii=False))
    return path


def how_to_view(folder: Path) -> str:
    """The command of circuit-tracer that serves a folder's graphs to a browser."""
    asked = shlex.join(["python", "-m", "circuit_tracer", "start-server", "--graph_file_dir", str(folder)])
    return f"to look at it, where circuit-tracer is installed: `{asked}`, then http://localhost:{PORT}"


def _listed(index: Path) -> list[dict[str, Any]]:
    """What the folder's list holds so far."""
    if not index.exists():
        return []
    try:
        return [
            dict(each, slug=each["slug"]) for each in json.loads(index.read_text(encoding="utf-8"))["graphs"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise Misuse(
            f"{index} is no list of graphs ({type(error).__name__}): remove it, or name another folder"
        ) from error


class _Nodes:
    """The nodes of one graph in the front end's words."""

    def __init__(
        self, graph: AttributionGraph, pruned: Pruned, tokenizer: PreTrainedTokenizerFast, labels: Labels
    ) -> None:
        self.graph, self.pruned, self.labels = graph, pruned, labels
        self.tokens = [tokenizer.decode([token]) for token in graph.ids.tolist()]
        self.said = [tokenizer.decode([token]) for token in graph.logit_ids.tolist()]

    def id(self, node: int) -> str:
        return str(self._own(node)["node_id"])

    def node(self, node: int) -> dict[str, Any]:
        """Every field, those that a kind of node has no use for at their defaults."""
        usual = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "clerp": ""}
        held = {"influence": float(self.pruned.cumulative[node]), "activation": None}
        return usual | held | self._own(node)

    def _own(self, node: int) -> dict[str, Any]:
        graph = self.graph
        if node < graph.n_latents:
            layer, position, latent = graph.latents[node].tolist()
            made = _fields(LATENT, layer, latent, position, cantor(layer, latent), f"{layer}_{latent}-0")
            told = {"activation": float(graph.activations[node]), "clerp": self.labels.get((layer, latent), "")}
            return made | told
        if node < graph.errors.stop:
            layer, position = divmod(node - graph.errors.start, len(graph.ids))
            return _fields(ERROR, layer, -1, position, -1, f"{layer}_-1-{position}")
        if node < graph.tokens.stop:
            position = node - graph.tokens.start
            token = int(graph.ids[position])
            told = {"clerp": f'Token "{self.tokens[position]}"'}
            return _fields(TOKEN, "E", token, position, position, f"E_{token}-{position}") | told
        rank, last = node - graph.logits.start, len(graph.ids) - 1
        token, probability = int(graph.logit_ids[rank]), float(graph.probabilities[rank])
        made = _fields(LOGIT, graph.n_layers + 1, token, last, token, f"L_{token}-{last}")
        return made | {
            "token_prob": probability,
            "is_target_logit": rank == 0,
            "clerp": f'Output "{self.said[rank]}" (p={probability:.3f})',
            "influence": None,
        }


def _fields(kind: str, layer: int | str, number: int, position: int, feature: int, js: str) -> dict[str, Any]:
    return {
        "node_id": f"{layer}_{number}_{position}",
        "feature": feature,
        "layer": str(layer),
        "ctx_idx": position,
        "feature_type": kind,
        "jsNodeId": js,
    }


def cantor(x: int, y: int) -> int:
    """One number for a pair of numbers, and none for two.

    >>> [cantor(0, 0), cantor(1, 0), cantor(0, 1), cantor(2, 0)]
    [0, 1, 2, 3]
    """
    return (x + y) * (x + y + 1) // 2 + y
