"""What a mean difference promotes: a direction of the residual stream, read through a checkpoint's own head.

    at the mean stream    logits(h̄ + δ) − logits(h̄)      the final norm is the model's own, at the mean of x_a
    plain                 (δ ⊙ γ) W_U                     the norm's gain alone, its scale left out

Both less their mean over the vocabulary, which no prediction depends on. Of a layer below the last this is a logit
lens: what stands above it is skipped [nostalgebraist 2020]. A difference of exactly 0 promotes nothing.

Readout [after Minder 2025]: the rank of tokens one expects, among all tokens by how much δ promotes them (1: most),
beside the ranks that `DIRECTIONS` random directions of δ's length give. `p` is the share of them that promote it at
least as much. At the mean stream any long direction outweighs h̄ in the norm, so that what h̄ suppresses rises: the
null shows it. The plain reading is linear: a random direction ranks a token by chance. Blocks of documents are
resampled for intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.activation_difference import GroupSums
from workbench.site import direct_logits, final_norm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOP = 10
DIRECTIONS = 400
DRAWS = 200
AT_MEAN, PLAIN = READINGS = ("at the mean stream", "plain")


class Promoted(NamedTuple):
    """Token ids and how much each is promoted, most first; and suppressed, most first. Empty of no difference."""

    up: Int[np.ndarray, "top"]
    up_by: Float[np.ndarray, "top"]
    down: Int[np.ndarray, "top"]
    down_by: Float[np.ndarray, "top"]


class Ranks(NamedTuple):
    """Ranks of some tokens: `low`, `high` by bootstrap over documents; `null` the median rank that random
    directions give, between `null_low` and `null_high` 95 % of theirs; `p` how often they rank it as high."""

    rank: Int[np.ndarray, "token"]
    low: Float[np.ndarray, "token"]
    high: Float[np.ndarray, "token"]
    null: Float[np.ndarray, "token"]
    null_low: Float[np.ndarray, "token"]
    null_high: Float[np.ndarray, "token"]
    p: Float[np.ndarray, "token"]


class Score(NamedTuple):
    """The mean share of the vocabulary that is promoted less than the tokens (1: they lead it), with its interval;
    its mean by random directions, what 95 % of them stay below, and how often they reach it."""

    score: float
    low: float
    high: float
    null: float
    null_high: float
    p: float


@torch.inference_mode()
def change(
    model: PreTrainedModel,
    mean: Float[np.ndarray, "d"],
    deltas: Float[np.ndarray, "row d"],
    reading: str = AT_MEAN,
) -> Float[np.ndarray, "row vocab"]:
    """What each direction adds to the logits, less its mean over the vocabulary."""
    weight: Tensor = model.get_output_embeddings().get_parameter("weight")
    rows = torch.from_numpy(deltas).to(weight)
    if reading == PLAIN:
        added = direct_logits(model, rows)
    else:
        norm, head, h = final_norm(model), model.get_output_embeddings(), torch.from_numpy(mean).to(weight)
        added = head(norm(h + rows)) - head(norm(h)[None])
    added = added.float()
    return (added - added.mean(-1, keepdim=True)).cpu().numpy()


def promoted(added: Float[np.ndarray, "vocab"], top: int = TOP) -> Promoted:
    """The tokens at both ends."""
    if not added.any():
        none, nothing = np.zeros(0, np.int64), np.zeros(0)
        return Promoted(none, nothing, none, nothing)
    order = np.argsort(-added, kind="stable")
    up, down = order[:top], order[::-1][:top]
    return Promoted(up, added[up].astype(float), down, added[down].astype(float))


def ranks(added: Float[np.ndarray, "row vocab"], tokens: Sequence[int]) -> Int[np.ndarray, "row token"]:
    """1 + how many tokens each direction promotes more."""
    return np.stack([1 + (added > added[:, token, None]).sum(1) for token in tokens], axis=1)


def watched(
    model: PreTrainedModel,
    sums: GroupSums,
    before: str,
    after: str,
    tokens: Sequence[int],
    reading: str = PLAIN,
    seed: int = 0,
) -> tuple[Ranks, Score] | None:
    """How δ of a group ranks `tokens` through a head; None where there is no difference, or no token."""
    used = sums.n > 0
    parts, n = sums.differences(before, after)[used], sums.n[used]
    delta, mean = parts.sum(0) / n.sum(), sums.mean(before)
    if not tokens or not delta.any():
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(n), np.full(len(n), 1 / len(n)), size=DRAWS)
    random = rng.standard_normal((DIRECTIONS, len(delta)))
    random *= np.linalg.norm(delta) / np.linalg.norm(random, axis=1, keepdims=True)
    own, again, null = (
        ranks(change(model, mean, rows, reading), tokens)
        for rows in (delta[None], drawn @ parts / (drawn @ n)[:, None], random)
    )
    n_vocab = model.get_output_embeddings().get_parameter("weight").shape[0]
    below = [1 - (each.mean(1) - 1) / (n_vocab - 1) for each in (own, again, null)]
    low, high = np.quantile(again, (0.025, 0.975), axis=0)
    null_low, null_high = np.quantile(null, (0.025, 0.975), axis=0)
    said = Ranks(own[0], low, high, np.median(null, axis=0), null_low, null_high, _p(null <= own))
    least, most = map(float, np.quantile(below[1], (0.025, 0.975)))
    chance, p = below[2], float(_p(below[2] >= below[0]))
    return said, Score(
        float(below[0][0]), least, most, float(chance.mean()), float(np.quantile(chance, 0.95)), p
    )


def _p(at_least: Bool[np.ndarray, "row *token"]) -> Float[np.ndarray, "*token"]:
    """The share of random directions, δ itself counted among them."""
    return np.asarray((1 + at_least.sum(0)) / (1 + len(at_least)))
