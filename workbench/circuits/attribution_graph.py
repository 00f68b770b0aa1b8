"""The attribution graph of one prompt: which tokens and latents make the latents and logits that follow.

Every MLP gives way to its layer's transcoder and what that leaves over, y = Σ_j f_j d_j + b_dec (+ W_skip x) + e,
in a model that is linear around the prompt (`workbench.circuits.local_replacement`). Then, for a latent or logit t,

    value_t = Σ_s A_ts + bias_t            A_ts = a_s · ⟨what s writes, ∂ value_t / ∂ there⟩

exactly, over the sources s below t: tokens (the stream before block 0, positions with it where a family adds them),
latents (a_s d_s) and errors, one for each layer and position. `value` is a latent's preactivation, which its
activation equals where it is on, or a logit less the mean logit. `bias` holds the biases of encoder, decoders and
model, and what MLPs write at BOS, which is the same on every prompt and which no dictionary was trained on. The sum
is checked: `residual`. [Ameisen 2025; Dunefsky 2024]

Rows are targets. The order of nodes is latents (by layer, position, number), errors (by layer, position), tokens,
logits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from saes.sparse import Code
from saes.transcoder import Transcoder
from workbench.circuits.local_replacement import Frozen, frozen_run, gradients
from workbench.errors import Misuse
from workbench.points import MLP_IN, Site
from workbench.site import decoder_layers

MASS, MOST_LOGITS = 0.95, 10
MOST_NODES = 8_192  # their number squared is held
_CHUNK = 64  # targets whose gradients are held at once


@dataclasses.dataclass(frozen=True)
class AttributionGraph:
    """All nodes and edges of one prompt. `latents`: layer, position and number of each latent node."""

    ids: Int[np.ndarray, "position"]
    n_layers: int
    latents: Int[np.ndarray, "latent_node three"]
    activations: Float[np.ndarray, "latent_node"]
    logit_ids: Int[np.ndarray, "logit"]
    probabilities: Float[np.ndarray, "logit"]
    adjacency: Float[np.ndarray, "target source"]
    values: Float[np.ndarray, "target"]
    bias: Float[np.ndarray, "target"]

    def __post_init__(self) -> None:
        n = self.n_latents + self.n_errors + len(self.ids) + len(self.logit_ids)
        if self.adjacency.shape != (n, n):
            raise ValueError(f"{n} nodes need an adjacency of {n} by {n}, found {self.adjacency.shape}")

    @property
    def n_latents(self) -> int:
        return len(self.latents)

    @property
    def n_errors(self) -> int:
        return self.n_layers * len(self.ids)

    @property
    def errors(self) -> slice:
        return slice(self.n_latents, self.n_latents + self.n_errors)

    @property
    def tokens(self) -> slice:
        return slice(self.errors.stop, self.errors.stop + len(self.ids))

    @property
    def logits(self) -> slice:
        return slice(self.tokens.stop, len(self.adjacency))

    @property
    def logit_weights(self) -> Float[np.ndarray, "node"]:
        """Probabilities at logit nodes, 0 elsewhere."""
        weights = np.zeros(len(self.adjacency))
        weights[self.logits] = self.probabilities
        return weights

    @property
    def residual(self) -> float:
        """The largest |value − Σ_s A_ts − bias| of a target, as a share of max(1, |value|)."""
        targets = np.r_[: self.n_latents, self.logits]
        gap = self.values - self.adjacency.sum(axis=1, dtype=np.float64) - self.bias
        return float((np.abs(gap) / np.maximum(1, np.abs(self.values)))[targets].max())

    def name(self, node: int) -> str:
        """`L1 p7 latent 903`, `L1 p7 error`, `token p7`, `logit 412`."""
        if node < self.n_latents:
            layer, position, latent = self.latents[node]
            return f"L{layer} p{position} latent {latent}"
        if node < self.errors.stop:
            layer, position = divmod(node - self.errors.start, len(self.ids))
            return f"L{layer} p{position} error"
        if node < self.tokens.stop:
            return f"token p{node - self.tokens.start}"
        return f"logit {self.logit_ids[node - self.logits.start]}"


class _Layer(NamedTuple):
    """One transcoder on one prompt; rows of the code are positions, none of them a BOS."""

    transcoder: Transcoder
    code: Code
    error: Float[Tensor, "position d_out"]
    constant: Float[Tensor, "position d_out"]


def attribution_graph(
    model: PreTrainedModel,
    transcoders: Sequence[Transcoder],
    ids: Int[Tensor, "position"],
    bos: int | None = None,
    mass: float = MASS,
    most_logits: int = MOST_LOGITS,
) -> AttributionGraph:
    """The graph of what `model` says behind the prompt; `transcoders` by layer. `bos`: the token that a prompt may
    begin with, where what MLPs write is a constant."""
    _check(model, transcoders)
    ids = ids.to(model.device)
    frozen = frozen_run(model, ids, transcoders)
    constant = bos is not None and int(ids[0]) == bos
    layers = [_layer(frozen, number, each, constant) for number, each in enumerate(transcoders)]
    probability = frozen.logits.softmax(-1)
    falling, order = probability.sort(descending=True)
    n_logits = min(most_logits, int((falling.cumsum(0) < mass).sum()) + 1)
    logit_ids, n_latents = order[:n_logits], sum(len(layer.code.rows) for layer in layers)
    n = n_latents + (len(layers) + 1) * len(ids) + n_logits
    if n > MOST_NODES:
        raise Misuse(
            f"the graph of this prompt has {n:,} nodes, more than {MOST_NODES:,}: give a shorter prompt"
        )
    rows = [_rows(frozen, layers, number, n) for number in range(len(layers))]
    rows.append(
        (np.zeros((n - n_latents - n_logits, n), np.float32), *(np.zeros(n - n_latents - n_logits),) * 2)
    )
    rows.append(_logit_rows(model, frozen, layers, logit_ids, n))
    adjacency, values, bias = (np.concatenate(column) for column in zip(*rows, strict=True))
    places = [
        torch.stack([torch.full_like(layer.code.rows, number), layer.code.rows, layer.code.latents], dim=1)
        for number, layer in enumerate(layers)
    ]
    return AttributionGraph(
        ids.numpy(force=True),
        len(layers),
        torch.cat(places).numpy(force=True),
        torch.cat([layer.code.values for layer in layers]).numpy(force=True),
        logit_ids.numpy(force=True),
        falling[:n_logits].numpy(force=True).astype(np.float64),
        adjacency,
        values,
        bias,
    )


def _check(model: PreTrainedModel, transcoders: Sequence[Transcoder]) -> None:
    n = len(decoder_layers(model))
    if len(transcoders) != n:
        raise Misuse(
            f"the model has {n} layers and {len(transcoders)} transcoders were given: it needs one a layer"
        )
    for layer, each in enumerate(transcoders):
        if not isinstance(each, Transcoder) or each.site not in ("", Site(layer, MLP_IN).name):
            raise Misuse(f"layer {layer} needs a transcoder of {Site(layer, MLP_IN).name}, found {each.site!r}")


@torch.no_grad()
def _layer(frozen: Frozen, number: int, transcoder: Transcoder, constant_first: bool) -> _Layer:
    x, y = frozen.read[number][0].detach().float(), frozen.written[number][0].detach().float()
    code = transcoder.encode_sparse(x[:, None])
    if constant_first:
        code = Code(*(column[code.rows > 0] for column in code))
    made = transcoder.decode_sparse(code, len(x))[:, 0]
    error, constant = y - made, transcoder.b_dec.expand_as(y).clone()
    if constant_first:
        constant[0], error[0] = y[0], 0
    return _Layer(transcoder, code, error, constant)


def _rows(
    frozen: Frozen, layers: list[_Layer], number: int, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In-edges, preactivations and biases of a layer's latents."""
    transcoder, code = layers[number].transcoder, layers[number].code
    own = transcoder.b_enc[code.latents].numpy(force=True).astype(np.float64)
    found = _into(frozen, layers, frozen.read[number], code.rows, transcoder.W_enc[0].T[code.latents], n)
    return found[0], code.values.numpy(force=True).astype(np.float64), found[1] + own


def _logit_rows(
    model: PreTrainedModel, frozen: Frozen, layers: list[_Layer], chosen: Int[Tensor, "logit"], n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In-edges of logits less the mean logit."""
    head = model.get_output_embeddings()
    W_U = head.get_parameter("weight").detach()
    direction = W_U[chosen] - W_U.mean(dim=0)
    shift = getattr(head, "bias", None)
    own = torch.zeros(len(chosen)) if shift is None else (shift[chosen] - shift.mean()).detach()
    last = torch.full_like(chosen, frozen.final.shape[1] - 1)
    weights, bias = _into(frozen, layers, frozen.final, last, direction, n)
    own_bias = own.numpy(force=True).astype(np.float64)
    value = (frozen.final[0, -1].detach() @ direction.T).numpy(force=True) + own_bias
    return weights, value.astype(np.float64), bias + own_bias


def _into(
    frozen: Frozen,
    layers: list[_Layer],
    of: Tensor,
    positions: Int[Tensor, "target"],
    directions: Float[Tensor, "target d"],
    n: int,
) -> tuple[Float[np.ndarray, "target node"], Float[np.ndarray, "target"]]:
    """A_ts and bias_t of targets ⟨direction, of[position]⟩, a chunk of backward passes at a time."""
    found, constants = np.zeros((len(positions), n), np.float32), np.zeros(len(positions))
    first_error = sum(len(layer.code.rows) for layer in layers)
    first_token = first_error + len(layers) * of.shape[1]
    for at in range(0, len(positions), _CHUNK):
        some = slice(at, at + _CHUNK)
        seed = torch.zeros(len(positions[some]), *of.shape[1:], device=of.device)
        seed[torch.arange(len(seed)), positions[some]] = directions[some]
        stream, written, constant = gradients(frozen, of, seed)
        end = int(positions[some].max()) + 1  # nothing comes from behind a target
        column = 0
        for number, (layer, gradient) in enumerate(zip(layers, written, strict=True)):
            rows, latents, values = (part[: int((layer.code.rows < end).sum())] for part in layer.code)
            if bool(gradient.any()):  # not of layers above
                writes = values[:, None] * layer.transcoder.W_dec[latents, 0]
                into = torch.einsum("tnd,nd->tn", gradient[:, rows], writes)
                found[some, column : column + len(rows)] = into.numpy(force=True)
                errors = first_error + number * of.shape[1]
                into = torch.einsum("tpd,pd->tp", gradient, layer.error)
                found[some, errors : errors + of.shape[1]] = into.numpy(force=True)
                constant = constant + torch.einsum("tpd,pd->t", gradient, layer.constant)
            column += len(layer.code.rows)
        into = torch.einsum("tpd,pd->tp", stream, frozen.stream[0].detach())
        found[some, first_token : first_token + of.shape[1]] = into.numpy(force=True)
        constants[some] = constant.numpy(force=True)
    return found, constants
