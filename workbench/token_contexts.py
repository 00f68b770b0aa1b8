"""The same word in several contexts: where its token stands in each, layer by layer, and how far apart.

A token enters at one place, its row of W_E, whatever stands around it; every block moves it by what it has read.

    s_l = cosine of resid_post_l at the word's last token in two contexts

s at row 0 is 1 where a family adds no positions (and words are cut alike). What a cosine means depends
on the layer, since streams share directions [Ethayarajh 2019, arXiv 1909.00512]: beside it stand random
pairs of *other* tokens of the lab's text, and pairs of the *same* word found there.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from workbench.embedding import unit
from workbench.encoding import read_text
from workbench.errors import Misuse
from workbench.generation import right_padded
from workbench.lens import recorded_stream
from workbench.prompt import begins_with_bos
from workbench.vocabulary import TokenText, Vocabulary, with_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

EXCERPT = 240  # characters of a text before (and with) the token that is read
N_EXCERPTS = 48  # texts that a baseline reads
_BATCH = 16  # texts at a time
Places = Float[np.ndarray, "context row d"]


class Curve(NamedTuple):
    """Mean cosine by row (0: the embedding) of `n` pairs, with a 95 % interval over pairs (NaN for one pair)."""

    mean: Float[np.ndarray, "row"]
    low: Float[np.ndarray, "row"]
    high: Float[np.ndarray, "row"]
    n: int


@dataclasses.dataclass(frozen=True)
class Contexts:
    """The word's last token in each context (several words of more than one token stand at their last)."""

    word: str
    texts: tuple[str, ...]
    tokens: tuple[tuple[TokenText, ...], ...]
    at: tuple[int, ...]
    places: Places

    def pairs(self) -> list[tuple[int, int]]:
        return list(itertools.combinations(range(len(self.texts)), 2))

    def cosines(self) -> Float[np.ndarray, "pair row"]:
        """Of every pair of contexts, in the order of `pairs`."""
        return cosines(self.places[[i for i, _ in self.pairs()]], self.places[[j for _, j in self.pairs()]])


def cosines(first: Places, second: Places) -> Float[np.ndarray, "context row"]:
    """Cosine of streams, pair by pair and row by row."""
    return (unit(first) * unit(second)).sum(axis=-1)


def read_contexts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n_ctx: int, word: str, texts: Sequence[str]
) -> Contexts:
    """The word in each text (its first place there), read by the model; texts without it are refused by name."""
    word = word.strip()
    if not word:
        raise Misuse("no word is named: type one that stands in each sentence")
    if len(texts) < 2:
        raise Misuse(f"{len(texts)} sentence is given: type at least two, one a line")
    found = [_place(text, word) for text in texts]
    if missing := [text for text, place in zip(texts, found, strict=True) if place is None]:
        raise Misuse(f"the word {word!r} does not stand in {missing[0]!r}: every sentence needs it")
    vocabulary = Vocabulary(tokenizer)
    read = _read(model, tokenizer, n_ctx, texts, [int(end or 0) for end in found])
    return Contexts(
        word,
        tuple(texts),
        tuple(tuple(vocabulary[id_] for id_ in one.ids) for one in read),
        tuple(one.at for one in read),
        np.stack([one.resid[:, one.at] for one in read]),
    )


def same_word(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n_ctx: int, word: str, texts: Sequence[str]
) -> Curve | None:
    """The baseline of one word: pairs of its places in other texts, each place in one pair; None below 4 places."""
    word, excerpts = word.strip(), []
    for text in texts:
        if (end := _place(text, word)) is not None:
            excerpts.append(text[max(0, end - EXCERPT) : end])
        if len(excerpts) == N_EXCERPTS:
            break
    if len(excerpts) < 4:
        return None
    read = _read(model, tokenizer, n_ctx, excerpts, [len(excerpt) for excerpt in excerpts])
    return _paired(np.stack([one.resid[:, one.at] for one in read]))


def random_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    n_ctx: int,
    texts: Sequence[str],
    seed: int = 0,
    n: int = 200,
) -> Curve | None:
    """The baseline of all: `n` pairs of different tokens at random places of different texts; None for no texts."""
    rng = np.random.default_rng(seed)
    excerpts = [text[:EXCERPT] for text in texts[:N_EXCERPTS] if text]
    read = _read(model, tokenizer, n_ctx, excerpts, [EXCERPT] * len(excerpts))
    read = [one for one in read if len(one.ids) > 1]
    if len(read) < 2:
        return None
    first, second = list[np.ndarray](), list[np.ndarray]()
    for _ in range(50 * n):
        if len(first) == n:
            break
        i, j = rng.permutation(len(read))[:2]
        at, other = rng.integers(1, len(read[i].ids)), rng.integers(1, len(read[j].ids))
        if read[i].ids[at] != read[j].ids[other]:
            first.append(read[i].resid[:, at])
            second.append(read[j].resid[:, other])
    return curve(cosines(np.stack(first), np.stack(second))) if first else None


def curve(found: Float[np.ndarray, "pair row"]) -> Curve:
    """Mean of independent pairs; interval: mean ± t · standard error."""
    from scipy.stats import t

    n = len(found)
    mean = found.mean(axis=0)
    if n < 2:
        nothing = np.full_like(mean, np.nan)
        return Curve(mean, nothing, nothing, n)
    half = t.ppf(0.975, n - 1) * found.std(axis=0, ddof=1) / np.sqrt(n)
    return Curve(mean, mean - half, mean + half, n)


def _paired(places: Places) -> Curve:
    """Each place in one pair with the next: pairs without a place in common are independent."""
    n = len(places) // 2
    return curve(cosines(places[:n], places[n : 2 * n]))


def _place(text: str, word: str) -> int | None:
    """Where the word ends in the text, for the first time that it stands there as a word; else anywhere."""
    match = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) or re.search(
        re.escape(word), text, re.IGNORECASE
    )
    return match.end() if match else None


class _Read(NamedTuple):
    ids: list[int]
    at: int  # the last token that begins before the end that was asked for
    resid: Float[np.ndarray, "row position d"]


def _read(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    n_ctx: int,
    texts: Sequence[str],
    ends: Sequence[int],
) -> list[_Read]:
    """Each text up to its end through the model, cut on the left where it is too long for the context. What comes
    behind cannot change what is read before, so texts are padded on the right."""
    bos = [tokenizer.bos_token_id] if begins_with_bos(tokenizer) else []
    rows = [_ids(tokenizer, text, end, n_ctx - len(bos)) for text, end in zip(texts, ends, strict=True)]
    found = []
    for at in range(0, len(rows), _BATCH):
        batch = [[*bos, *ids] for ids in rows[at : at + _BATCH]]
        with torch.inference_mode(), recorded_stream(model) as resid:
            model(right_padded(batch, 0).to(model.device), use_cache=False)
        streams = torch.stack(resid, dim=1).float().cpu().numpy()  # [text, row, position, d]
        found += [
            _Read(ids, len(ids) - 1, stream[:, : len(ids)]) for ids, stream in zip(batch, streams, strict=True)
        ]
    return found


def _ids(tokenizer: PreTrainedTokenizerFast, text: str, end: int, room: int) -> list[int]:
    read = read_text(tokenizer, with_bytes(text), offsets=True)
    behind = sum(start < end for start, _ in read["offset_mapping"])
    return list(read["input_ids"][max(0, behind - room) : behind])
