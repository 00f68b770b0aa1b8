"""Factors of latents: planted ones are found, figures are scikit-learn's and a brute-force F1's, chance names
none."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from saes.factors import MIN_TOKENS
from saes.index import FeatureIndex
from saes.ranking import aurocs
from tests.tiny_lab import shared_lab
from workbench.factor_scores import LABELLED, halves, label_matrix
from workbench.features import FeatureTable
from workbench.followed_factors import followed, pair_scores, ranked_entries


@pytest.fixture(scope="module")
def tokens():
    return FeatureTable.of(shared_lab(), "sae-sft").token_set


def index_of(columns: list[np.ndarray]) -> FeatureIndex:
    """An index of latents given as dense columns [token]."""
    dense = np.stack(columns, axis=1)
    rows, latents = np.nonzero(dense)
    return FeatureIndex.from_entries(
        rows, latents, dense[rows, latents], n_latents=dense.shape[1], n_tokens=len(dense)
    )


def factor_column(tokens, factor: int) -> np.ndarray:
    column = np.zeros(len(tokens))
    column[tokens.factors.filter(pl.col("factor") == factor)["token"].to_numpy()] = 1
    return column


def common_factors(tokens, n: int) -> list[int]:
    counts = tokens.factors["factor"].value_counts().sort(["count", "factor"], descending=True)
    return counts.filter(pl.col("count").is_between(150, 800))["factor"].to_list()[:n]


def test_a_planted_latent_is_given_its_factor(tokens):
    """Latents that fire on one factor's tokens, with noise and misses; one that fires at random; one silent."""
    rng = np.random.default_rng(0)
    planted = common_factors(tokens, 4)
    columns = []
    for factor in planted:
        hit = factor_column(tokens, factor) * (rng.random(len(tokens)) < 0.97)
        columns.append(hit * rng.uniform(1, 2, len(tokens)) + 0.1 * (rng.random(len(tokens)) < 0.01))
    noise = rng.random(len(tokens)) * (rng.random(len(tokens)) < 0.05)
    table = followed(index_of([*columns, noise, np.zeros(len(tokens))]), tokens)
    best = {row["latent"]: row for row in table.filter(pl.col("rank") == 0).iter_rows(named=True)}
    for latent, factor in enumerate(planted):
        named = tokens.factor_names.index(best[latent]["factor"])
        assert np.array_equal(factor_column(tokens, factor), factor_column(tokens, named))
        assert min(best[latent][figure] for figure in ("f1", "ap", "auroc")) > 0.9
        assert best[latent]["threshold"] >= 1.0 or best[latent]["f1"] > 0.97
    assert best[4]["f1"] < 0.4
    assert 5 not in best


def test_a_rare_factor_is_not_named_by_chance(tokens):
    """A latent that fires strongly on half of a common factor's tokens, and weakly on each of a rare one's:
    AUROC prefers the rare one, F1 names the common one."""
    rng = np.random.default_rng(2)
    common = common_factors(tokens, 1)[0]
    counts = tokens.factors["factor"].value_counts()
    inside = halves(tokens, 0)
    rare = next(
        f
        for f in counts.sort("count")["factor"].to_list()
        if all(factor_column(tokens, f)[inside == h].sum() >= MIN_TOKENS for h in (0, 1))
        and not (factor_column(tokens, f) * factor_column(tokens, common)).any()
    )
    often = factor_column(tokens, common) * (rng.random(len(tokens)) < 0.5) * rng.uniform(1, 2, len(tokens))
    index = index_of([often + 0.5 * factor_column(tokens, rare)])
    area = aurocs(index, label_matrix(tokens, len(tokens.factor_names)), inside == 0, MIN_TOKENS)[0]
    assert area[rare] > area[common]
    named = tokens.factor_names.index(followed(index, tokens)["factor"][0])
    assert (factor_column(tokens, named) * factor_column(tokens, common)).any()


@pytest.mark.parametrize("ties", [False, True])
def test_figures_are_those_of_dense_columns(tokens, ties):
    """scikit-learn's average precision, and the best F1 over every threshold above zero, one by one."""
    rng = np.random.default_rng(1)
    inside = np.isin(tokens.domain, LABELLED)[tokens.document] & (rng.random(len(tokens)) < 0.5)
    labels = label_matrix(tokens, len(tokens.factor_names))
    latents = [rng.random(len(tokens)) * (rng.random(len(tokens)) < p) for p in (0.02, 0.3, 1.0)]
    latents = [np.round(x, 1) if ties else x for x in latents]
    positives = np.asarray(labels[np.flatnonzero(inside)].sum(axis=0)).ravel()
    index = index_of(latents)
    found = pair_scores(ranked_entries(index, inside), labels, int(inside.sum()), positives)
    area = aurocs(index, labels, inside)
    for factor in common_factors(tokens, 3):
        truth = factor_column(tokens, factor)[inside]
        for j, latent in enumerate(latents):
            values = np.asarray(latent[inside], np.float32)
            i = np.flatnonzero((found.latent == j) & (found.factor == factor))[0]
            assert found.ap[i] == pytest.approx(average_precision_score(truth, values), abs=1e-9)
            levels = np.unique(values[values > 0])[:: 1 if ties else 40]
            every = {t: f1_score(truth, values >= t) for t in levels}
            assert found.f1[i] >= max(every.values()) - 1e-12
            assert found.f1[i] == pytest.approx(f1_score(truth, values >= found.threshold[i]), abs=1e-12)
            assert area[j, factor] == pytest.approx(roc_auc_score(truth, values), abs=1e-9)


def test_scores_are_of_the_other_half(tokens):
    """F1, AP and AUROC of the table, from dense columns on the half that did not choose."""
    rng = np.random.default_rng(3)
    factor = common_factors(tokens, 1)[0]
    column = factor_column(tokens, factor) * rng.random(len(tokens)) + 0.3 * (rng.random(len(tokens)) < 0.02)
    row = followed(index_of([column]), tokens).row(0, named=True)
    scored = halves(tokens, 0) == 1
    truth = factor_column(tokens, tokens.factor_names.index(row["factor"]))[scored]
    values = np.asarray(column[scored], np.float32)
    assert row["positives"] == truth.sum()
    assert row["f1"] == pytest.approx(f1_score(truth, values >= np.float32(row["threshold"])), abs=1e-9)
    assert row["ap"] == pytest.approx(average_precision_score(truth, values), abs=1e-9)
    assert row["auroc"] == pytest.approx(roc_auc_score(truth, values), abs=1e-9)
