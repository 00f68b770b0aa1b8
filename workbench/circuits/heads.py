"""What heads attend to: the previous token, the same token earlier, the token after it; and, in a task, each place.

    score(D) = Σ (A ∘ D) / Σ A          A: attention without the first key, which is BOS or stands in for it

On ids drawn at random and said twice [Olsson 2022]: D is 1 where the key is the previous token; where it is an
earlier copy of the query's token (duplicate); where it follows such a copy (induction). As
`transformer_lens.head_detector.detect_head` with `error_measure="mul", exclude_bos=True` has it, and the mean over
sequences as there. Beside each score stands that of uniform causal attention on the same ids, A_ij = 1/(i + 1).

A head that rests on BOS is scored on what little is left: `attending`, the share of its attention that goes
elsewhere, says how much that is.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from workbench.circuits.pairs import Pairs
from workbench.errors import Misuse
from workbench.intervals import ratio_intervals
from workbench.lens import given_patterns
from workbench.vocabulary import Vocabulary

if TYPE_CHECKING:
    import polars as pl
    from transformers import PreTrainedTokenizerFast

PREVIOUS, DUPLICATE, INDUCTION = "previous token", "duplicate token", "induction"
KINDS = (PREVIOUS, DUPLICATE, INDUCTION)
SEQUENCES, LENGTH = 32, 50  # sequences, and tokens of each that are said twice, where the model reads so many
NUMBERS = 2**25  # of attention that are held at once


class HeadScore(NamedTuple):
    """One score of one head: the mean over n sequences, its interval, and what uniform attention would score."""

    kind: str
    layer: int
    head: int
    score: float
    low: float
    high: float
    null: float
    attending: float
    n: int


@dataclasses.dataclass(frozen=True)
class HeadScores:
    """`null` is uniform attention's on the same ids; `attending` what does not go to the first key."""

    score: Float[np.ndarray, "kind layer head sequence"]
    null: Float[np.ndarray, "kind sequence"]
    attending: Float[np.ndarray, "layer head sequence"]

    def rows(self) -> list[HeadScore]:
        """Every kind, layer and head."""
        n = self.score.shape[-1]
        flat = self.score.reshape(-1, n)
        ends = ratio_intervals(flat.T, np.ones(n)).reshape(*self.score.shape[:3], 2)
        mean, null, attending = (part.mean(axis=-1) for part in (self.score, self.null, self.attending))
        rows = []
        for kind, layer, head in np.ndindex(*mean.shape):
            low, high = (float(end) for end in ends[kind, layer, head])
            score, uniform_, rest = mean[kind, layer, head], null[kind], attending[layer, head]
            figures = (float(score), low, high, float(uniform_), float(rest))
            rows.append(HeadScore(KINDS[kind], layer, head, *figures, n))
        return rows

    def strongest(self, kind: str, n: int = 3) -> list[HeadScore]:
        """The heads that score highest of one kind."""
        return sorted((row for row in self.rows() if row.kind == kind), key=lambda row: -row.score)[:n]


def repeated_ids(
    tokenizer: PreTrainedTokenizerFast, n_ctx: int, n: int = SEQUENCES, length: int = LENGTH, seed: int = 0
) -> Int[Tensor, "sequence position"]:
    """BOS, where there is one, then ordinary ids drawn at random without return, twice."""
    vocabulary = Vocabulary(tokenizer)
    ordinary = np.array([i for i in range(len(tokenizer)) if not vocabulary.is_special(i)])
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    # one place less than the model reads: detect_head takes no more either
    length = min(length, (n_ctx - 1 - len(bos)) // 2, len(ordinary))
    if length < 2:
        raise Misuse(
            f"a model that reads {n_ctx} tokens cannot be shown a repeated sequence: it needs 6 at least"
        )
    rng = np.random.default_rng(seed)
    half = np.stack([rng.choice(ordinary, length, replace=False) for _ in range(n)])
    return torch.from_numpy(np.concatenate([np.tile(bos, (n, 1)), half, half], axis=1).astype(np.int64))


def detection(ids: Int[Tensor, "sequence position"]) -> Float[Tensor, "kind sequence query key"]:
    """D of each kind, 0 or 1, causal."""
    same = (ids[:, :, None] == ids[:, None, :]).float().tril(-1)
    n = ids.shape[1]
    previous = torch.eye(n, device=ids.device).roll(-1, dims=1).tril(-1).expand_as(same)
    return torch.stack([previous, same, torch.nn.functional.pad(same, (1, -1)).tril()])


@torch.inference_mode()
def patterns(
    model: PreTrainedModel, ids: Int[Tensor, "sequence position"]
) -> Float[Tensor, "layer sequence head query key"]:
    """Attention after softmax of every head; a row sums to 1."""
    out = model(input_ids=ids, output_attentions=True, use_cache=False)
    return torch.stack(given_patterns(model, out)).float()


def sequences_at_once(model: PreTrainedModel, position: int) -> int:
    """So many that their attention, and their logits, fit `NUMBERS`."""
    config = model.config.get_text_config()
    attention = config.num_hidden_layers * config.num_attention_heads * position
    return max(1, NUMBERS // (position * max(attention, model.get_output_embeddings().weight.shape[0])))


def shares(
    attention: Float[Tensor, "layer sequence head query key"], wanted: Float[Tensor, "kind sequence query key"]
) -> Float[Tensor, "kind layer head sequence"]:
    """Σ (A ∘ D) / Σ A without the first key; NaN for a head that attends to nothing else."""
    on = torch.einsum("lshqk,csqk->clhs", attention[..., 1:], wanted[..., 1:])
    return on / attention[..., 1:].sum(dim=(-1, -2)).transpose(1, 2)


def uniform(position: int) -> Float[Tensor, "query key"]:
    """Attention that is spread evenly over the keys at or before the query."""
    return torch.ones(position, position).tril() / torch.arange(1, position + 1)[:, None]


def score_heads(model: PreTrainedModel, ids: Int[Tensor, "sequence position"]) -> HeadScores:
    """Every head's scores on `ids`, by sequence."""
    at_once, found, attending = sequences_at_once(model, ids.shape[1]), [], []
    for batch in ids.split(at_once):
        attention = patterns(model, batch.to(model.device))
        found.append(shares(attention, detection(batch.to(model.device))).cpu())
        attending.append((1 - attention[..., 0].mean(dim=-1)).transpose(1, 2).cpu())
    null = torch.cat(
        [
            shares(uniform(ids.shape[1]).expand(1, len(batch), 1, -1, -1), detection(batch.cpu()))[:, 0, 0]
            for batch in ids.split(at_once)
        ],
        dim=1,
    )
    return HeadScores(torch.cat(found, dim=-1).numpy(), null.numpy(), torch.cat(attending, dim=-1).numpy())


@dataclasses.dataclass(frozen=True)
class LastAttention:
    """What the prompts' last tokens attend to; places behind a prompt's last are 0."""

    task: str
    attention: Float[np.ndarray, "layer head pair position"]
    last: Int[np.ndarray, "pair"]

    def mean(self) -> Float[np.ndarray, "layer head position"]:
        """By place, over pairs. `Misuse` where prompts are not equally long: a place means nothing then."""
        self._checked()
        return self.attention.mean(axis=2)

    def interval(self) -> Float[np.ndarray, "layer head position 2"]:
        """Low and high of `mean`, by bootstrap over pairs."""
        self._checked()
        layers, heads, pairs, positions = self.attention.shape
        flat = self.attention.transpose(2, 0, 1, 3).reshape(pairs, -1)
        return ratio_intervals(flat, np.ones(pairs)).reshape(layers, heads, positions, 2)

    def table(self) -> pl.DataFrame:
        """A row a head and place: `mean` with its `interval`, and the number of pairs."""
        import polars as pl

        mean, ends = self.mean(), self.interval()
        rows = [
            (*at, float(mean[at]), *(float(end) for end in ends[at]), len(self.last))
            for at in np.ndindex(*mean.shape)
        ]
        schema = ["layer", "head", "position", "attention", "low", "high", "n"]
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _checked(self) -> None:
        if len(lengths := np.unique(self.last + 1)) > 1:
            raise Misuse(
                f"the prompts of task {self.task!r} have {lengths[0]} to {lengths[-1]} tokens, so that a place "
                "does not mean the same in each: look at pairs of one length"
            )


def last_attention(model: PreTrainedModel, pairs: Pairs, corrupt: bool = False) -> LastAttention:
    """Every head's attention from the last token of the clean (or corrupt) prompts."""
    ids = pairs.corrupt if corrupt else pairs.clean
    rows = []
    for at in torch.arange(len(pairs)).split(sequences_at_once(model, ids.shape[1])):
        found = patterns(model, ids[at].to(model.device)).cpu()
        rows.append(found[:, torch.arange(len(at)), :, pairs.last[at].cpu()])  # [pair, layer, head, key]
    return LastAttention(
        pairs.task, torch.cat(rows).permute(1, 2, 0, 3).contiguous().numpy(), pairs.last.cpu().numpy()
    )
