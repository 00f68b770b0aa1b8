"""From documents with character spans to tokens with factors, for any fast tokenizer.

Chats are rendered with the tokenizer's own template where it has one and as plain lines where not; the
spans of question and answer move with them. A token carries a factor if it covers at least one character
of a span of that factor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from transformers import PreTrainedTokenizerFast

from workbench.tokenizer import Encoded, encode

LABELS = ("id", "domain", "kind", "year", "president", "party")


@dataclasses.dataclass(frozen=True)
class TokenDocument:
    """One document as tokens (without BOS).

    `ids` int32 [token]; `special` bool [token]: chat-template tokens; `factors` [pair 2]: (token, factor);
    `answer`: index of the answer's first token in a chat, else 0; `labels`: what the corpus says of it.
    """

    labels: Mapping[str, Any]
    ids: np.ndarray
    special: np.ndarray
    factors: np.ndarray
    answer: int = 0


class Rendered(NamedTuple):
    """A chat's text and the characters where question and answer begin in it."""

    text: str
    question: int
    answer: int


def render_chat(tokenizer: PreTrainedTokenizerFast, question: str, answer: str) -> Rendered:
    """The chat in the tokenizer's own template, BOS left out; `question\\nanswer` if it has none."""
    if not tokenizer.chat_template:
        return Rendered(f"{question}\n{answer}", 0, len(question) + 1)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    text = text.removeprefix(tokenizer.bos_token or "")
    return Rendered(text, text.find(question), text.rfind(answer))


def label_documents(tokenizer: PreTrainedTokenizerFast, rows: pl.DataFrame) -> list[TokenDocument]:
    """Corpus rows (columns as `documents.parquet` has them) as tokens with their factors, in order."""
    spans = _spans(rows)
    chats = [row["domain"] == "chat" and bool(row["question"]) for row in rows.iter_rows(named=True)]
    found: dict[int, TokenDocument] = {}
    for chat in (False, True):
        which = [i for i, is_chat in enumerate(chats) if is_chat is chat]
        chosen = [rows.row(i, named=True) for i in which]
        rendered = [render_chat(tokenizer, r["question"], r["answer"]) for r in chosen] if chat else []
        texts = [r.text for r in rendered] if chat else [r["text"] for r in chosen]
        for position, (i, encoded) in enumerate(zip(which, encode(tokenizer, texts, chat), strict=True)):
            row = chosen[position]
            if chat:
                found[i] = _chat_document(row, encoded, spans[i], rendered[position])
            else:
                found[i] = _plain_document(row, encoded, spans[i])
    return [found[i] for i in range(rows.height)]


def _spans(rows: pl.DataFrame) -> list[np.ndarray]:
    """int64 [span 3] (start, end, factor) of each document."""
    lengths = rows["spans"].list.len().fill_null(0).to_numpy()
    flat = rows.filter(pl.col("spans").list.len() > 0).select("spans").explode("spans").unnest("spans")
    table = flat.select("start", "end", "factor").cast(pl.Int64).to_numpy()
    return np.split(table, np.cumsum(lengths)[:-1])


def _labels(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row.get(key) for key in LABELS}


def _plain_document(row: Mapping[str, Any], encoded: Encoded, spans: np.ndarray) -> TokenDocument:
    ids, offsets = _without_bos(encoded)
    special = np.zeros(len(ids), bool)
    return TokenDocument(_labels(row), ids, special, token_factors(offsets, spans))


def _chat_document(
    row: Mapping[str, Any], encoded: Encoded, spans: np.ndarray, rendered: Rendered
) -> TokenDocument:
    """Spans move by as much as the question or the answer they lie in has moved."""
    ids, offsets = _without_bos(encoded)
    moved, said = [], np.zeros(len(ids), bool)
    before = 0
    for part, at in ((row["question"], rendered.question), (row["answer"], rendered.answer)):
        was = row["text"].find(part, before)
        before = max(before, was + len(part))
        if at < 0:
            continue  # a template that rewrites what was said: its tokens carry no factors
        inside = np.column_stack([np.maximum(spans[:, 0], was), np.minimum(spans[:, 1], was + len(part))])
        kept = (inside[:, 0] < inside[:, 1]) & (was >= 0)
        moved.append(np.column_stack([inside + (at - was), spans[:, 2]])[kept])
        said |= (offsets[:, 1] > at) & (offsets[:, 0] < at + len(part))
    factors = token_factors(offsets, np.concatenate(moved) if moved else spans[:0])
    answer = int(np.argmax(offsets[:, 1] > rendered.answer)) if rendered.answer >= 0 else 0
    return TokenDocument(_labels(row), ids, ~said, factors, answer)


def _without_bos(encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
    return np.array(encoded.ids[1:], np.int32), np.array(encoded.offsets[1:], np.int64).reshape(-1, 2)


def token_factors(offsets: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Distinct (token, factor) pairs: `offsets` int64 [token 2] characters, `spans` int64 [span 3]."""
    if not len(offsets) or not len(spans):
        return np.zeros((0, 2), np.int64)
    starts, ends = np.maximum.accumulate(offsets[:, 0]), np.maximum.accumulate(offsets[:, 1])
    first = np.searchsorted(ends, spans[:, 0], side="right")
    last = np.searchsorted(starts, spans[:, 1], side="left")
    lengths = np.maximum(last - first, 0)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    pairs = np.column_stack([np.repeat(first, lengths) + within, np.repeat(spans[:, 2], lengths)])
    return np.unique(pairs, axis=0)


def total(documents: Iterable[TokenDocument] | Sequence[TokenDocument]) -> int:
    """Tokens of all the documents."""
    return sum(len(d.ids) for d in documents)
