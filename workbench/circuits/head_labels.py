"""What a head may be called by what was measured of it on random ids said twice (`workbench.circuits.heads`).

A head is called previous token, duplicate token or induction where more than half of what it gives to tokens
after the first goes where that name says, and first token (an attention sink [Xiao 2024]) where more than half of
all that it gives goes to the first: the lower end of the 95 % interval over sequences lies above `BOUND`. A head
that rests on the first token is scored on what little is left, so that it is called a sink and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from workbench.circuits.heads import LENGTH, SEQUENCES, HeadScore, HeadScores, repeated_ids, score_heads
from workbench.errors import Misuse
from workbench.intervals import ratio_intervals

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

BOUND = 0.5
FIRST = "first token"


class HeadLabel(NamedTuple):
    """A head's name, the figure it rests on with its interval, and that of uniform attention on the same ids."""

    layer: int
    head: int
    name: str
    score: float
    low: float
    high: float
    null: float
    n: int


class Labelled(NamedTuple):
    """The heads that have a name, and on what it was measured; or why they could not be measured."""

    labels: tuple[HeadLabel, ...]
    measured_on: str
    unmeasured: str = ""

    def of(self, layer: int, head: int) -> HeadLabel | None:
        """The name of one head."""
        return next((label for label in self.labels if (label.layer, label.head) == (layer, head)), None)


def label_heads(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n: int = SEQUENCES, length: int = LENGTH
) -> Labelled:
    """Names of the heads of `model`; none, with the reason, where its context is too short to measure them."""
    try:
        ids = repeated_ids(tokenizer, _n_ctx(model), n, length)
    except Misuse as error:
        return Labelled((), "", str(error))
    scores = score_heads(model, ids)
    bos = 0 if tokenizer.bos_token_id is None else 1
    on = f"{len(ids)} sequences of {(ids.shape[1] - bos) // 2} random ids, each said twice"
    return Labelled(named([*scores.rows(), *first_rows(scores, ids.shape[1])]), on)


def named(rows: Sequence[HeadScore], bound: float = BOUND) -> tuple[HeadLabel, ...]:
    """At most one name a head, in the order of layers and heads: a sink's own, else the highest score's."""
    found: dict[tuple[int, int], HeadScore] = {}
    for row in sorted(rows, key=lambda row: (row.kind == FIRST, row.score), reverse=True):
        if row.low > max(bound, row.null):
            found.setdefault((row.layer, row.head), row)
    return tuple(
        HeadLabel(r.layer, r.head, r.kind, r.score, r.low, r.high, r.null, r.n)
        for r in (found[at] for at in sorted(found))
    )


def first_rows(scores: HeadScores, position: int) -> list[HeadScore]:
    """What each head gives to the first token, and what uniform attention would: the mean of 1/(i + 1)."""
    layers, heads, n = scores.attending.shape
    first = 1 - scores.attending
    ends = ratio_intervals(first.reshape(-1, n).T, np.ones(n)).reshape(layers, heads, 2)
    null = float((1 / np.arange(1, position + 1)).mean())
    rows = []
    for layer, head in np.ndindex(layers, heads):
        low, high = (float(end) for end in ends[layer, head])
        score, rest = float(first[layer, head].mean()), float(scores.attending[layer, head].mean())
        rows.append(HeadScore(FIRST, layer, head, score, low, high, null, rest, n))
    return rows


def _n_ctx(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().max_position_embeddings)
