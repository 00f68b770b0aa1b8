"""A text as a model sees it: tokens, the bytes and characters of each, and the merges that made them.

Byte-level BPE [Sennrich 2016; Radford 2019] cuts a text into pieces (words with the blank before them, as a rule),
writes each as bytes, and joins neighbours by a list of merges: of all neighbours that the list holds, the pair that
stands first in it (of equal ones the leftmost), again and again until none is left. `replay` does so step by step
and ends where the `tokenizers` library ends.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.encoding import read_text
from workbench.errors import Misuse
from workbench.vocabulary import TokenText, byte_level_bytes, is_byte_level, shown, with_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from workbench.prompt import Prompt


MOST_LETTERS = 2_000  # of a piece that is replayed


class Merge(NamedTuple):
    """One step: `left` and `right` became one, by the merge that is number `rank` of the list (from 0). `start` and
    `stop` are its bytes' place in the piece, `parts` the whole piece after it."""

    rank: int
    left: bytes
    right: bytes
    start: int
    stop: int
    parts: tuple[bytes, ...]


class Replayed(NamedTuple):
    """A piece of text, merged: the tokens (in the vocabulary's own letters) and the steps. `at_once`: the piece
    stands in the vocabulary and was taken whole, as some tokenizers do before they merge. `too_long`: it was not
    merged here, since that takes time with the square of its length."""

    tokens: tuple[str, ...]
    merges: tuple[Merge, ...]
    at_once: bool = False
    too_long: bool = False


@dataclasses.dataclass(frozen=True)
class Merges:
    """The merges of a byte-level BPE, each with its number in the list."""

    ranks: Mapping[tuple[str, str], int]
    whole: frozenset[str] = frozenset()  # pieces that are taken without merging

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Merges | None:
        """None where the tokenizer is no byte-level BPE: `why_not` says what it is."""
        model = _model(tokenizer)
        if model["type"] != "BPE" or not is_byte_level(tokenizer):
            return None
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        whole = frozenset(model["vocab"]) if model.get("ignore_merges") else frozenset()
        return cls({(left, right): rank for rank, (left, right) in enumerate(pairs)}, whole)

    def replay(self, piece: str) -> Replayed:
        """The merges of one piece, written in the vocabulary's letters (one letter is one byte)."""
        if piece in self.whole:
            return Replayed((piece,), (), at_once=True)
        if len(piece) > MOST_LETTERS:
            return Replayed((), (), too_long=True)
        parts, merges = list(piece), list[Merge]()
        while True:
            known = [
                (rank, at)
                for at in range(len(parts) - 1)
                if (rank := self.ranks.get((parts[at], parts[at + 1]))) is not None
            ]
            if not known:
                return Replayed(tuple(parts), tuple(merges))
            rank, at = min(known)
            left, right = parts[at : at + 2]
            parts[at : at + 2] = [left + right]
            start = sum(map(len, parts[:at]))
            written = tuple(map(byte_level_bytes, parts))
            merges.append(
                Merge(
                    rank,
                    byte_level_bytes(left),
                    byte_level_bytes(right),
                    start,
                    start + len(parts[at]),
                    written,
                )
            )


def why_not(tokenizer: PreTrainedTokenizerFast) -> str:
    """The sentence for a tokenizer that has no merges to replay."""
    kind = _model(tokenizer)["type"]
    if kind == "BPE":
        return (
            "This tokenizer is a BPE of characters (SentencePiece), not of bytes: its merges are not replayed "
            "here. Tokens and ids are exact all the same; to the bytes it may add a blank before the text."
        )
    how = {
        "Unigram": "it chooses, of all ways to cut a text, the one whose tokens are likeliest",
        "WordPiece": "it takes the longest token of its list that fits, from the left",
        "WordLevel": "it knows whole words only",
    }.get(kind, "it does not join pairs")
    return f"This tokenizer is {kind} and has no merges: {how}."


class Origin(NamedTuple):
    """How one token of a prompt came about: its piece of the text, all that was merged in it, and the steps that
    made the token. `exact`: the replay ends in the tokens that were read (a cut text may begin inside a piece)."""

    piece: tuple[TokenText, ...]
    replayed: Replayed
    own: tuple[Merge, ...]
    exact: bool


def origin(tokenizer: PreTrainedTokenizerFast, merges: Merges, prompt: Prompt, position: int) -> Origin | None:
    """How the token at `position` was merged; None for one that is no part of a text (BOS, chat markers)."""
    if prompt.words[position] < 0 or prompt.ids[position] in tokenizer.added_tokens_decoder:
        return None
    here = [i for i, word in enumerate(prompt.words) if word == prompt.words[position]]
    named = [str(tokenizer.backend_tokenizer.id_to_token(prompt.ids[i])) for i in here]
    replayed = merges.replay("".join(named))
    start = sum(len(name) for i, name in zip(here, named, strict=True) if i < position)
    stop = start + len(named[here.index(position)])
    own = tuple(m for m in replayed.merges if start <= m.start and m.stop <= stop)
    piece = tuple(prompt.tokens[i] for i in here)
    return Origin(piece, replayed, own, replayed.tokens == tuple(named))


class Piece(NamedTuple):
    """One token with what it covers: `characters` are those of which it holds at least a byte; `whole` where it
    holds all bytes of each."""

    token: TokenText
    characters: str
    whole: bool

    @property
    def hexadecimal(self) -> str:
        return self.token.data.hex(" ").upper()


def pieces(tokens: Sequence[TokenText]) -> list[Piece]:
    """Tokens with the characters they cover: a character may be spread over several. Special tokens cover none."""
    found: list[Piece] = []
    run: list[TokenText] = []
    for token in tokens:
        if token.special:
            found += [*_run_pieces(run), Piece(token, "", True)]
            run = []
        else:
            run.append(token)
    return found + _run_pieces(run)


def _run_pieces(run: Sequence[TokenText]) -> list[Piece]:
    """Of tokens that follow one another with no special one between."""
    characters = spans(b"".join(token.data for token in run))
    made, start, at = [], 0, 0
    for token in run:
        stop = start + len(token.data)
        while at < len(characters) and characters[at].stop <= start:
            at += 1
        covered = []
        for span in characters[at:]:
            if span.start >= stop:
                break
            covered.append(span)
        whole = all(start <= span.start and span.stop <= stop for span in covered)
        text = "".join(shown(span.character.encode("utf-8", "surrogateescape")) for span in covered)
        made.append(Piece(token, text, whole))
        start = stop
    return made


class Span(NamedTuple):
    """A character and the place of its bytes; a byte that is no part of one is a character by itself."""

    character: str
    start: int
    stop: int


def spans(data: bytes) -> list[Span]:
    """The characters of UTF-8 bytes, broken ones too."""
    found, start = [], 0
    for character in data.decode("utf-8", "surrogateescape"):
        stop = start + len(character.encode("utf-8", "surrogateescape"))
        found.append(Span(character, start, stop))
        start = stop
    return found


class Held(NamedTuple):
    """A token of a word: how many of the letter lie wholly in it, and of how many it holds some of the bytes."""

    token: TokenText
    n_whole: int
    n_parts: int


class Counted(NamedTuple):
    """How often a letter stands in a word, and in which of its tokens."""

    word: str
    letter: str
    n: int
    held: tuple[Held, ...]


def letters(tokenizer: PreTrainedTokenizerFast, question: str, word: str, letter: str) -> Counted:
    """How `letter` (capitals ignored) falls on the tokens that `word` is in `question`, counted by bytes."""
    from workbench.vocabulary import Vocabulary

    question, word, letter = (with_bytes(text) for text in (question, word, letter))
    if len(letter) != 1 or letter.isspace():
        raise Misuse(f"one letter is looked for, found {letter!r}: type a single character")
    if not word.strip() or word not in question:
        raise Misuse(f"the word {word!r} does not stand in {question!r}: type a word")
    start = question.rindex(word)
    read = read_text(tokenizer, question, offsets=True)
    vocabulary = Vocabulary(tokenizer)
    tokens = [
        vocabulary[id_]
        for id_, (low, high) in zip(read["input_ids"], read["offset_mapping"], strict=True)
        if low < start + len(word) and high > start
    ]
    there = [span for span in spans(b"".join(t.data for t in tokens)) if _same(span.character, letter)]
    held, low = [], 0
    for token in tokens:
        high = low + len(token.data)
        whole = sum(low <= span.start and span.stop <= high for span in there)
        touched = sum(span.start < high and span.stop > low for span in there)
        held.append(Held(token, whole, touched - whole))
        low = high
    return Counted(word, letter, sum(_same(character, letter) for character in word), tuple(held))


def _same(character: str, letter: str) -> bool:
    return character.casefold() == letter.casefold()


def _model(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]
