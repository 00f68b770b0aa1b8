"""Analogies in an embedding: a − b + c, one at a time and a whole set of them, with what would be there anyway.

"Paris is to France as … is to Italy": of unit rows, q = w_a − w_b + w_c; tokens are ranked by cosine with q
(3CosAdd) [Mikolov 2013; Levy & Goldberg 2014]. Two warnings come with it [Linzen 2016, arXiv 1606.07736]. The
inputs are left out of the ranking by custom; with them in, the answer is mostly c itself. And the expected
answer is often the nearest neighbour of c anyway. So every score is given with inputs left out and left in,
for c alone, and for the same questions with the answers shuffled (another answer of the same relation stands
for the right one).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from workbench.embedding import Space, unit
from workbench.errors import Misuse
from workbench.intervals import Interval, ratio_interval

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SOURCES = 8  # pairs that each question is asked from
MOST_PAIRS = 60  # of a relation
_CHUNK = 128  # questions at a time: [question, vocab] cosines are held

EXCLUDED, INCLUDED, C_ALONE, SHUFFLED = MEASURES = (
    "inputs left out", "inputs left in", "c alone", "answers shuffled",
)  # fmt: skip


class Analogy(NamedTuple):
    """One analogy. Ranks count from 1; `best` are the tokens nearest to a − b + c with their cosines, inputs in."""

    rank_excluded: int
    rank_included: int
    rank_of_c_alone: int  # the answer's rank among the neighbours of c, c left out
    cosine: float
    best: Int[np.ndarray, "token"]
    cosines: Float[np.ndarray, "token"]


class Score(NamedTuple):
    """Share of questions whose answer is ranked first, and the mean of 1 / rank, each with a 95 % interval by
    bootstrap over the pairs that are asked for (`n_pairs`)."""

    first: float
    first_interval: Interval
    reciprocal: float
    reciprocal_interval: Interval
    n: int
    n_pairs: int


@dataclasses.dataclass(frozen=True)
class Relation:
    """Pairs (x, y) of token ids in one relation: y is to x as y' to x'."""

    name: str
    pairs: tuple[tuple[int, int], ...]


def analogy(space: Space, a: int, b: int, c: int, expected: int, top: int = 10) -> Analogy:
    """Where `expected` stands for a − b + c."""
    for name, id_ in (("a", a), ("b", b), ("c", c), ("the expected answer", expected)):
        if not 0 <= id_ < space.n:
            raise Misuse(f"{name} is token {id_}; {space.name} has tokens 0 to {space.n - 1}")
    rows = space.unit()
    cosines = rows @ unit(rows[a] - rows[b] + rows[c])
    alone = rows @ rows[c]
    inputs, only = np.array([[a, b, c]]), np.array([[c, c, c]])
    answer = np.array([expected])
    best = np.argsort(-cosines, kind="stable")[:top]
    return Analogy(
        rank_excluded=int(_ranks(cosines[None], answer, inputs)[0]),
        rank_included=int(_ranks(cosines[None], answer, None)[0]),
        rank_of_c_alone=int(_ranks(alone[None], answer, only)[0]),
        cosine=float(cosines[expected]),
        best=best,
        cosines=cosines[best],
    )


def _ranks(
    cosines: Float[np.ndarray, "question token"],
    answers: Int[np.ndarray, "question"],
    inputs: Int[np.ndarray, "question three"] | None,
) -> Int[np.ndarray, "question"]:
    """1 + how many tokens are nearer than the answer; of those that are inputs none counts, where given."""
    rows = np.arange(len(answers))
    own = cosines[rows, answers]
    nearer: Bool[np.ndarray, "question token"] = cosines > own[:, None]
    if inputs is not None:
        nearer[rows[:, None], inputs] = False
    return 1 + nearer.sum(axis=1)


def scores(space: Space, relation: Relation, seed: int = 0) -> dict[str, Score]:
    """The set of analogies of a relation, by measure. For each pair (x', y') up to `SOURCES` other pairs (x, y) are
    drawn, and y − x + x' is asked for y'."""
    rng = np.random.default_rng(seed)
    pairs = np.array(relation.pairs)
    if len(pairs) > MOST_PAIRS:
        pairs = pairs[np.sort(rng.permutation(len(pairs))[:MOST_PAIRS])]
    n = len(pairs)
    if n < 3:
        raise Misuse(f"the relation {relation.name!r} has {n} pairs of single tokens: at least 3 are needed")
    sources = [rng.permutation([j for j in range(n) if j != i])[:SOURCES] for i in range(n)]
    of = np.repeat(np.arange(n), [len(each) for each in sources])
    source = np.concatenate(sources)
    # another pair's answer, never the pair's own: a cycle through a random order
    order = rng.permutation(n)
    swapped = np.empty(n, dtype=int)
    swapped[order] = np.roll(order, 1)
    a, b, c = pairs[source, 1], pairs[source, 0], pairs[of, 0]
    ranks = _set_ranks(space, a, b, c, pairs[of, 1], pairs[swapped[of], 1])
    return {measure: _score(found, of, n) for measure, found in ranks.items()}


def _set_ranks(
    space: Space,
    a: Int[np.ndarray, "question"],
    b: Int[np.ndarray, "question"],
    c: Int[np.ndarray, "question"],
    answers: Int[np.ndarray, "question"],
    shuffled: Int[np.ndarray, "question"],
) -> dict[str, Int[np.ndarray, "question"]]:
    rows = space.unit()
    parts: dict[str, list[np.ndarray]] = {measure: [] for measure in MEASURES}
    for at in range(0, len(a), _CHUNK):
        i = slice(at, at + _CHUNK)
        cosines = unit(rows[a[i]] - rows[b[i]] + rows[c[i]]) @ rows.T
        inputs = np.stack([a[i], b[i], c[i]], axis=1)
        parts[EXCLUDED].append(_ranks(cosines, answers[i], inputs))
        parts[INCLUDED].append(_ranks(cosines, answers[i], None))
        parts[C_ALONE].append(_ranks(rows[c[i]] @ rows.T, answers[i], inputs[:, 2:]))
        parts[SHUFFLED].append(_ranks(cosines, shuffled[i], inputs))
    return {measure: np.concatenate(found) for measure, found in parts.items()}


def _score(ranks: Int[np.ndarray, "question"], of: Int[np.ndarray, "question"], n_pairs: int) -> Score:
    asked = np.bincount(of, minlength=n_pairs).astype(float)
    first = np.bincount(of, weights=ranks == 1, minlength=n_pairs)
    reciprocal = np.bincount(of, weights=1 / ranks, minlength=n_pairs)
    return Score(
        float(first.sum() / asked.sum()),
        ratio_interval(first, asked),
        float(reciprocal.sum() / asked.sum()),
        ratio_interval(reciprocal, asked),
        len(ranks),
        n_pairs,
    )


def relations(
    tokenizer: PreTrainedTokenizerFast, known: Mapping[str, Sequence[tuple[str, str]]]
) -> list[Relation]:
    """Relations between single tokens: those that spelling gives in any vocabulary (capital, plural, past, blank,
    next digit), and those that are `known` (a lab's countries and capitals). Those of fewer than 3 pairs are left
    out. Words are those with a blank before them, of four letters or more."""
    texts = _single_words(tokenizer)
    spelt: dict[str, list[tuple[str, str]]] = {
        "word → with a capital": [(t, " " + t[1:].capitalize()) for t in texts if t[1].islower()],
        "word → plural": [(t, t + "s") for t in texts if t[1].islower() and not t.endswith("s")],
        "word → past": [(t, t + "ed") for t in texts if t[1].islower()],
        "word → without its blank": [(t, t[1:]) for t in texts],
        "digit → next digit": [(str(d), str(d + 1)) for d in range(9)],
    }
    given = {name: [(_led(x), _led(y)) for x, y in pairs] for name, pairs in known.items()}
    made = []
    for name, pairs in (spelt | given).items():
        ids = [(_single(tokenizer, x, texts), _single(tokenizer, y, texts)) for x, y in pairs]
        kept = tuple(dict.fromkeys((x, y) for x, y in ids if x is not None and y is not None and x != y))
        if len(kept) >= 3:
            made.append(Relation(name, kept))
    return made


def _led(text: str) -> str:
    return " " + text


def _single_words(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Words that are one token with the blank before them, and the same without: text → id."""
    from workbench.vocabulary import Vocabulary

    vocabulary, words = Vocabulary(tokenizer), {}
    for id_ in range(len(tokenizer)):
        token = vocabulary[id_]
        text = token.data.decode("utf-8", "replace")
        if (
            not token.special
            and text.startswith(" ")
            and len(text) > 4
            and text[1:].isascii()
            and text[1:].isalpha()
        ):
            words[text] = id_
    return words


def _single(tokenizer: PreTrainedTokenizerFast, text: str, words: Mapping[str, int]) -> int | None:
    """The id of a text that is one token; None where it is several."""
    if (id_ := words.get(text)) is not None:
        return id_
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return int(ids[0]) if len(ids) == 1 else None
