"""The embedding: neighbours, planes and analogies where the truth is planted, contexts equal to Hugging Face."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from tests.tiny_models import FAMILIES, VOCAB, tiny_model, tiny_tokenizer
from workbench.analogies import (
    C_ALONE,
    EXCLUDED,
    INCLUDED,
    SHUFFLED,
    Relation,
    analogy,
    relations,
    scores,
)
from workbench.embedding import W_E, W_U, Space, find_token, spaces
from workbench.errors import Misuse
from workbench.token_contexts import cosines, curve, random_tokens, read_contexts, same_word

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "hello world, this is a test of 1234 marbles"
SENTENCES = ("hello test", "this is a test of marbles", "marbles test")


def gauss(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_spaces_are_the_models_matrices(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    found = spaces(model, tokenizer)
    np.testing.assert_array_equal(
        found[W_E].rows, model.get_input_embeddings().weight.detach()[: len(tokenizer)]
    )
    tied = model.config.tie_word_embeddings
    assert list(found) == ([W_E] if tied else [W_E, W_U])
    if not tied:
        np.testing.assert_array_equal(
            found[W_U].rows, model.get_output_embeddings().weight.detach()[: len(tokenizer)]
        )
    assert found[W_E].n == min(len(tokenizer), VOCAB)


def test_neighbours_are_those_of_torch():
    space = Space(W_E, gauss(200, 16))
    rows = torch.from_numpy(space.rows)
    expected = torch.nn.functional.cosine_similarity(rows[7][None], rows)
    expected[7] = -torch.inf
    found = space.neighbours(7, 12)
    np.testing.assert_allclose(found.cosines, expected.topk(12).values, atol=1e-6)
    assert found.ids.tolist() == expected.topk(12).indices.tolist()
    assert 7 not in space.neighbours(7, 1_000).ids


def test_a_planted_twin_is_the_nearest():
    """Three times the same direction has cosine 1 however long it is."""
    rows = gauss(50, 8)
    rows[31] = 3 * rows[4]
    found = Space(W_E, rows).neighbours(4, 1)
    assert (found.ids.tolist(), found.cosines.tolist()) == ([31], pytest.approx([1.0]))


def test_chance_is_that_of_random_directions():
    """In d dimensions cosines of random directions have mean 0 and standard deviation 1 / √d; with a direction in
    common they do not."""
    chance = Space(W_E, gauss(3_000, 64)).chance()
    assert chance.mean == pytest.approx(0, abs=0.01)
    assert (chance.high - chance.low) / (2 * 1.96) == pytest.approx(1 / 8, rel=0.05)
    assert Space(W_E, gauss(3_000, 64) + 1).chance().mean == pytest.approx(0.5, abs=0.02)


def test_plane_is_scikit_learns():
    rows = gauss(300, 12) * np.arange(1, 13, dtype=np.float32)
    found, oracle = Space(W_E, rows).plane(), PCA(2).fit(rows)
    np.testing.assert_allclose(found.shares, oracle.explained_variance_ratio_, rtol=1e-4)
    np.testing.assert_allclose(np.abs(found.places), np.abs(oracle.transform(rows)), atol=1e-3)


def test_analogy_by_hand():
    """Rows at right angles: a − b + c = (1, −1, 1)/√3 has cosine 0.58 with a and c, −0.58 with b, and 0.82 with
    (1, 0, 1): the answer is first, in front of its own inputs; (1, 1, 0) has cosine 0."""
    space = Space(W_E, np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 0]], dtype=np.float32))
    found = analogy(space, 0, 1, 2, 3)
    assert (found.rank_included, found.rank_excluded) == (1, 1)
    assert found.cosine == pytest.approx(2 / np.sqrt(6), abs=1e-6)
    assert found.best[:3].tolist() == [3, 0, 2]
    assert found.rank_of_c_alone == 1  # (1, 0, 1) is nearest to c without any analogy
    one_of_them = analogy(space, 0, 1, 2, 0)  # left out of the ranking, so it has no rank there
    assert (one_of_them.rank_excluded, one_of_them.rank_included, one_of_them.rank_of_c_alone) == (None, 2, 2)
    assert analogy(space, 0, 1, 2, 2).rank_of_c_alone is None
    worse = analogy(space, 0, 1, 2, 4)
    assert (worse.rank_included, worse.rank_excluded) == (4, 2)  # two of the three in front are inputs


def test_planted_analogies_are_found_and_shuffled_ones_are_not():
    """Right angles leave no chance: y = x + the same long offset, so c alone says nothing and the offset all."""
    d, n = 64, 20
    rows = gauss(200, d) * 0.05
    rows[:n, :] = np.eye(d, dtype=np.float32)[:n]
    rows[n : 2 * n] = rows[:n] + np.eye(d, dtype=np.float32)[40]
    relation = Relation("planted", tuple((i, n + i) for i in range(n)))
    found = scores(Space(W_E, rows), relation)
    assert found[EXCLUDED].first == 1.0
    assert found[EXCLUDED].first_interval == pytest.approx((0.839, 1.0), abs=1e-3)  # Wilson's, 20 of 20
    assert found[SHUFFLED].first == 0.0
    assert (found[EXCLUDED].n, found[EXCLUDED].n_pairs) == (n * 8, n)
    assert 0 < found[EXCLUDED].reciprocal <= 1
    nothing = scores(Space(W_E, gauss(2_000, d)), relation)
    assert nothing[EXCLUDED].first < 0.1
    assert nothing[SHUFFLED].first < 0.1  # the shuffled answer is never one of the inputs
    assert nothing[INCLUDED].first == 0.0


def test_what_c_alone_finds_is_told():
    """y beside x and no offset in common: the analogy scores high, and so does c by itself."""
    rows = gauss(300, 64)
    rows[20:40] = rows[:20] + 0.2 * gauss(20, 64, 1)
    found = scores(Space(W_E, rows), Relation("near", tuple((i, 20 + i) for i in range(20))))
    assert found[C_ALONE].first == 1.0
    assert found[EXCLUDED].first > 0.8
    assert found[SHUFFLED].first < 0.1


def test_pairs_that_are_never_asked_for_are_not_counted():
    """A pair (x, x) of one token would have its answer among its inputs: it is asked from, and never asked for."""
    relation = Relation("one of them is", ((0, 0), (1, 11), (2, 12), (3, 13)))
    found = scores(Space(W_E, gauss(50, 16)), relation)[INCLUDED]
    assert found.n_pairs == 3
    assert found.first_interval == pytest.approx((0.0, 0.5615), abs=1e-3)  # Wilson's, 0 of 3


def test_relations_are_pairs_of_single_tokens():
    tokenizer = tiny_tokenizer(text=" marble marbles Marble letter letters Letter river rivers River 1 2 3 4")
    digits = scores(Space(W_E, gauss(50, 8)), Relation("next", tuple((d, d + 1) for d in range(9))))
    assert (
        0 < digits[EXCLUDED].n <= 9 * 8 - 8
    )  # 4 − 3 + 2 asks for 3, an input: eight such questions are not asked
    assert digits[SHUFFLED].first < 0.2
    found = {r.name: r for r in relations(tokenizer, {"country → capital": [("a", "b")]})}
    assert "country → capital" not in found  # fewer than three pairs
    words = {(tokenizer.decode([x]), tokenizer.decode([y])) for x, y in found["word → plural"].pairs}
    assert {(" letter", " letters"), (" river", " rivers")} <= words
    digits = found["digit → next digit"].pairs
    assert [(tokenizer.decode([x]), tokenizer.decode([y])) for x, y in digits][:2] == [("0", "1"), ("1", "2")]
    with pytest.raises(Misuse, match="at least 3"):
        scores(Space(W_E, gauss(9, 4)), Relation("few", ((0, 1), (2, 3))))


def test_find_token():
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode([find_token(tokenizer, "marbles")]) == " marbles"  # as it stands in a text
    assert tokenizer.decode([find_token(tokenizer, "hello")]) == "hello"
    assert find_token(tokenizer, "#17") == 17
    assert tokenizer.decode([find_token(tokenizer, "xq")]) == "q"
    assert find_token(tokenizer, "<|user|>") == tokenizer.convert_tokens_to_ids("<|user|>")
    find_token(tokenizer, "\ud800")  # a lone surrogate has no bytes of its own
    with pytest.raises(Misuse, match="type a word"):
        find_token(tokenizer, "")


@pytest.mark.parametrize("family", FAMILIES)
def test_places_are_hugging_faces(family):
    """Row l of a context is the hidden state of its word's token; the word is read as in the whole sentence."""
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    found = read_contexts(model, tokenizer, 64, "test", SENTENCES)
    for i, text in enumerate(SENTENCES):
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        at = found.at[i]
        assert tokenizer.decode([ids[at]]) == " test"
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_hidden_states=True)
        for row in range(model.config.num_hidden_layers):
            np.testing.assert_allclose(found.places[i, row], out.hidden_states[row][0, at], atol=1e-5)
    assert found.pairs() == [(0, 1), (0, 2), (1, 2)]
    if family != "gpt2":  # positions are added there
        np.testing.assert_allclose(found.cosines()[:, 0], 1.0, atol=1e-6)
    assert (found.cosines()[:, -1] < 0.999).all()
    np.testing.assert_allclose(cosines(found.places, found.places), 1.0, atol=1e-5)


def test_baselines_of_contexts():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    texts = [f"{word} hello this {word} is test" for word in ("a", "marbles", "world", "1234", "hello", "of")]
    same = same_word(model, tokenizer, 64, "test", texts)
    assert same.n == 3  # six places, each in one pair
    assert same.mean[0] == pytest.approx(1, abs=1e-6)
    assert same_word(model, tokenizer, 64, " test ", texts).n == 3  # as the sentences are read
    assert same_word(model, tokenizer, 64, "nowhere", texts) is None
    other = random_tokens(model, tokenizer, 64, texts)
    assert other.n == 200
    assert (other.low <= other.mean).all()
    assert other.mean[0] < 0.5  # different tokens of a random embedding
    assert random_tokens(model, tokenizer, 64, []) is None


def test_curve_by_hand():
    """Cosines 0, 1, 0.5: mean 0.5, standard error 0.5/√3, t(2) = 4.303."""
    found = curve(np.array([[0.0], [1.0], [0.5]]))
    assert (found.mean[0], found.n) == (0.5, 3)
    assert found.high[0] - 0.5 == pytest.approx(4.3027 * 0.5 / np.sqrt(3), abs=1e-3)
    assert np.isnan(curve(np.array([[0.3]])).low[0])


@pytest.mark.parametrize(
    ("word", "texts", "match"),
    [
        ("", SENTENCES, "no word"),
        ("test", SENTENCES[:1], "at least two"),
        ("bank", SENTENCES, "every sentence needs it"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(word, texts, match):
    with pytest.raises(Misuse, match=match):
        read_contexts(tiny_model("llama"), tiny_tokenizer(), 64, word, texts)
