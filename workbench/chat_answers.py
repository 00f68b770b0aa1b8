"""Chats of a token set as rows, and where in them the answers stand.

A chat is markers, question, markers, answer, markers; which tokens are markers the set knows (`special`). The
answer begins behind the first markers that follow a question, and ends with the first marker behind it, which is
part of what the model has to say. Texts with no answer (a continued address, one cut into windows) are no chats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.tokens import TokenSet, WindowBatch


class Chats(NamedTuple):
    """Rows of BOS, question and answer, padded on the right. `at`: the next token is of the answer; `marker`:
    chat-template tokens; `real`: neither BOS nor padding; `document`: each row's document in the set."""

    ids: Int[Tensor, "row pos"]
    at: Bool[Tensor, "row pos_1"]
    marker: Bool[Tensor, "row pos"]
    real: Bool[Tensor, "row pos"]
    document: Int[np.ndarray, "row"]

    @property
    def of_token(self) -> Int[np.ndarray, "answer_token"]:
        """The document of each token of an answer, in the order in which `at` marks them."""
        return np.repeat(self.document, self.at.sum(dim=1).numpy(force=True))

    @property
    def place(self) -> Int[np.ndarray, "answer_token"]:
        """Each one's place in its answer, from 0."""
        return (self.at.cumsum(dim=1) - 1)[self.at].numpy(force=True)


def answer_span(special: Bool[np.ndarray, "token"]) -> tuple[int, int] | None:
    """Where the answer starts and stops (exclusive; its end marker is inside); None where there is none."""
    start = 0
    for marker in (False, True, False):  # the question, the markers behind it, the answer
        behind = np.flatnonzero(special[start:] == marker)
        if not len(behind):
            return None
        start += int(behind[0])
    ends = np.flatnonzero(special[start:])
    return start, start + int(ends[0]) + 1 if len(ends) else len(special)


def chat_windows(tokens: TokenSet, wanted: Mapping[str, int], seed: int = 0) -> Int[np.ndarray, "window"]:
    """At most so many chats of each domain (`chat`: gold ones; `rollout:NAME`: what NAME wrote), each whole in one
    window."""
    document = np.asarray(tokens.document)[tokens.starts]
    alone = np.bincount(document, minlength=tokens.documents.height)[document] == 1
    domain, special = tokens.domain[document], np.asarray(tokens.special)
    rng = np.random.default_rng(seed)
    chosen = []
    for name, n in wanted.items():
        here = np.flatnonzero((domain == name) & alone)
        answered = [w for w in here if answer_span(special[tokens.starts[w] : tokens.stops[w]])]
        chosen.append(rng.permutation(np.array(answered, dtype=np.int64))[:n])
    return np.sort(np.concatenate(chosen))


def chats(
    tokens: TokenSet, windows: Int[np.ndarray, "window"], tokens_per_batch: int, longest: int
) -> list[Chats]:
    """The windows as rows, those of like length beside each other; answers are read up to `longest` tokens."""
    batches = tokens.batches(tokens_per_batch, windows) if len(windows) else ()
    return [_rows(tokens, batch, longest) for batch in batches]


def _rows(tokens: TokenSet, batch: WindowBatch, longest: int) -> Chats:
    marker = np.asarray(tokens.special)[batch.rows] & batch.real
    at = np.zeros_like(batch.real)
    for row, real in enumerate(batch.real):
        if (span := answer_span(marker[row, : int(real.sum())])) is not None:
            at[row, span[0] : min(span[1], span[0] + longest)] = True
    width = int(np.flatnonzero(at.any(axis=0)).max(initial=0)) + 1  # nothing is asked behind it
    none = np.zeros((len(at), 1), dtype=bool)
    marked, real = (
        torch.from_numpy(np.concatenate([none, each[:, :width]], axis=1)) for each in (marker, batch.real)
    )
    document = np.asarray(tokens.document)[batch.rows[:, 0]].astype(np.int64)
    ids, asked = (torch.from_numpy(each) for each in (batch.ids[:, : width + 1], at[:, :width]))
    return Chats(ids, asked, marked, real, document)


def first_tokens(lengths: Int[np.ndarray, "answer"], most: int) -> int:
    """How many tokens are an answer's first: `most`, or half of the median answer where answers are short."""
    return max(1, min(most, int(np.median(lengths)) // 2)) if len(lengths) else 1
