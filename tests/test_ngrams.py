"""Laws of the n-gram baseline: a distribution, equal to the definition, to nltk's, and to a case by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from workbench import ngrams
from workbench.ngrams import estimate, fit

BOS = 0


def nats(model: ngrams.NgramModel, documents: list[np.ndarray]) -> np.ndarray:
    """All tokens' nats in one row."""
    return np.concatenate(ngrams.nats(model, documents))


def _documents(seed: int = 0, n: int = 12, vocab_size: int = 7) -> list[np.ndarray]:
    """Skewed random documents, so that some contexts are rare and some ids never occur."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, vocab_size - 1)
    weights /= weights.sum()
    sizes = rng.integers(1, 30, n)
    return [np.append(BOS, rng.choice(np.arange(1, vocab_size - 1), size=s, p=weights)) for s in sizes]


def _reference(documents: list[np.ndarray], vocab_size: int, order: int, n_discounts: int):
    """The equations of the module docstring read off tuples, one probability at a time."""
    padded = [[BOS] * (order - 1) + [int(i) for i in d] for d in documents]
    counts: dict[int, dict[tuple[int, ...], int]] = {order: {}}
    for ids in padded:
        for end in range(order, len(ids)):
            gram = tuple(ids[end - order + 1 : end + 1])
            counts[order][gram] = counts[order].get(gram, 0) + 1
    for m in range(order - 1, 0, -1):
        counts[m] = {}
        for gram in counts[m + 1]:
            counts[m][gram[1:]] = counts[m].get(gram[1:], 0) + 1
    discounts = {m: estimate(np.array(list(c.values())), n_discounts) for m, c in counts.items()}

    def p(context: tuple[int, ...], token: int) -> float:
        m = len(context) + 1
        lower = 1 / vocab_size if m == 1 else p(context[1:], token)
        seen = {g: c for g, c in counts[m].items() if g[:-1] == context}
        if not seen:
            return lower
        total = sum(seen.values())
        freed = sum(min(c, discounts[m][min(c, 3) - 1]) for c in seen.values())
        count = seen.get((*context, token), 0)
        return max(count - discounts[m][min(count, 3) - 1] if count else 0, 0) / total + freed / total * lower

    return p


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("n_discounts", [1, 3])
def test_equals_the_definition_and_sums_to_one(order, n_discounts):
    vocab_size, train, held = 7, _documents(0), _documents(1, n=4)
    model = fit(train, vocab_size, order, n_discounts)
    p = _reference(train, vocab_size, order, n_discounts)
    expected = []
    for document in held:
        ids = [BOS] * (order - 1) + [int(i) for i in document]
        for end in range(order, len(ids)):
            context = tuple(ids[end - order + 1 : end])
            expected.append(-math.log(p(context, ids[end])))
            every = [np.append(document[: end - order + 1], w) for w in range(vocab_size)]
            total = sum(math.exp(-nats(model, [d])[-1]) for d in every)
            assert total == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(nats(model, held), expected, rtol=1e-10)


def test_by_hand():
    """Text `a b a b a c`, bigram, D = 1/2 on both levels, ids BOS 0, a 1, b 2, c 3.

    Bigrams: BOS a 1, a b 2, b a 2, a c 1. Different tokens before: a 2 (BOS, b), b 1, c 1, total 4.
    p_1(a) = 1.5/4 + 3·0.5/4·1/4 = 15/32; p_1(b) = 0.5/4 + 3/32 = 7/32; p_1(BOS) = 3/32.
    p_2(b | a) = 1.5/3 + 2·0.5/3·7/32 = 55/96; p_2(a | a) = 1/3·15/32 = 5/32.
    """
    model = fit([np.array([0, 1, 2, 1, 2, 1, 3])], 4, 2, discounts=[0.5, 0.5])
    p = np.exp(-nats(model, [np.array([0, 1, 2]), np.array([0, 1, 1])]))
    first = 0.5 + 0.5 * 15 / 32  # BOS a was seen once: (1 − 1/2)/1, and half falls back
    np.testing.assert_allclose(p, [first, 55 / 96, first, 5 / 32])


def test_discounts_by_hand():
    """n_1..n_4 = 8, 4, 2, 1: Y = 8/16 = 1/2, D_1 = 1 − 2·½·4/8, D_2 = 2 − 3·½·2/4, D_3 = 3 − 4·½·1/2."""
    counts = np.repeat([1, 2, 3, 4], [8, 4, 2, 1])
    np.testing.assert_allclose(estimate(counts), [0.5, 1.25, 2.0])
    np.testing.assert_allclose(estimate(counts, n_discounts=1), [0.5, 0.5, 0.5])
    np.testing.assert_allclose(estimate(np.array([7, 9])), [0.5, 1.0, 1.5])


@pytest.mark.parametrize("order", [2, 3])
def test_agrees_with_nltk(order):
    """nltk's KneserNeyInterpolated has one fixed discount and none on the first level."""
    lm = pytest.importorskip("nltk.lm", reason="nltk is not installed: no rival to agree with")
    train, discount = _documents(2), 0.6
    seen = {int(i) for d in train for i in d[1:]}  # nltk's first level has nothing for an unseen id
    held = [np.append(BOS, [i for i in d if i in seen]) for d in _documents(3, n=5)]

    def words(document: np.ndarray) -> list[str]:
        return ["0"] * (order - 1) + [str(i) for i in document]

    def grams(ids: list[str]) -> list[tuple[str, ...]]:
        return [tuple(ids[e - m + 1 : e + 1]) for e in range(order, len(ids)) for m in range(1, order + 1)]

    rival = lm.KneserNeyInterpolated(order, discount=discount, vocabulary=lm.Vocabulary("0123456"))
    rival.fit([grams(words(d)) for d in train])
    expected = [
        -math.log(rival.score(w[end], w[end - order + 1 : end]))
        for w in map(words, held)
        for end in range(order, len(w))
    ]
    ours = fit(train, 7, order, discounts=[0.0] + [discount] * (order - 1))
    np.testing.assert_allclose(nats(ours, held), expected, rtol=1e-9)


def test_a_longer_context_helps_on_text_that_has_one():
    rng = np.random.default_rng(4)
    cycle = [np.append(BOS, (np.arange(200) + rng.integers(1, 4)) % 5 + 1) for _ in range(20)]
    losses = [nats(fit(cycle[:15], 8, order), cycle[15:]).mean() for order in (1, 2, 3)]
    assert losses[0] > 1.5
    assert losses[1] < 0.1
    assert losses[2] < 0.1


def test_empty_documents_count_nothing_and_wrong_ids_are_named():
    documents = _documents(5)
    with_empty = [np.array([BOS]), *documents, np.array([], dtype=np.int64)]
    per_document = ngrams.nats(fit(documents, 7, 3), with_empty)
    assert [len(n) for n in per_document] == [0, *(len(d) - 1 for d in documents), 0]
    np.testing.assert_array_equal(
        nats(fit(with_empty, 7, 3), with_empty), nats(fit(documents, 7, 3), documents)
    )
    with pytest.raises(ValueError, match="expected 0 to 6"):
        fit([np.array([0, 7])], 7, 2)
    with pytest.raises(ValueError, match="no tokens"):
        fit([np.array([0])], 7, 2)
    with pytest.raises(ValueError, match="63-bit"):
        fit(documents, 2**22, 3)
