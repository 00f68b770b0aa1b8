"""The residual stream of one forward pass and what the model's own head reads from it at every layer.

Logit lens [nostalgebraist 2020]: softmax(unembed(ln_final(resid_l))) on raw weights, l = the embedding and
each block's `resid_post`. The last row is the model's own prediction, exactly; `read_stream` checks that
against the logits of the same pass, so a family whose head does more (scaling, soft caps) is refused
rather than shown wrong.

The stream is read with pre-hooks on the blocks and on the final norm, since what Hugging Face calls the last
hidden state is already normed in some families and not in others.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.errors import Failure
from workbench.site import decoder_layers, final_norm
from workbench.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Trunk(NamedTuple):
    """The parts of a causal model that write to and read from the residual stream."""

    blocks: list[nn.Module]
    final_norm: nn.Module
    unembed: nn.Module


class Stream(NamedTuple):
    """One forward pass: `resid[l]` is what block l reads, `resid[n_layers]` what the final norm reads."""

    resid: Float[Tensor, "row position d_model"]
    attention: Float[Tensor, "layer head query key"]
    logits: Float[Tensor, "position vocab"]


@dataclasses.dataclass(frozen=True)
class Lens:
    """Row 0 is the embedding, row l + 1 the stream after block l; the last row is the model's prediction.

    Entropy is in nats. `rank` is that of the token that truly comes next (0: the most probable) and
    `next_probability` its probability; at the last position nothing comes next: -1 and NaN.
    """

    rows: tuple[str, ...]
    top_ids: Int[np.ndarray, "row position k"]
    top_probabilities: Float[np.ndarray, "row position k"]
    top_shown: np.ndarray  # [row, position, k] of str
    entropy: Float[np.ndarray, "row position"]
    rank: Int[np.ndarray, "row position"]
    next_probability: Float[np.ndarray, "row position"]


Moved = Callable[[int, Float[Tensor, "position d_model"]], Float[Tensor, "position d_model"]]


def as_it_is(row: int, x: Float[Tensor, "position d_model"]) -> Float[Tensor, "position d_model"]:
    """The logit lens: nothing is moved."""
    return x


def trunk(model: PreTrainedModel) -> Trunk:
    """Blocks, final norm and unembedding of a decoder-only model."""
    return Trunk(list(decoder_layers(model)), final_norm(model), model.get_output_embeddings())


@torch.inference_mode()
def read_stream(model: PreTrainedModel, ids: Int[Tensor, "position"]) -> Stream:
    """One forward pass of `ids` with everything the trace needs of it."""
    with recorded_stream(model) as resid:
        out = model(ids[None], output_attentions=True, use_cache=False)
    stream = Stream(torch.cat(resid), torch.cat(given_patterns(model, out)), out.logits[0])
    check_head(model, stream.resid[-1], stream.logits)
    return stream


def given_patterns(model: PreTrainedModel, out: Any) -> tuple[Float[Tensor, "window head query key"], ...]:
    """Attention by layer of what a model gave back; `Failure` where it keeps its patterns to itself."""
    if not out.attentions or any(pattern is None for pattern in out.attentions):
        raise Failure(f"{type(model).__name__} gives no attention patterns: load it with Checkpoint.model()")
    if len(out.attentions) != (n_blocks := len(decoder_layers(model))):
        raise Failure(
            f"{type(model).__name__} attends in {len(out.attentions)} of {n_blocks} blocks only: "
            "Marble traces models that attend in every block"
        )
    return tuple(out.attentions)


@contextlib.contextmanager
def recorded_stream(model: PreTrainedModel) -> Iterator[list[Float[Tensor, "window position d_model"]]]:
    """Inside, a forward pass leaves what each block and then the final norm reads, one after the other."""
    parts = trunk(model)
    resid: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        resid.append(args[0] if args else kwargs["hidden_states"])

    hooks = [m.register_forward_pre_hook(keep, with_kwargs=True) for m in (*parts.blocks, parts.final_norm)]
    try:
        yield resid
    finally:
        for hook in hooks:
            hook.remove()


def check_head(
    model: PreTrainedModel, resid: Float[Tensor, "position d_model"], logits: Float[Tensor, "position vocab"]
) -> None:
    """Finite numbers, and final norm + unembedding of what the norm reads give the model's own logits."""
    parts = trunk(model)
    if not bool(torch.isfinite(logits).all()):
        raise Failure("the model's logits are not finite numbers: its weights hold NaN or overflow")
    read = parts.unembed(parts.final_norm(resid))
    scale = max(1.0, float(logits.abs().max()))
    if float((read - logits).abs().max()) > 256 * torch.finfo(read.dtype).eps * scale:
        raise Failure(
            f"the head of {type(model).__name__} does more than a norm and an unembedding: "
            "the logit lens would be wrong for it"
        )


def read_through(
    model: PreTrainedModel, x: Float[Tensor, "position d_model"]
) -> Float[Tensor, "position vocab"]:
    """Log probabilities that the model's own head reads from a stream."""
    parts = trunk(model)
    return parts.unembed(parts.final_norm(x)).float().log_softmax(-1)


@torch.inference_mode()
def logit_lens(
    model: PreTrainedModel,
    resid: Float[Tensor, "row position d_model"],
    ids: Int[Tensor, "position"],
    vocabulary: Vocabulary,
    k: int,
    moved: Moved = as_it_is,
) -> Lens:
    """The lens over all rows, one row at a time so that only one [position, vocab] array is held.

    `moved(row, x)` is what the head reads of a row: x itself (the logit lens), or what a tuned lens makes of it.
    """
    k = min(k, model.get_output_embeddings().weight.shape[0])
    rows = [_read_row(read_through(model, moved(row, x)), ids, k) for row, x in enumerate(resid)]
    top_ids = np.stack([row.top_ids for row in rows])
    top_shown = np.array(vocabulary.shown(top_ids.ravel().tolist()), dtype=object).reshape(top_ids.shape)
    return Lens(
        rows=("embedding", *(f"block {layer}" for layer in range(len(resid) - 1))),
        top_ids=top_ids,
        top_probabilities=np.stack([row.top_probabilities for row in rows]),
        top_shown=top_shown,
        entropy=np.stack([row.entropy for row in rows]),
        rank=np.stack([row.rank for row in rows]),
        next_probability=np.stack([row.next_probability for row in rows]),
    )


class LayerCurve(NamedTuple):
    """One token at one position by row: its probability, its rank (0: the likeliest), and the entropy, nats."""

    probability: Float[np.ndarray, "row"]
    rank: Int[np.ndarray, "row"]
    entropy: Float[np.ndarray, "row"]


@torch.inference_mode()
def layer_curve(
    model: PreTrainedModel, resid: Float[Tensor, "row d_model"], target: int, moved: Moved = as_it_is
) -> LayerCurve:
    """What the head reads of one position's stream, row by row, about the token `target`."""
    x = torch.cat([moved(row, at[None]) for row, at in enumerate(resid)])
    log_p = read_through(model, x)
    own = log_p[:, target, None]
    entropy = -(log_p.exp() * log_p).sum(-1)
    found = (own[:, 0].exp(), (log_p > own).sum(-1), entropy)
    return LayerCurve(*(a.cpu().numpy() for a in found))


class _Row(NamedTuple):
    top_ids: np.ndarray
    top_probabilities: np.ndarray
    entropy: np.ndarray
    rank: np.ndarray
    next_probability: np.ndarray


def _read_row(log_p: Float[Tensor, "position vocab"], ids: Tensor, k: int) -> _Row:
    p = log_p.exp()
    top = p.topk(k, dim=-1)
    following = log_p[:-1].gather(1, ids[1:, None])  # [position - 1, 1]
    rank = torch.full((len(ids),), -1, dtype=torch.long)
    rank[:-1] = (log_p[:-1] > following).sum(-1)
    probability = torch.full((len(ids),), torch.nan)
    probability[:-1] = following[:, 0].exp()
    # p log p is 0 where p underflowed to 0; log p itself stays finite
    entropy = -(p * log_p).sum(-1)
    return _Row(*(a.cpu().numpy() for a in (top.indices, top.values, entropy, rank, probability)))
