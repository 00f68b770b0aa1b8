"""The attribution graph of one prompt in one checkpoint: what is asked for, what is found, how it is told."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.checkpoint import Checkpoint
from workbench.circuits.attribution_graph import MOST_LOGITS, AttributionGraph, attribution_graph
from workbench.circuits.graph_paths import strongest_paths
from workbench.circuits.graph_perturbation import Perturbed, most_influential, perturbed
from workbench.circuits.graph_pruning import EDGES, NODES, GraphScores, Pruned, graph_scores, prune
from workbench.circuits.local_replacement import held_patterns, held_scales
from workbench.circuits.tracer_json import Labels, tracer_graph, write_tracer_graph
from workbench.disk import plain_disk_errors
from workbench.errors import Failure, Misuse
from workbench.intervals import bracketed
from workbench.points import MLP_IN, Site
from workbench.prompt import Prompt, read_prompt
from workbench.site import decoder_layers, site_module
from workbench.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from saes.transcoder import Transcoder


@dataclasses.dataclass(frozen=True)
class GraphRequest:
    """A prompt that a checkpoint can read, and how much of its graph is wanted."""

    checkpoint: Checkpoint
    prompt: str
    read: Prompt
    most_logits: int = MOST_LOGITS
    node_share: float = NODES
    edge_share: float = EDGES

    @classmethod
    def of(cls, checkpoint: Checkpoint, prompt: str, chat: bool = False, **settings: Any) -> GraphRequest:
        """`Misuse` where the prompt is empty or does not fit the context, or a share is none."""
        for option, key in (("--node-threshold", "node_share"), ("--edge-threshold", "edge_share")):
            share = settings.get(key, 0.0)
            if not 0 <= share <= 1:  # nor is NaN
                raise Misuse(f"{option} is {share:g}: it is a share of influence, from 0 to 1")
        if not prompt.strip():
            raise Misuse("the prompt is empty: write at least one word")
        read = read_prompt(checkpoint.tokenizer(), prompt, checkpoint.n_ctx, chat=chat)
        if read.n_cut:
            raise Misuse(
                f"the prompt is {read.n_cut} tokens too long: {checkpoint.address!r} reads {read.limit} at once; "
                "shorten it"
            )
        return cls(checkpoint, prompt, read, **settings)

    @property
    def slug(self) -> str:
        """`sft-what-is-12-30-1f9c2a`: checkpoint, words, and a hash of the tokens and settings."""
        words = re.sub(r"[^a-z0-9]+", "-", self.prompt.lower()).strip("-")[:32].rstrip("-")
        settings = (self.read.ids, self.most_logits, self.node_share, self.edge_share)
        told = hashlib.sha256(repr(settings).encode()).hexdigest()[:6]
        return "-".join(part for part in (self.checkpoint.address.replace("@", "."), words, told) if part)


@dataclasses.dataclass(frozen=True)
class PromptGraph:
    """One graph with what says how far to trust it."""

    request: GraphRequest
    graph: AttributionGraph
    pruned: Pruned
    scores: GraphScores
    taken_out: Perturbed
    transcoders: tuple[str, ...]
    labels: Labels = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        request: GraphRequest,
        model: PreTrainedModel,
        transcoders: Sequence[Transcoder],
        names: list[str],
        labels: Labels | None = None,
    ) -> PromptGraph:
        """`names` are the transcoders', by layer; `labels` are known of their latents."""
        bos, ids = request.checkpoint.tokenizer().bos_token_id, torch.tensor(request.read.ids)
        graph = attribution_graph(model, transcoders, ids, bos, most_logits=request.most_logits)
        pruned = prune(graph, request.node_share, request.edge_share)
        taken_out = perturbed(model, transcoders, graph, most_influential(graph))
        return cls(request, graph, pruned, graph_scores(graph), taken_out, tuple(names), labels or {})

    def write(self, folder: Path) -> Path:
        """As circuit-tracer's JSON file."""
        asked, scan = self.request, f"{self.request.checkpoint.lab.name}-{self.request.checkpoint.address}"
        shares = (asked.node_share, asked.edge_share)
        names = list(self.transcoders)
        document = tracer_graph(
            self.graph, self.pruned, asked.checkpoint.tokenizer(), asked.slug, scan, names, self.labels, shares
        )
        with plain_disk_errors(folder):
            return write_tracer_graph(folder, document)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        out, logits = self.taken_out, self._logits
        return {
            "checkpoint": self.request.checkpoint.address,
            "prompt": self.request.prompt,
            "tokens": [token.shown for token in self.request.read.tokens],
            "transcoders": list(self.transcoders),
            "nodes": {"all": len(self.graph.adjacency), "kept": int(self.pruned.nodes.sum())},
            "edges": {"all": int((self.graph.adjacency != 0).sum()), "kept": int(self.pruned.edges.sum())},
            "latents": {
                "all": self.graph.n_latents,
                "kept": int(self.pruned.nodes[: self.graph.n_latents].sum()),
            },
            "replacement_score": _number(self.scores.replacement),
            "completeness_score": _number(self.scores.completeness),
            "largest_residual": self.graph.residual,
            "taken_out": {
                "n": len(out.nodes),
                "pearson": _with_interval(out.pearson, out.interval),
                "pearson_held": _with_interval(out.pearson_held, out.interval_held),
            },
            "logits": [
                {"token": token, "probability": float(p)}
                for token, p in zip(logits, self.graph.probabilities, strict=True)
            ],
            "paths": [
                {
                    "share": path.share,
                    "contribution": path.contribution,
                    "nodes": list(map(self._worded, path.nodes)),
                }
                for path in strongest_paths(self.graph, self.pruned.edges)
            ],
        }

    def describe(self) -> str:
        """For people."""
        told, asked = self.told(), self.request
        out, first = told["taken_out"], told["logits"][0]
        nodes, edges, latents = told["nodes"], told["edges"], told["latents"]
        replacement, completeness = told["replacement_score"], told["completeness_score"]
        lines = [
            f"{nodes['all']:,} nodes ({latents['all']:,} of them latents) and {edges['all']:,} edges; of "
            f"these {nodes['kept']:,} nodes ({latents['kept']:,} latents) and {edges['kept']:,} edges hold "
            f"{asked.node_share:.0%} and {asked.edge_share:.0%} of the influence.",
            f"Replacement score {bracketed(replacement, None, None)} (share of influence that comes from tokens "
            f"by paths without an error), completeness score {bracketed(completeness, None, None)} (share of what "
            "comes into a node that is no error); what the edges into a node miss of its value is at most "
            f"{told['largest_residual']:.1g} of it.",
            f"Each of the {out['n']} most influential latents is taken out alone. The true change of the logit of "
            f"{first['token']} and the one that the graph foretells have r = {_bracketed(out['pearson'])}; with "
            f"patterns and norm scales held {_bracketed(out['pearson_held'])} (intervals over the latents of this "
            "one prompt). The first figure says what the graph is worth for interventions.",
            f"Strongest paths to {first['token']} (p = {first['probability']:.3f}), with their share of all that "
            "comes into it and what they bring to the logit:",
        ]
        return "\n".join(
            lines
            + [f"{p['share']:7.1%} {p['contribution']:+8.3f}  {' -> '.join(p['nodes'])}" for p in told["paths"]]
        )

    @functools.cached_property
    def _logits(self) -> list[str]:
        vocabulary = Vocabulary(self.request.checkpoint.tokenizer())
        return [repr(vocabulary[int(token)].shown) for token in self.graph.logit_ids]

    def _worded(self, node: int) -> str:
        """A node's name, with the token that stands there."""
        graph, tokens = self.graph, self.request.read.tokens
        if node >= graph.logits.start:
            return f"logit {self._logits[node - graph.logits.start]}"
        if node >= graph.tokens.start:
            return f"{graph.name(node)} {tokens[node - graph.tokens.start].shown!r}"
        position = (
            int(graph.latents[node, 1])
            if node < graph.n_latents
            else (node - graph.errors.start) % len(graph.ids)
        )
        return f"{graph.name(node)} ({tokens[position].shown!r}{self._label(node)})"

    def _label(self, node: int) -> str:
        """What is known of a latent, behind a semicolon."""
        if node >= self.graph.n_latents:
            return ""
        layer, _, latent = self.graph.latents[node].tolist()
        return f"; {self.labels[layer, latent]}" if (layer, latent) in self.labels else ""


def refuse_unlike(model: PreTrainedModel, request: GraphRequest) -> None:
    """`Misuse` for a family whose MLPs cannot give way to transcoders or that cannot be made linear: said before
    any transcoder is trained."""
    for layer in range(len(decoder_layers(model))):
        site_module(model, Site(layer, MLP_IN))
    try:
        with torch.no_grad(), held_patterns(model), held_scales(model):
            model(input_ids=torch.tensor([request.read.ids]), use_cache=False)
    except Failure as error:
        raise Misuse(f"{request.checkpoint.address!r} has no attribution graphs: {error}") from error


def checked_folder(folder: Path) -> Path:
    """The folder, made if it is not there; `Misuse` where nothing can be written into it."""
    if folder.exists() and not folder.is_dir():
        raise Misuse(f"--out {folder} is a file, not a folder: name a folder, there already or to be made")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise Misuse(f"--out {folder} cannot be written to ({why}): name a folder that can") from error


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _bracketed(told: Mapping[str, float | None]) -> str:
    return bracketed(told["value"], told["low"], told["high"], digits=2)


def _with_interval(value: float, interval: tuple[float, float]) -> dict[str, float | None]:
    return {"value": _number(value), "low": _number(interval[0]), "high": _number(interval[1])}
