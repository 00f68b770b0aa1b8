"""Tasks that need no world: random ids that come again, and tokens of the corpus that the one before decides.

`induction` reads BOS s_1 … s_L s_1 … s_k: what stood behind s_k the first time comes again [Olsson 2022]. The
corrupt prompt has another s_(k+1) in the first copy, so that the repeat predicts that one.

`previous_token` is no such pure case. A previous-token head is a part of induction, and what it does alone is to
tell a place which token stands in front of it. So: triples A C → T and B C → F of the training text, T behind A C
in at least SURE of the cases, F behind B C. Both prompts end in C, and only the token in front of it differs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import polars as pl
from jaxtyping import Int

from workbench.circuits.asked import Asked, Material, Task, Use, half_of
from workbench.circuits.pairs import PairIds

COPY = 16  # random tokens before they come again
SURE, OFTEN = 0.8, 20  # share and number of a triple among the cases of its first two tokens
_CHARACTERS = 2_000_000  # of training text in which triples are counted
_BEFORE = 12  # tokens of held-out text in front of a triple


def _words(material: Material, use: Use) -> list[int]:
    """Ids of one half that are a whole word: rare pieces of bytes a small model has hardly met."""
    special = set(material.tokenizer.all_special_ids)
    texts = ((i, material.tokenizer.decode([i])) for i in range(len(material.tokenizer)) if i not in special)
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
    train, heldout = (_text_ids(material, split) for split in ("train", "heldout"))
    answers = _sure_answers(train)
    others: dict[int, list[tuple[int, int]]] = {}
    for (a, c), t in answers.items():
        if half_of(f"token {c}") == use:
            others.setdefault(c, []).append((a, t))
    first = material.ids("")
    places = list(range(_BEFORE, len(heldout) - 2))
    rng.shuffle(places)
    for at in places:
        a, c, t = heldout[at : at + 3].tolist()
        rivals = [(b, f) for b, f in others.get(c, ()) if f != t]
        if not rivals or answers.get((a, c)) != t:
            continue
        b, f = rng.choice(rivals)
        before = [*first, *heldout[at - _BEFORE : at].tolist()]
        yield PairIds([*before, a, c], [*before, b, c], t, f)


def _text_ids(material: Material, split: str) -> Int[np.ndarray, "token"]:
    """Tokens of a split's plain documents one after another, those of all kinds from its beginning on."""
    rows = pl.read_parquet(material.documents, columns=["split", "domain", "text"])
    rows = rows.filter((pl.col("split") == split) & (pl.col("domain") != "chat"))
    rows = rows.sample(fraction=1.0, shuffle=True, seed=0)
    read = rows.filter(pl.col("text").str.len_chars().cum_sum() <= _CHARACTERS)["text"].to_list()
    encodings = material.tokenizer.backend_tokenizer.encode_batch_fast(read, add_special_tokens=False)
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
    ),
    Task(
        "previous_token",
        "tell from the token before the last one what comes next; the corrupt prompt has another token there",
        _write_previous_token,
    ),
)
