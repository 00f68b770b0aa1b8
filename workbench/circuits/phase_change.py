"""Heads along the snapshots of a lineage, and when copying in context sets in (the induction phase change).

On random ids said twice (`workbench.circuits.heads`) every model of the axis is scored by head, and by its loss:

    copying = loss on r_2 … r_n the first time − loss on the same ids the second time      nats a token

Nothing but the context tells a random id, so what the second time costs less is copied from it [Olsson 2022]. r_1
is left out: that the repeat begins, nothing tells. A model before its first step copies nothing.

A curve has risen at the first moment at which it is half way from its null to its largest value; it has not where
the largest value's interval does not lie `LEAST` above the null. The largest is sought among all moments, so it
leans a little upwards. Copying can come without an induction head: attention spread over the context raises every
token in it, and so costs less the second time. Only head and loss together are the phase change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from workbench.checkpoint import Checkpoint
from workbench.circuits.heads import KINDS, SEQUENCES, HeadScores, repeated_ids, score_heads, sequences_at_once
from workbench.errors import Misuse
from workbench.intervals import bracketed, ratio_intervals
from workbench.lab import Lab
from workbench.parents import lineage
from workbench.plan import Plan
from workbench.recipe import stage_of
from workbench.step_axis import Moment, moments, stages_of

LEAST = 0.1  # of a head's attention, or nats a token: what a curve must rise by


class RepeatLoss(NamedTuple):
    """Nats a token on the same ids, when they come for the first time and for the second, by sequence."""

    first: Float[np.ndarray, "sequence"]
    second: Float[np.ndarray, "sequence"]

    @property
    def copying(self) -> Float[np.ndarray, "sequence"]:
        return self.first - self.second


class Rise(NamedTuple):
    """Where a curve is half way to its largest value (None: it does not rise), that value, and the last one."""

    moment: Moment | None
    largest: float
    low: float
    high: float
    at: Moment
    last: float

    def sentence(self, what: str) -> str:
        """For people."""
        largest = bracketed(self.largest, *((self.low, self.high) if np.isfinite(self.low) else (None, None)))
        rose = f"rises at {self.moment.address}" if self.moment else "does not rise"
        last = bracketed(self.last, None, None)
        return f"{what} {rose}: largest {largest} at {self.at.address}, {last} at the end"


@dataclasses.dataclass(frozen=True)
class History:
    """One entry a moment of the axis; all models read the same ids."""

    moments: Sequence[Moment]
    heads: Sequence[HeadScores]
    losses: Sequence[RepeatLoss]

    def head_table(self) -> pl.DataFrame:
        """A row a moment, kind and head: where on the axis, score, low, high, null, attending, n."""
        rows = [
            (*moment[:4], *row)
            for moment, scores in zip(self.moments, self.heads, strict=True)
            for row in scores.rows()
        ]
        schema = [
            "stage", "step", "axis", "place", "kind", "layer", "head", "score", "low", "high", "null", "attending",
            "n",
        ]  # fmt: skip
        return pl.DataFrame(rows, schema=schema, orient="row")

    def loss_table(self) -> pl.DataFrame:
        """A row a moment: where on the axis, loss the first and the second time, copying, low, high, n."""
        rows = []
        for moment, loss in zip(self.moments, self.losses, strict=True):
            n = len(loss.first)
            ((low, high),) = ratio_intervals(loss.copying[:, None], np.ones(n))
            means = (float(part.mean()) for part in (loss.first, loss.second, loss.copying))
            rows.append((*moment[:4], *means, float(low), float(high), n))
        schema = ["stage", "step", "axis", "place", "first", "second", "copying", "low", "high", "n"]
        return pl.DataFrame(rows, schema=schema, orient="row")

    def head_rise(self, kind: str, layer: int, head: int) -> Rise:
        """When one head's score rose."""
        at = KINDS.index(kind)
        curve = np.stack([scores.score[at, layer, head] for scores in self.heads])
        return risen(self.moments, curve, float(self.heads[0].null[at].mean()))

    def strongest(self, kind: str) -> tuple[int, int]:
        """Layer and head that score highest of one kind at any moment."""
        means = np.stack([scores.score[KINDS.index(kind)].mean(axis=-1) for scores in self.heads]).max(axis=0)
        layer, head = np.unravel_index(int(means.argmax()), means.shape)
        return int(layer), int(head)

    def sentences(self) -> list[str]:
        """What a person reads: each kind's strongest head, and copying."""
        told = []
        for kind in KINDS:
            layer, head = self.strongest(kind)
            null = bracketed(float(self.heads[0].null[KINDS.index(kind)].mean()), None, None)
            told.append(
                self.head_rise(kind, layer, head).sentence(f"{kind}: head {layer}.{head}")
                + f" (uniform {null})"
            )
        return [*told, self.copying_rise().sentence("copying in context, nats a token,")]

    def copying_rise(self) -> Rise:
        """When copying in context rose; its null is 0."""
        return risen(self.moments, np.stack([loss.copying for loss in self.losses]), 0.0)


def risen(on: Sequence[Moment], curve: Float[np.ndarray, "moment sequence"], null: float) -> Rise:
    """The first moment at which the curve's mean is half way from `null` to its largest."""
    means = curve.mean(axis=1)
    top = int(means.argmax())
    ((low, high),) = ratio_intervals(curve[top][:, None], np.ones(curve.shape[1]))
    at = int((means >= null + (means[top] - null) / 2).argmax())
    moment = on[at] if low >= null + LEAST else None
    return Rise(moment, float(means[top]), float(low), float(high), on[top], float(means[-1]))


@torch.inference_mode()
def repeat_loss(model: PreTrainedModel, ids: Int[Tensor, "sequence position"]) -> RepeatLoss:
    """Of ids as `repeated_ids` gives them, with or without BOS in front."""
    length = ids.shape[1] // 2
    begin = ids.shape[1] - 2 * length  # BOS, or nothing
    losses = []
    for batch in ids.to(model.device).split(sequences_at_once(model, ids.shape[1])):
        log_p = model(input_ids=batch, use_cache=False).logits[:, :-1].float().log_softmax(-1)
        losses.append(-log_p.gather(-1, batch[:, 1:, None])[..., 0].cpu())
    loss = torch.cat(losses).double().numpy()  # [sequence, position - 1]: place p is lost at p - 1
    first = loss[:, begin : begin + length - 1]
    second = loss[:, begin + length : begin + 2 * length - 1]
    return RepeatLoss(first.mean(axis=1), second.mean(axis=1))


def history(
    lab: Lab,
    names: Sequence[str],
    n: int = SEQUENCES,
    seed: int = 0,
    device: str = "cpu",
    report: Callable[[Moment], None] = lambda moment: None,
) -> History:
    """Every snapshot and finished model on the line from the first of `names` to the deepest of them."""
    plan = Plan.of(lab)
    line = lineage([stage_of(name) for name in names], plan.parent_checkpoint)
    first = Checkpoint.of(lab, line[0])
    ids = repeated_ids(first.tokenizer(), first.n_ctx, n, seed=seed)
    axis, heads, losses = moments(stages_of(lab, plan, line)), [], []
    for moment in axis:
        model = Checkpoint.of(lab, moment.address).model(device)
        if (known := model.get_output_embeddings().weight.shape[0]) <= int(ids.max()):
            raise Misuse(
                f"{moment.address!r} knows {known} ids and {line[0]!r}'s tokenizer gives {int(ids.max())}: "
                "checkpoints on one axis must share a vocabulary"
            )
        heads.append(score_heads(model, ids))
        losses.append(repeat_loss(model, ids))
        report(moment)
    return History(axis, heads, losses)
