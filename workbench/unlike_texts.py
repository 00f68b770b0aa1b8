"""What checkpoints with different tokenizers are asked to read: the same characters, whatever their tokens.

Held-out documents as plain text (a chat as its question and its answer, each on a line, without any model's
markers), cut after `CHARACTERS`. For activations they are cut into short `Segment`s, and read out where a word
ends and each tokenizer has a token that ends there too: the only places at which two tokenizers have read the
same text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerFast

from workbench.corpus import Corpus, documents_of
from workbench.encoding import read_text

DOMAINS = ("prose", "world", "chat")
CHARACTERS = 2_500  # of a document
BYTES = 30_000  # of a domain
SEGMENT = 256  # characters, so that a segment fits a context of 128 tokens
WORDS = 3_072  # at whose ends activations are compared, about
_WORD = re.compile(r"\w+")


class Text(NamedTuple):
    """A held-out document as plain text."""

    id: str
    domain: str
    text: str

    @property
    def n_bytes(self) -> int:
        return len(self.text.encode())


class Segment(NamedTuple):
    """A piece of document number `document`."""

    document: int
    text: str


class Ends(NamedTuple):
    """Where words end for one tokenizer in one segment: characters, and positions among the ids read."""

    characters: Int[np.ndarray, "word"]
    positions: Int[np.ndarray, "word"]


def heldout_texts(corpus: Corpus, seed: int = 0, n_bytes: int = BYTES) -> list[Text]:
    """Held-out documents of every domain in random order, about `n_bytes` of each."""
    found: list[Text] = []
    for domain in DOMAINS:
        rows = documents_of(corpus, "heldout", domain)
        rows = rows[np.random.default_rng(seed).permutation(rows.height)]
        left = n_bytes
        for row in rows.select("id", "text", "question", "answer").iter_rows(named=True):
            chat = domain == "chat" and row["question"]
            text = (f"{row['question']}\n{row['answer']}" if chat else row["text"])[:CHARACTERS]
            if text.strip() and left > 0:
                found.append(Text(row["id"], domain, text))
                left -= found[-1].n_bytes
    return found


def opening(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id before a text: BOS, else what ends the text before (as packed training text has it), else id 0.

    Without one the first token would be predicted from nothing, and its bytes not be counted."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
    return int(next(id_ for id_ in known if id_ is not None))


def encoded(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[np.ndarray]:
    """Ids of each text behind its `opening`; markers in a text are read as plain text."""
    first = opening(tokenizer)
    read = read_text(tokenizer, list(texts))["input_ids"]
    return [np.array([first, *ids], dtype=np.int64) for ids in read]


def segments_of(texts: Sequence[Text], words: int = WORDS, seed: int = 0) -> list[Segment]:
    """Pieces of at most `SEGMENT` characters that end with a word, at random, until they have `words` words."""
    pieces = [Segment(i, piece) for i, text in enumerate(texts) for piece in _pieces(text.text)]
    kept, n = [], 0
    for i in np.random.default_rng(seed).permutation(len(pieces)):
        if n >= words:
            break
        kept.append(pieces[i])
        n += max(0, len(_WORD.findall(pieces[i].text)) - 1)
    return sorted(kept, key=lambda piece: piece.document)


def _pieces(text: str) -> list[str]:
    """The text cut at blanks, each piece as long as `SEGMENT` allows."""
    found, at = [], 0
    while at < len(text):
        stop = len(text)
        if stop - at > SEGMENT:
            blank = max(text.rfind(blank, at + 1, at + SEGMENT) for blank in (" ", "\n"))
            stop = blank if blank > at else at + SEGMENT
        found.append(text[at:stop])
        at = stop
    return [piece for piece in found if _WORD.search(piece)]


def word_ends(
    tokenizer: PreTrainedTokenizerFast, segments: Sequence[Segment], n_ctx: int
) -> tuple[list[np.ndarray], list[Ends]]:
    """Ids of each segment, behind an opening and within the context, and where words end in it.

    The first word is left out: without a BOS the first token is where models put their attention when they have
    nothing else to look at, and its activations are like no other's."""
    ids: list[np.ndarray] = []
    ends: list[Ends] = []
    first = opening(tokenizer)
    read = read_text(tokenizer, [s.text for s in segments], offsets=True)
    for segment, own, offsets in zip(segments, read["input_ids"], read["offset_mapping"], strict=True):
        own, offsets = own[: n_ctx - 1], offsets[: n_ctx - 1]
        last = {stop: i + 1 for i, (start, stop) in enumerate(offsets) if stop > start}
        words = [m.end() for m in _WORD.finditer(segment.text)][1:]
        kept = [(end, last[end]) for end in words if end in last]
        pairs = np.array(kept, dtype=np.int64).reshape(-1, 2)
        ids.append(np.array([first, *own], dtype=np.int64))
        ends.append(Ends(pairs[:, 0], pairs[:, 1]))
    return ids, ends


def common(one: Sequence[Ends], other: Sequence[Ends]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of either checkpoint's words (all segments end to end) at which both have read the same characters,
    and the segment of each."""
    rows: list[tuple[int, int, int]] = []
    before_one = before_other = 0
    for number, (a, b) in enumerate(zip(one, other, strict=True)):
        _, i, j = np.intersect1d(a.characters, b.characters, assume_unique=True, return_indices=True)
        rows += [(before_one + x, before_other + y, number) for x, y in zip(i, j, strict=True)]
        before_one, before_other = before_one + len(a.characters), before_other + len(b.characters)
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]
