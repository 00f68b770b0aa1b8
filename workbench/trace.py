"""One message through the machine: tokens, residual stream, attention, the lens over layers, the prediction.

`trace` runs the model once; everything that the Trace page draws comes from what it returns. Hooks are put
on the model for that pass: a model that several threads share needs a lock around the call.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from workbench.errors import Failure, Misuse
from workbench.lens import LayerCurve, Lens, Moved, as_it_is, layer_curve, logit_lens, read_stream
from workbench.prompt import Prompt
from workbench.sampling import Sampling, reshape, softmax
from workbench.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class Trace:
    """One prompt in one checkpoint. All arrays are fp32 on the CPU.

    `resid` row 0 is the embedding (with positions, where the family adds them), row l + 1 is `resid_post` of
    block l. A row of `attention` sums to 1 over the keys at or before the query.
    """

    prompt: Prompt
    lens: Lens
    resid: Float[np.ndarray, "row position d_model"]
    attention: Float[np.ndarray, "layer head query key"]
    logits: Float[np.ndarray, "position vocab"]


class Candidate(NamedTuple):
    """One possible next token: its probability under the model, and after reshaping; `cut_by` says which
    setting removed it (`sampling.KEPT` where none did)."""

    id: int
    shown: str
    special: bool
    probability: float
    reshaped: float
    cut_by: int


def trace(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: Prompt, top: int = 10) -> Trace:
    """`prompt` through `model`, with the `top` most probable tokens of every layer and position."""
    n_vocab = model.get_output_embeddings().weight.shape[0]
    if max(prompt.ids) >= n_vocab:
        raise Failure(
            f"the tokenizer gives id {max(prompt.ids)} but the model knows {n_vocab} ids: "
            "the tokenizer beside this checkpoint is not its own"
        )
    ids = torch.tensor(prompt.ids, device=model.device)
    stream = read_stream(model, ids)
    return Trace(
        prompt=prompt,
        lens=logit_lens(model, stream.resid, ids, Vocabulary(tokenizer), top),
        resid=stream.resid.float().cpu().numpy(),
        attention=stream.attention.float().cpu().numpy(),
        logits=stream.logits.float().cpu().numpy(),
    )


def read_again(
    trace_: Trace, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, moved: Moved, top: int = 10
) -> Lens:
    """The lens of a trace with its stream `moved` before the head reads it (by a tuned lens): no forward pass."""
    ids = torch.tensor(trace_.prompt.ids, device=model.device)
    return logit_lens(model, _stream(trace_, model), ids, Vocabulary(tokenizer), top, moved)


def target_at(trace_: Trace, position: int) -> int:
    """The token that follows `position`; after the last, where none does, what the model finds likeliest."""
    ids = trace_.prompt.ids
    return ids[position + 1] if position + 1 < len(ids) else int(trace_.logits[position].argmax())


def layers_at(
    trace_: Trace, model: PreTrainedModel, position: int, target: int, moved: Moved = as_it_is
) -> LayerCurve:
    """Probability and rank of `target` after `position`, and entropy there, by layer."""
    return layer_curve(model, _stream(trace_, model)[:, position], target, moved)


def _stream(trace_: Trace, model: PreTrainedModel) -> Float[torch.Tensor, "row position d_model"]:
    return torch.from_numpy(trace_.resid).to(model.device, model.dtype)


def candidates(
    trace_: Trace,
    tokenizer: PreTrainedTokenizerFast,
    position: int = -1,
    sampling: Sampling | None = None,
    top: int = 20,
) -> list[Candidate]:
    """The `top` most probable tokens after `position`, with what `sampling` makes of each."""
    return candidates_of(trace_.logits[position], Vocabulary(tokenizer), sampling or Sampling(), top)


def candidates_of(
    logits: Float[np.ndarray, "vocab"], vocabulary: Vocabulary, sampling: Sampling, top: int
) -> list[Candidate]:
    """The `top` most probable tokens of one distribution, with what `sampling` makes of each."""
    logits = logits.astype(np.float64)
    p = softmax(logits)
    reshaped = reshape(logits, sampling)
    best = np.argsort(-p, kind="stable")[:top].tolist()
    return [
        Candidate(
            id=id_,
            shown=vocabulary[id_].shown,
            special=vocabulary[id_].special,
            probability=float(p[id_]),
            reshaped=float(reshaped.probabilities[id_]),
            cut_by=int(reshaped.cut_by[id_]),
        )
        for id_ in best
    ]


def n_kept(trace_: Trace, sampling: Sampling, position: int = -1) -> int:
    """How many tokens `sampling` leaves to draw from after `position`."""
    return reshape(trace_.logits[position], sampling).n_kept


def divergence(p: Trace, q: Trace) -> Float[np.ndarray, "position"]:
    """KL(p ‖ q) of the next-token distributions at every position, nats. Both must have read the same ids
    and know equally many."""
    if p.prompt.ids != q.prompt.ids:
        raise Misuse(
            "the two checkpoints read different tokens: their predictions cannot be compared one by one"
        )
    if p.logits.shape != q.logits.shape:
        raise Misuse(
            f"one checkpoint gives logits to {p.logits.shape[-1]:,} ids and the other to {q.logits.shape[-1]:,}: "
            "their predictions cannot be compared one by one"
        )
    return np.array([_kl(*logits) for logits in zip(p.logits, q.logits, strict=True)])


def _kl(p: Float[np.ndarray, "vocab"], q: Float[np.ndarray, "vocab"]) -> float:
    log_p, log_q = (np.log(np.maximum(softmax(logits.astype(np.float64)), 1e-300)) for logits in (p, q))
    return float((np.exp(log_p) * (log_p - log_q)).sum())
