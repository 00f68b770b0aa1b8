"""Byte-level BPE: every byte string is representable, every digit is a token, chat markers are tokens."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from workbench.corpus import read_corpus
from workbench.encoding import reading
from workbench.errors import Failure
from workbench.grow import Build
from workbench.tasks import ASSISTANT, END, USER

PAD, BOS = "<|pad|>", "<|bos|>"
SPECIAL = (PAD, BOS, USER, ASSISTANT, END)  # ids 0 to 4

# How often the world's documents count beside the prose, which is two to three times as long: most names of places
# become whole tokens, as names are in vocabularies of a larger scale.
WORLD_WEIGHT = 2

# Words take the blank before them; digits stand alone; a line break ends a token.
_PIECES = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s"

# A system message has no marker of its own in the lab's chats: it is set before the first question.
CHAT_TEMPLATE = (
    "{{- bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' }}{% generation %}"
    "{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<|user|>' + message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class Encoded(NamedTuple):
    """Token ids of a document, BOS first, and the characters each covers (BOS covers none)."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of `vocab_size` ids trained on `texts`; the special tokens come first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def weighted_texts(rows: pl.DataFrame) -> Iterator[str]:
    """All texts, those of the world `WORLD_WEIGHT` times."""
    world = rows.filter(pl.col("domain") == "world")["text"]
    return itertools.chain(rows["text"], *[world] * (WORLD_WEIGHT - 1))


def as_pretrained(tokenizer: Tokenizer, n_ctx: int) -> PreTrainedTokenizerFast:
    """The tokenizer as `transformers` knows it, with the chat template."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=n_ctx,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def load(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder."""
    return PreTrainedTokenizerFast.from_pretrained(path)


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], chat: bool) -> list[Encoded]:
    """Ids and character offsets of each text, BOS first.

    With `chat`, markers such as `<|user|>` become their tokens; without, they are plain text like any
    other, so a corpus cannot smuggle them in.
    """
    with reading(tokenizer, markers=chat) as backend:
        encodings = backend.encode_batch(list(texts), add_special_tokens=False)
    bos = tokenizer.bos_token_id
    return [Encoded([bos, *e.ids], [(0, 0), *e.offsets]) for e in encodings]


def encode_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[np.ndarray]:
    """Ids alone of plain texts, BOS first, `Int32[token]` each: half the time of `encode`."""
    with reading(tokenizer, markers=False) as backend:
        encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.asarray([tokenizer.bos_token_id, *e.ids], dtype=np.int32) for e in encodings]


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `tokenizer/bpe`: trained on the train split, saved as `transformers` saves it."""
    corpus = read_corpus(build.parents["corpus/text"])
    rows = corpus.documents.filter(pl.col("split") == "train")
    texts = rows["text"]
    build.progress.start(2, "parts")
    size = build.config["vocab_size"]
    trained = train(weighted_texts(rows), size)
    if trained.get_vocab_size() != size:
        raise Failure(
            f"the corpus yields only {trained.get_vocab_size()} different tokens, the recipe asks for {size}: "
            "lower tokenizer.vocab_size or give more text"
        )
    build.progress.advance()
    tokenizer = as_pretrained(trained, build.plan.recipe.model.n_ctx)
    tokenizer.save_pretrained(build.draft.path)
    sample = "".join(text[:5_000] for text in texts.head(200))
    n_tokens = len(trained.encode(sample).ids)
    build.progress.advance()
    return {"vocab_size": size, "bytes_per_token": len(sample.encode()) / n_tokens}
