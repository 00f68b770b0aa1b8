"""Tasks that need no world: random words that come again, brackets among them, tokens that the one before decides.

`induction` reads BOS s_1 … s_L s_1 … s_k: what stood behind s_k the first time comes again [Olsson 2022]. The
corrupt prompt has another s_(k+1) in the first copy, so that the repeat predicts that one.

`previous_token` is no such pure case. A previous-token head is a part of induction, and what it does alone is to
tell a place which token stands in front of it; no text asks for that by itself. So: triples A C → T and B C → F of
the training text, T behind A C in at least SURE of the cases, F behind B C. Both prompts end in C, and only the
token in front of it differs. It takes a head that looks one token back, and knowing what the two make together.

`brackets` reads random words in which a bracket was opened and is due to be closed, `w ( w [ w ] w`: `)`. The
corrupt prompt has the two kinds of brackets in each other's places, so it asks for the other one. In half of the
pairs one of the other kind was opened and closed inside: the last bracket opened is then not the one to be closed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import polars as pl
from jaxtyping import Int

from workbench.circuits.asked import Material, Task, Use, half_of
from workbench.circuits.pairs import PairIds
from workbench.encoding import reading

COPY = 16  # random tokens before they come again
MOST_BETWEEN = 4  # words before a bracket, between two, and behind the last
SURE, OFTEN = 0.8, 10  # share and number of a triple among the cases of its first two tokens
_CHARACTERS = 700_000  # of training text in which triples are counted
_BEFORE = 4  # tokens of text from elsewhere in front of a triple, the same in both prompts


def _words(material: Material, use: Use) -> list[int]:
    """Ids of one half that are a whole word: rare pieces of bytes a small model has hardly met."""
    special = set(material.tokenizer.all_special_ids)
    texts = (
        (i, str(material.tokenizer.decode([i]))) for i in range(len(material.tokenizer)) if i not in special
    )
    return [i for i, text in texts if len(word := text.strip()) > 2 and word.isalpha() and half_of(word) == use]


def _write_induction(material: Material, rng: random.Random, use: Use) -> Iterator[PairIds]:
    words = _words(material, use)
    first = material.ids("")
    length = min(COPY, (material.n_ctx - len(first)) // 2, len(words) - 1)
    while length > 2:
        *copy, foil = rng.sample(words, length + 1)
        k = rng.randrange(length // 2, length)
        changed = [*copy[:k], foil, *copy[k + 1 :]]
        yield PairIds([*first, *copy, *copy[:k]], [*first, *changed, *copy[:k]], copy[k], foil)


def _write_previous_token(material: Material, rng: random.Random, use: Use) -> Iterator[PairIds]:
    ids = _text_ids(material)
    sure: dict[int, list[tuple[int, int]]] = {}
    for (a, c), t in _sure_answers(ids).items():
        if half_of(f"token {c}") == use:
            sure.setdefault(c, []).append((a, t))
    undecided = [c for c, known in sure.items() if len({t for _, t in known}) > 1]
    first = material.ids("")
    while undecided:
        c = rng.choice(undecided)
        (a, t), (b, f) = rng.sample(sure[c], 2)
        if t != f:
            at = rng.randrange(len(ids) - _BEFORE)
            before = [*first, *ids[at : at + _BEFORE].tolist()]
            yield PairIds([*before, a, c], [*before, b, c], t, f)


def _write_brackets(material: Material, rng: random.Random, use: Use) -> Iterator[PairIds]:
    words, first = _words(material, use), material.ids("")
    marks = [material.ids(mark)[len(first) :] for mark in "()[]"]
    single = all(len(ids) == 1 for ids in marks)  # else this tokenizer has no such task
    while single and len(words) >= 4 * MOST_BETWEEN:
        drawn = iter(rng.sample(words, 4 * MOST_BETWEEN))
        between = [[next(drawn) for _ in range(rng.randint(1, MOST_BETWEEN))] for _ in range(4)]
        (a,), (b,), (c,), (d,) = marks
        nested = rng.random() < 0.5
        clean, corrupt = (
            [*first, *between[0], open_, *between[1], *([*inner, *between[3]] if nested else [])]
            for open_, inner in ((a, [c, *between[2], d]), (c, [a, *between[2], b]))
        )
        if len(clean) <= material.n_ctx:
            pair = [(clean, b), (corrupt, d)]
            (clean, target), (corrupt, foil) = rng.sample(pair, 2)
            yield PairIds(clean, corrupt, target, foil)


def _text_ids(material: Material) -> Int[np.ndarray, "token"]:
    """Tokens of plain training documents one after another, drawn from all kinds."""
    rows = pl.read_parquet(material.documents, columns=["split", "domain", "text"])
    rows = rows.filter((pl.col("split") == "train") & (pl.col("domain") != "chat"))
    rows = rows.sample(fraction=1.0, shuffle=True, seed=0)
    read = rows.filter(pl.col("text").str.len_chars().cum_sum() <= _CHARACTERS)["text"].to_list()
    with reading(material.tokenizer, markers=True) as backend:
        encodings = backend.encode_batch_fast(read, add_special_tokens=False)
    return np.concatenate([np.asarray(e.ids, dtype=np.int64) for e in encodings] or [np.zeros(0, np.int64)])


def _sure_answers(ids: Int[np.ndarray, "token"]) -> dict[tuple[int, int], int]:
    """For pairs of tokens, the third that nearly always follows."""
    table = pl.DataFrame({"a": ids[:-2], "c": ids[1:-1], "t": ids[2:]})
    counted = table.group_by("a", "c", "t").len().with_columns(of=pl.col("len").sum().over("a", "c"))
    sure = counted.filter((pl.col("len") >= OFTEN) & (pl.col("len") >= SURE * pl.col("of")))
    return {(a, c): t for a, c, t in sure.sort("a", "c").select("a", "c", "t").iter_rows()}


TEXT_TASKS = (
    Task(
        "induction",
        "go on with random tokens that come a second time; the corrupt prompt had another token at this place "
        "the first time",
        _write_induction,
        about=("copies",),
    ),
    Task(
        "previous_token",
        "tell from the token before the last one what comes next; the corrupt prompt has another token there",
        _write_previous_token,
        about=("triples",),
    ),
    Task(
        "brackets",
        "close the bracket that was opened, ) or ], among random words; the corrupt prompt has the two kinds in "
        "each other's places",
        _write_brackets,
        about=("brackets",),
    ),
)
