"""Clean and corrupt prompts of equal length, with the token that the clean one asks for and a foil.

    m = logit(target) − logit(foil), read behind the prompt's last token

Rows are padded on the right to the longest prompt; `last` is where a row's prompt ends. What stands behind it is
never looked at, since attention is causal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import Misuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class PromptPair:
    """Two prompts as texts (chat tokens written out), and what each of the two answers is: one token each."""

    clean: str
    corrupt: str
    target: str
    foil: str


class PairIds(NamedTuple):
    """One pair as token ids, BOS first."""

    clean: list[int]
    corrupt: list[int]
    target: int
    foil: int


@dataclasses.dataclass(frozen=True)
class Pairs:
    """A task's prompts as token ids."""

    task: str
    clean: Int[Tensor, "pair position"]
    corrupt: Int[Tensor, "pair position"]
    target: Int[Tensor, "pair"]
    foil: Int[Tensor, "pair"]
    last: Int[Tensor, "pair"]

    def __post_init__(self) -> None:
        if self.clean.shape != self.corrupt.shape:
            raise ValueError(f"clean is {tuple(self.clean.shape)}, corrupt {tuple(self.corrupt.shape)}")
        if bool((self.target == self.foil).any()):
            raise ValueError("a target equals its foil")

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Pairs:
        """Some of the pairs, cut to the longest of them."""
        at = torch.arange(len(self))[rows]
        return self.rows(at, int(self.last[at].max()) + 1 if len(at) else 0)

    def rows(self, at: Int[Tensor, "row"], width: int | None = None) -> Pairs:
        """The pairs with these numbers, each as often as it is named; as wide as all are, unless told."""
        return Pairs(
            self.task, self.clean[at, :width], self.corrupt[at, :width],
            self.target[at], self.foil[at], self.last[at],
        )  # fmt: skip

    def to(self, device: str | torch.device) -> Pairs:
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in dataclasses.fields(self)
            if field.name != "task"
        }
        return dataclasses.replace(self, **moved)

    @property
    def one_length(self) -> bool:
        """All prompts are equally long, so that a place means the same in each."""
        return bool((self.last == self.last[0]).all())


def logit_difference(
    logits: Float[Tensor, "pair vocab"], target: Int[Tensor, "pair"], foil: Int[Tensor, "pair"]
) -> Float[Tensor, "pair"]:
    """m = logit(target) − logit(foil), of logits behind each prompt's last token."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, foil[:, None]))[:, 0]


def encoded(task: str, pairs: Iterable[PromptPair], tokenizer: PreTrainedTokenizerFast, n_ctx: int) -> Pairs:
    """The pairs as ids, BOS first as in training. `Misuse` names the first pair that is no fair comparison."""
    rows = [_ids(task, number, pair, tokenizer, n_ctx) for number, pair in enumerate(pairs, 1)]
    if not rows:
        raise Misuse(f"task {task!r} has no pairs: give it at least one line")
    return padded(task, rows, pad_of(tokenizer))


def padded(task: str, rows: Sequence[PairIds], pad: int) -> Pairs:
    """Pairs that are ids already, as one table."""
    width = max(len(row.clean) for row in rows)
    return Pairs(
        task,
        torch.tensor([row.clean + [pad] * (width - len(row.clean)) for row in rows]),
        torch.tensor([row.corrupt + [pad] * (width - len(row.corrupt)) for row in rows]),
        torch.tensor([row.target for row in rows]),
        torch.tensor([row.foil for row in rows]),
        torch.tensor([len(row.clean) - 1 for row in rows]),
    )


def pad_of(tokenizer: PreTrainedTokenizerFast) -> int:
    """What fills a row behind its prompt; never looked at."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0


def _ids(task: str, number: int, pair: PromptPair, tokenizer: PreTrainedTokenizerFast, n_ctx: int) -> PairIds:
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    clean, corrupt = (
        bos + tokenizer.encode(text, add_special_tokens=False) for text in (pair.clean, pair.corrupt)
    )
    of = f"pair {number} of task {task!r}"
    if len(clean) != len(corrupt):
        raise Misuse(
            f"{of}: the clean prompt has {len(clean)} tokens and the corrupt one {len(corrupt)}, but a place "
            f"must mean the same in both: change {pair.corrupt!r} until the two are equally long"
        )
    if clean == corrupt:
        raise Misuse(
            f"{of}: clean and corrupt prompt are the same, so nothing can move the answer: change {pair.corrupt!r}"
        )
    if len(clean) > n_ctx:
        raise Misuse(f"{of} has {len(clean)} tokens, and the model reads {n_ctx}: shorten it")
    target, foil = (
        _one_token(of, what, text, tokenizer) for what, text in (("target", pair.target), ("foil", pair.foil))
    )
    if target == foil:
        raise Misuse(
            f"{of}: target and foil are both {pair.target!r}, so their logits cannot differ: give another foil"
        )
    return PairIds(clean, corrupt, target, foil)


def _one_token(of: str, what: str, text: str, tokenizer: PreTrainedTokenizerFast) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        pieces = ", ".join(repr(tokenizer.decode([i])) for i in ids) or "nothing"
        raise Misuse(
            f"{of}: the {what} {text!r} is not one token but {pieces}: name one token "
            "(a blank in front belongs to it)"
        )
    return int(ids[0])
