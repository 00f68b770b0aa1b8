"""Texts of the corpus by domain and what checkpoints lose on them: nats, tokens and bytes of each text.

    loss = Σ −ln p(x_t | x_<t) / n tokens        bits per byte = Σ nats / ln 2 / Σ bytes

Of a chat only the answer is scored, behind its question. An address is long: passages of it are read, and its sums
are one case. Every checkpoint reads the same characters, whatever its tokenizer makes of them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float
from transformers import PreTrainedTokenizerFast

from probes.kit.readings import corpus_of, opened
from workbench.bits_per_byte import model_nats
from workbench.checkpoint import Checkpoint
from workbench.corpus import SCHEMA, documents_of
from workbench.lab import Lab
from workbench.labelled import TokenDocument, label_documents
from workbench.token_sets import MAX_WINDOW, leading_id

PROSE, CHATS = "prose", "chats"
PASSAGE = 400  # characters, some hundred tokens
BEGINNING = 200  # characters of a document of the world, where letters and digits are tokens of their own
WORLD: Mapping[str, str] = {
    "stories": "story", "facts": "capitals", "sums": "sums", "counts": "counts", "spellings": "spelling",
}  # fmt: skip
DOMAINS = (PROSE, *WORLD, CHATS)


class Text(NamedTuple):
    """What is read, and the document that it is of."""

    document: str
    domain: str
    text: str
    question: str = ""
    answer: str = ""
    task: str = ""
    result: str = ""
    year: int | None = None
    party: str = ""


class Losses(NamedTuple):
    """Sums by text, or by document."""

    nats: Float[np.ndarray, " case"]
    tokens: Float[np.ndarray, " case"]
    bytes: Float[np.ndarray, " case"]

    def less(self, other: Losses) -> Float[np.ndarray, " case"]:
        """Nats per token by case such that their mean is Σ (own − other's nats) / Σ tokens."""
        return (self.nats - other.nats) / self.tokens.mean()

    @property
    def bits_per_byte(self) -> float:
        return float(self.nats.sum() / np.log(2) / self.bytes.sum())


@functools.lru_cache(maxsize=64)
def texts(lab: Lab, domain: str, split: str, stage: str | None = None) -> tuple[Text, ...]:
    """All documents of a domain and a split (and those that a stage was trained on), in their order."""
    rows = documents_of(corpus_of(lab), split, _part(domain), stage)
    if domain in WORLD:
        rows = rows.filter(pl.col("kind") == WORLD[domain])
    columns = ("id", "text", "question", "answer", "task", "result", "party", "year")
    return tuple(
        Text(id_, domain, text, question or "", answer or "", task or "", result or "", year, party or "")
        for id_, text, question, answer, task, result, party, year in rows.select(columns).iter_rows()
    )


def _part(domain: str) -> str:
    """The corpus's own name of what a domain is a part of."""
    return {PROSE: PROSE, CHATS: "chat"}.get(domain, "world")


def some(of: Sequence[Text], n: int, seed: int = 0) -> tuple[Text, ...]:
    """`n` of the documents at random, all if there are fewer."""
    order = np.random.default_rng(seed).permutation(len(of))[:n]
    return tuple(of[i] for i in np.sort(order))


def passages(of: Sequence[Text], n: int, seed: int = 0, length: int = PASSAGE) -> tuple[Text, ...]:
    """`n` passages of each document that do not overlap, each from the beginning of a word; all of a short one."""
    found = []
    rng = np.random.default_rng(seed)
    for each in of:
        places = rng.permutation(max(1, len(each.text) // (2 * length)))[:n] * 2 * length
        for place in sorted(places.tolist()):
            word = re.compile(r"(?<=\s)\S").search(each.text, place) if place else None
            start = word.start() if word else place
            found.append(each._replace(text=each.text[start : start + length]))
    return tuple(found)


def beginnings(of: Sequence[Text], length: int = BEGINNING) -> tuple[Text, ...]:
    """The first characters of each document."""
    return tuple(each._replace(text=each.text[:length]) for each in of)


@functools.lru_cache(maxsize=512)
def losses(checkpoint: Checkpoint, of: tuple[Text, ...]) -> Losses:
    """What a checkpoint loses on each text."""
    model, tokenizer = opened(checkpoint)
    documents = tokenised(tokenizer, of)
    bos = leading_id(tokenizer)
    ids = [np.concatenate([[bos], each.ids]) for each in documents]
    nats = model_nats(model, ids, min(checkpoint.n_ctx, MAX_WINDOW), bos_id=bos)
    scored = [part[each.answer :] for part, each in zip(nats, documents, strict=True)]
    sizes = [len((each.answer or each.text).encode()) for each in of]
    return Losses(
        np.array([part.sum() for part in scored]),
        np.array([float(len(part)) for part in scored]),
        np.array(sizes, float),
    )


def tokenised(tokenizer: PreTrainedTokenizerFast, of: Sequence[Text]) -> list[TokenDocument]:
    """The texts as tokens without BOS; a chat in the tokenizer's own form."""
    rows = [
        {"id": t.document, "domain": _part(t.domain), "text": t.text, "question": t.question,
         "answer": t.answer, "spans": []}
        for t in of
    ]  # fmt: skip
    names = ("id", "domain", "text", "question", "answer", "spans")
    return label_documents(tokenizer, pl.DataFrame(rows, schema={name: SCHEMA[name] for name in names}))


def by_document(of: Sequence[Text], found: Losses) -> Losses:
    """The sums of each document's passages, in the order in which documents first come."""
    names = {name: i for i, name in enumerate(dict.fromkeys(each.document for each in of))}
    at = [names[each.document] for each in of]
    return Losses(*(np.bincount(at, part, len(names)) for part in found))
