"""What a task is, what it is written from, and whether a pair of texts is what the models really saw.

A task writes candidates one after another, from a seed and mostly without end. One is kept if both prompts are
equally long and the answers are what the tokenizer makes of prompt and answer together: `It is ` and `68` are read
as the training's `It is 68` was. The others are passed over, since a tokenizer splits some names and not others.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import polars as pl

from workbench.circuits.pairs import PairIds
from workbench.corpus import frequent_words
from workbench.encoding import reading
from workbench.errors import Misuse
from workbench.lexicon import World, make_world
from workbench.stage_config import CorpusConfig
from workbench.tasks import Question, all_questions, choose, use_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from workbench.lab import Lab

Use = Literal["search", "judge"]
LEAST = 8  # pairs of a half; fewer say nothing of a checkpoint
_SHARES = {"search": 0.5, "judge": 0.5}


class Asked(NamedTuple):
    """Two prompts, and the texts that go on behind each; the answers are the first tokens of these."""

    clean: str
    corrupt: str
    answer: str
    other: str


@dataclasses.dataclass(frozen=True)
class Material:
    """What tasks are written from: a lab's corpus and world, and the tokenizer of the models that are asked."""

    lab: Lab
    tokenizer: PreTrainedTokenizerFast
    n_ctx: int

    @property
    def documents(self) -> Path:
        return self.lab.find("corpus", "text").path / "documents.parquet"

    @property
    def world(self) -> World:
        """The lab's world. `Misuse` where the lab's text has none."""
        return self._asked[0]

    @property
    def questions(self) -> list[Question]:
        """The world's questions that no training saw."""
        return self._asked[1]

    @property
    def _asked(self) -> tuple[World, list[Question]]:
        config = CorpusConfig(**self.lab.find("corpus", "text").config)
        if config.world_characters <= 0:
            raise Misuse(
                f"lab {self.lab.name!r} has no generated world (world_characters is 0 in its recipe), and this "
                "task is written from it: take induction or previous_token, or a jsonl file of your own"
            )
        return _world(self.documents, config)

    def ids(self, text: str) -> list[int]:
        """Ids of a text, BOS first as in training."""
        bos = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        with reading(self.tokenizer, markers=True) as backend:
            return bos + backend.encode(text, add_special_tokens=False).ids


# None is an attempt that came to nothing: they are counted, so that a task that cannot be made comes to an end.
Write = Callable[[Material, random.Random, Use], Iterator[Asked | PairIds | None]]


@dataclasses.dataclass(frozen=True)
class Task:
    """`question`: what the model has to do, and what differs in the corrupt prompt; `about`: what of the world its
    prompts ask about, by which another task is told from the same one in other words."""

    name: str
    question: str
    write: Write
    wording: Literal["plain", "chat"] = "plain"
    about: tuple[str, ...] = ()


def half_of(key: str) -> Use:
    """Whether what is asked is for finding a circuit or for judging it, by a hash: the same on every machine."""
    return "search" if use_of(f"circuit {key}", _SHARES) == "search" else "judge"


def fitted(asked: Asked, material: Material) -> PairIds | None:
    """The pair as ids; None where it is no fair comparison for this tokenizer."""
    clean, corrupt = material.ids(asked.clean), material.ids(asked.corrupt)
    if len(clean) != len(corrupt) or clean == corrupt or len(clean) > material.n_ctx:
        return None
    target = _behind(clean, material.ids(asked.clean + asked.answer))
    foil = _behind(corrupt, material.ids(asked.corrupt + asked.other))
    if target is None or foil is None or target == foil:
        return None
    return PairIds(clean, corrupt, target, foil)


def _behind(prompt: list[int], whole: list[int]) -> int | None:
    """The token behind a prompt; None where prompt and answer together are read as other tokens."""
    return whole[len(prompt)] if whole[: len(prompt)] == prompt and len(whole) > len(prompt) else None


@functools.lru_cache(maxsize=4)
def _world(documents: Path, config: CorpusConfig) -> tuple[World, list[Question]]:
    """The world that the corpus was written from: its words are the frequent ones of the training prose."""
    rows = pl.read_parquet(documents, columns=["split", "domain", "text"])
    words = frequent_words(rows.filter(pl.col("domain") == "prose").to_dicts(), config.n_words)
    world = make_world(config.n_countries, words, config.seed)
    return world, choose(all_questions(world), "heldout")
