"""Labels: planted rules are found and score on texts that did not choose them; chance gets no label."""

from __future__ import annotations

import numpy as np
import pytest

from saes.index import FeatureIndex
from tests.test_followed_factors import common_factors, factor_column, index_of
from tests.tiny_lab import shared_lab
from workbench.features import FeatureTable
from workbench.label_rules import KINDS, MAX_ITEMS, Facts, best_set, holds, rule_sizes
from workbench.labels import MIN_SCORE, label_columns, label_halves


@pytest.fixture(scope="module")
def tokens():
    return FeatureTable.of(shared_lab(), "sae-sft").token_set


def nothing_promoted(n: int) -> np.ndarray:
    return np.full((n, 3), -7)


def frequent(column: np.ndarray, rank: int) -> int:
    ids, counts = np.unique(column[column >= 0], return_counts=True)
    return int(ids[np.argsort(-counts, kind="stable")[rank]])


def test_planted_rules_are_named(tokens):
    """Latents that follow a token, the token before, a promoted one after, a pair, a factor, a text's start."""
    facts, rng = Facts(tokens), np.random.default_rng(0)
    token, before = frequent(facts.token, 4), frequent(facts.previous, 6)
    after, pair = frequent(facts.next, 8), frequent(facts.pair, 20)
    factor = common_factors(tokens, 1)[0]
    truths = [
        facts.token == token,
        facts.previous == before,
        facts.next == after,
        facts.pair == pair,
        factor_column(tokens, factor) > 0,
        facts.starts,
    ]
    columns = [t * rng.uniform(1, 2, len(tokens)) + 0.05 * (rng.random(len(tokens)) < 0.002) for t in truths]
    promoted = nothing_promoted(len(truths))
    promoted[:, 1] = after
    found = label_columns(index_of(columns), tokens, promoted)
    size = len(tokens.vocabulary)
    shown = tokens.vocabulary
    labels = found["label"].to_list()
    assert labels[0] == shown[token]
    assert labels[1] == f"after {shown[before]}"
    assert labels[2] == f"says {shown[after]}"
    assert shown[pair // size] + shown[pair % size] in labels[3]
    same = factor_column(tokens, tokens.factor_names.index(labels[4]))
    assert (same == factor_column(tokens, factor)).mean() > 0.999
    assert labels[5] == "first token of a text"
    assert found["label_kind"].to_list()[:3] == ["token", "previous", "next"]
    assert min(found["label_score"]) > 0.8
    assert max(found["label_null"]) < 0.5


def test_chance_gets_no_label(tokens):
    """Latents that fire at random, and one that never does."""
    rng = np.random.default_rng(1)
    columns = [rng.random(len(tokens)) * (rng.random(len(tokens)) < p) for p in [0.003, 0.02] * 20]
    found = label_columns(index_of([*columns, np.zeros(len(tokens))]), tokens, nothing_promoted(41))
    assert found["label"].null_count() == 41
    assert abs(found["label_score"].drop_nulls().to_numpy()).max() < MIN_SCORE
    assert found["label_score"][40] is None


def test_scores_are_those_of_dense_columns(tokens):
    """Correlation, F1 and balanced accuracy by numpy, on the half that did not choose."""
    facts, rng = Facts(tokens), np.random.default_rng(2)
    token = frequent(facts.token, 2)
    column = (facts.token == token) * rng.uniform(0, 2, len(tokens)) + 0.3 * (rng.random(len(tokens)) < 0.01)
    other = rng.random(len(tokens)) * (facts.token == frequent(facts.token, 3))
    found = label_columns(index_of([column, other]), tokens, nothing_promoted(2))
    assert found["label"][0] == tokens.vocabulary[token]
    scored = label_halves(tokens, 0)[1]
    rule, values = (facts.token == token)[scored], column.astype(np.float32)[scored]
    on = values > 0
    assert found["label_score"][0] == pytest.approx(np.corrcoef(rule, values)[0, 1], abs=1e-9)
    f1 = 2 * (rule & on).sum() / (rule.sum() + on.sum())
    assert found["label_f1"][0] == pytest.approx(f1)
    balanced = (rule[on].mean() + (~rule)[~on].mean()) / 2
    assert found["label_balanced"][0] == pytest.approx(balanced)
    null = np.corrcoef((facts.token == frequent(facts.token, 3))[scored], values)[0, 1]
    assert found["label_null"][0] == pytest.approx(null, abs=1e-9)


def test_halves_share_no_document_and_leave_own_samples_out(tokens):
    first, second = label_halves(tokens, 0)
    document = np.asarray(tokens.document)
    assert not set(document[first]) & set(document[second])
    rollout = (tokens.documents["domain"] == "rollout").to_numpy()[document]
    assert np.array_equal(~rollout, first | second)


def test_every_kind_of_rule_holds_where_it_says(tokens):
    """`holds` and `rule_sizes` against plain comparisons, on every token."""
    facts = Facts(tokens)
    factor = common_factors(tokens, 1)[0]
    truths = {
        "start": ((), facts.starts),
        "token": ((5, 9), np.isin(facts.token, (5, 9))),
        "previous": ((frequent(facts.previous, 0),), facts.previous == frequent(facts.previous, 0)),
        "next": ((frequent(facts.next, 1),), facts.next == frequent(facts.next, 1)),
        "pair": ((frequent(facts.pair, 2),), facts.pair == frequent(facts.pair, 2)),
        "domain": ((1,), facts.domain == 1),
        "factor": ((factor,), factor_column(tokens, factor) > 0),
    }
    assert set(truths) == set(KINDS)
    kinds = np.array([KINDS.index(kind) for kind in truths])
    items = np.full((len(truths), MAX_ITEMS), -2)
    for i, (values, _) in enumerate(truths.values()):
        items[i, : len(values)] = values
    inside = label_halves(tokens, 0)[0]
    sizes = rule_sizes(facts, kinds, items, inside)
    rows = np.arange(len(tokens))
    for i, (_, expected) in enumerate(truths.values()):
        assert np.array_equal(holds(facts, kinds, items, np.full(len(rows), i), rows), expected)
        assert sizes[i] == expected[inside].sum()


def test_the_best_set_by_hand():
    """Token 1: 4 of 4; token 2: 3 of 10; token 3: 3 of 100. n = 10: {1} 8/14, {1, 2} 14/24, all 20/124."""
    values = np.repeat([1, 2, 3], [4, 3, 3])
    items, f1 = best_set(values, np.array([1, 2, 3]), np.array([4, 10, 100]), 10)
    assert items == (1, 2)
    assert f1 == pytest.approx(14 / 24)


def test_a_window_does_not_see_the_one_before(tokens):
    facts = Facts(tokens)
    starts = tokens.starts
    assert (facts.previous[starts] == -1).all()
    assert (facts.pair[starts] == -1).all()
    assert (facts.next[tokens.stops - 1] == -1).all()
    inner = np.setdiff1d(np.arange(len(tokens)), starts)
    assert (facts.previous[inner] == facts.token[inner - 1]).all()
    assert isinstance(index_of([np.ones(4)]), FeatureIndex)
