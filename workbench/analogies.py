"""Analogies in an embedding: a − b + c, one at a time and a whole set of them, with what would be there anyway.

"Paris is to France as … is to Italy": of unit rows, q = w_a − w_b + w_c; tokens are ranked by
cosine with q (3CosAdd) [Mikolov 2013; Levy & Goldberg 2014]. Two warnings come with it [Linzen
2016, arXiv 1606.07736]. The inputs are left out of the ranking by custom; with them in, the answer
is mostly c itself. And the expected answer is often the nearest neighbour of c anyway. So every
score is given with inputs left out and left in, for c alone, and for the same questions with the
answers shuffled: the answer of a third pair of the relation stands for the right one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from workbench.embedding import Space, unit
from workbench.errors import Misuse
from workbench.intervals import Interval, ratio_interval, wilson

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SOURCES = 8  # pairs that each question is asked from
MOST_PAIRS = 60  # of a relation
LEAST = 3  # pairs: one is asked for, one asked from, and a third is the shuffled answer
_CHUNK = 128  # questions at a time: [question, vocab] cosines are held

EXCLUDED, INCLUDED, C_ALONE, SHUFFLED = MEASURES = (
    "inputs left out", "inputs left in", "c alone", "answers shuffled",
)  # fmt: skip


class Analogy(NamedTuple):
    """One analogy. Ranks count from 1, None where the expected answer is an input that is left out; `best` are the
    tokens nearest to a − b + c with their cosines, inputs in."""

    rank_excluded: int | None
    rank_included: int
    rank_of_c_alone: int | None  # the answer's rank among the neighbours of c, c left out
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
        rank_excluded=None if expected in (a, b, c) else int(_ranks(cosines[None], answer, inputs)[0]),
        rank_included=int(_ranks(cosines[None], answer, None)[0]),
        rank_of_c_alone=None if expected == c else int(_ranks(alone[None], answer, only)[0]),
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
    if n < LEAST:
        raise Misuse(
            f"the relation {relation.name!r} has {n} pairs of single tokens: at least {LEAST} are needed"
        )
    triples = [
        (i, j, k)
        for i in range(n)
        for j, k in _others(rng, n, i)  # what is left out of the ranking is no answer
        if not {pairs[i, 1], pairs[k, 1]} & {pairs[i, 0], pairs[j, 0], pairs[j, 1]}
    ]
    if not triples:
        raise Misuse(f"the relation {relation.name!r} has no question whose answer is not one of its inputs")
    of, source, third = np.array(triples).T
    a, b, c = pairs[source, 1], pairs[source, 0], pairs[of, 0]
    ranks = _set_ranks(space, a, b, c, pairs[of, 1], pairs[third, 1])
    return {measure: _score(found, of) for measure, found in ranks.items()}


def _others(rng: np.random.Generator, n: int, i: int) -> list[tuple[int, int]]:
    """Up to `SOURCES` other pairs than `i`, each with a third that is neither."""
    sources = rng.permutation([j for j in range(n) if j != i])[:SOURCES]
    return [(int(j), int(rng.choice([k for k in range(n) if k not in (i, j)]))) for j in sources]


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


def _score(ranks: Int[np.ndarray, "question"], of: Int[np.ndarray, "question"]) -> Score:
    _, of, asked = np.unique(of, return_inverse=True, return_counts=True)  # pairs that are asked for, no others
    n_pairs = len(asked)
    first = np.bincount(of, weights=ranks == 1)
    reciprocal = np.bincount(of, weights=1 / ranks)
    told = ratio_interval(first, asked.astype(float))
    if (
        not 0 < first.sum() < asked.sum()
    ):  # no resample differs from the sample: as if each pair were one question
        told = wilson(n_pairs if first.any() else 0, n_pairs)
    return Score(
        float(first.sum() / asked.sum()),
        told,
        float(reciprocal.sum() / asked.sum()),
        ratio_interval(reciprocal, asked.astype(float)),
        len(ranks),
        n_pairs,
    )


def relations(
    tokenizer: PreTrainedTokenizerFast, known: Mapping[str, Sequence[tuple[str, str]]]
) -> list[Relation]:
    """Relations between single tokens: those that spelling gives in any vocabulary (capital, plural, past, blank,
    next digit), and those that are `known` (a lab's countries and capitals). Those of fewer than 3 pairs are left
    out. Words are those with a blank before them, of four letters or more."""
    ids = _texts(tokenizer)
    words = [t for t in ids if t.startswith(" ") and len(t) > 4 and t[1:].isascii() and t[1:].isalpha()]
    low = [word for word in words if word[1].islower()]
    spelt: dict[str, list[tuple[str, str]]] = {
        "word → with a capital": [(t, " " + t[1:].capitalize()) for t in low],
        "word → plural": [(t, t + "s") for t in low if not t.endswith("s")],
        "word → past": [(t, t + "ed") for t in low],
        "word → without its blank": [(t, t[1:]) for t in words],
        "digit → next digit": [(str(d), str(d + 1)) for d in range(9)],
    }
    given = {name: [(" " + x, " " + y) for x, y in pairs] for name, pairs in known.items()}
    made = []
    for name, pairs in (spelt | given).items():
        kept = tuple((ids[x], ids[y]) for x, y in pairs if x in ids and y in ids and x != y)
        if len(kept) >= LEAST:
            made.append(Relation(name, kept))
    return made


def _texts(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Every token that is whole characters, by its text."""
    from workbench.vocabulary import Vocabulary

    vocabulary, found = Vocabulary(tokenizer), dict[str, int]()
    for id_ in range(len(tokenizer)):
        token = vocabulary[id_]
        if not token.special:
            with contextlib.suppress(UnicodeDecodeError):
                found.setdefault(token.data.decode(), id_)
    return found
