"""The scorer on what is known: planted directions are found, random ones and shuffled labels are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

import saes
from saes import DictionaryError, FeatureIndex, TensorActivations, TrainConfig
from saes.absorption import absorption, flat_decoder, probe_directions
from saes.calibrate import measure
from saes.candidates import Descending, Entries, SignedUnits, SparseUnits, column, draw, levels
from saes.factors import FactorTable, halved
from saes.ground_truth import figures, ground_truth
from saes.matching import cosines, match, mcc
from saes.pools import normalised, pca_directions, random_dictionary, random_directions
from saes.ranking import score_units
from saes.resampling import Resamples, interval
from saes.single_units import HalvedPool, best_threshold, best_units, matched_correlation
from saes.sparse_probes import fit_probe, logistic
from saes.splitting import _pair_f1, _together, compositions, splits
from tests.saes.planted import planted

N, PER_DOCUMENT = 3_000, 20


def table_of(labels: np.ndarray, parents: np.ndarray | None = None) -> FactorTable:
    tokens, factors = np.nonzero(labels)
    names = tuple(f"factor {i}" for i in range(labels.shape[1]))
    return FactorTable.of(tokens, factors, np.arange(len(labels)) // PER_DOCUMENT, names, parents)


def sparse(dense: np.ndarray) -> SparseUnits:
    rows, units = np.nonzero(dense)
    values = dense[rows, units]
    return SparseUnits(
        FeatureIndex.from_entries(rows, units, values, n_latents=dense.shape[1], n_tokens=len(dense))
    )


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(0).random((N, 5)) < [0.01, 0.1, 0.4, 0.7, 0.05]


@pytest.fixture(scope="module")
def values(labels) -> np.ndarray:
    """Units of every density, rounded so that there are ties, leaning to a factor each."""
    rng = np.random.default_rng(1)
    columns = [
        np.round(rng.random(N) + 0.3 * labels[:, i], 2) * (rng.random(N) < density)
        for i, density in enumerate((0.02, 0.1, 0.3, 1, 0.2))
    ]
    return np.stack(columns, axis=1).astype(np.float32)


@pytest.mark.parametrize("kind", ["sparse", "signed", "signed without ties"])
def test_scores_are_scikit_learns(labels, values, kind):
    """AUROC, AP, best F1 and correlation of every unit with every factor, ties and both signs."""
    if kind == "signed without ties":
        values = values + np.random.default_rng(2).normal(0, 0.1, values.shape).astype(np.float32)
    units = sparse(values) if kind == "sparse" else SignedUnits(np.ascontiguousarray(values.T))
    table = table_of(labels)
    found, correlations = score_units(units, table.labels), units.correlations(table.labels)
    for unit in range(units.n_units):
        v = column(units, unit)
        for factor in range(5):
            y = labels[:, factor]
            precision, recall, _ = precision_recall_curve(y, v)
            f1 = np.nanmax(2 * precision * recall / np.maximum(precision + recall, 1e-12))
            assert found.auroc[unit, factor] == pytest.approx(roc_auc_score(y, v), abs=1e-9)
            assert found.ap[unit, factor] == pytest.approx(average_precision_score(y, v), abs=1e-9)
            assert found.f1[unit, factor] == pytest.approx(f1, abs=1e-9)
            assert correlations[unit, factor] == pytest.approx(np.corrcoef(y, v)[0, 1], abs=1e-6)


@pytest.mark.parametrize("unit", [0, 1, 2, 3])
def test_a_resample_is_a_weighted_score(labels, values, unit):
    """Each token counts as often as its document was drawn; values are told apart at few edges."""
    table = table_of(labels)
    resamples = Resamples.of(table, n=5)
    entries = Descending.of(sparse(values).entries(unit))
    for factor in (0, 1, 3):
        y, v = labels[:, factor], values[:, unit]
        found = resamples.ranked(entries, y)
        assert found["auroc"].value == pytest.approx(roc_auc_score(y, v), abs=1e-9)
        assert found["ap"].value == pytest.approx(average_precision_score(y, v), abs=1e-9)
        threshold = best_threshold(entries, y)
        predicted = v >= threshold if threshold > 0 else np.ones(N, bool)
        assert resamples.f1(entries, threshold, y).value == pytest.approx(f1_score(y, predicted))
        assert f1_score(y, predicted) == pytest.approx(
            score_units(sparse(values), table.labels).f1[unit, factor]
        )
        for i, drawn in enumerate(resamples.drawn):
            weight = drawn[resamples.document]
            assert found["auroc"].samples[i] == pytest.approx(
                roc_auc_score(y, v, sample_weight=weight), abs=2e-3
            )
            expected = average_precision_score(y, v, sample_weight=weight)
            assert found["ap"].samples[i] == pytest.approx(expected, abs=8e-3)
            expected = f1_score(y, predicted, sample_weight=weight)
            assert resamples.f1(entries, threshold, y).samples[i] == pytest.approx(expected, abs=1e-6)


def test_an_interval_covers_as_often_as_it_says():
    """AP of one unit over documents that differ: about 95 of 100 intervals hold what many documents give."""
    rng = np.random.default_rng(0)

    def drawn(n_documents: int):
        lean = np.repeat(rng.normal(1, 0.7, n_documents), PER_DOCUMENT)
        on = rng.random(len(lean)) < 0.2
        v = (rng.normal(size=len(lean)) + lean * on).astype(np.float32)
        return Entries(np.arange(len(v)), v), on

    truth = average_precision_score(
        *reversed([e.values if isinstance(e, Entries) else e for e in drawn(20_000)])
    )
    held = 0
    for _ in range(100):
        entries, on = drawn(60)
        low, high = interval(
            Resamples.of(table_of(on[:, None])).ranked(Descending.of(entries), on)["ap"].samples
        )
        held += low <= truth <= high
    assert 87 <= held <= 100


def test_logistic_is_scikit_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 3))
    y = x @ [1, 2, 0] + rng.normal(size=2_000) > 2
    weights = rng.uniform(0.5, 2, 2_000)
    theirs = LogisticRegression(tol=1e-9).fit(x, y, weights)
    np.testing.assert_allclose(logistic(x, y, weights), [*theirs.coef_[0], *theirs.intercept_], rtol=1e-3)


def sum_of(probe, units) -> np.ndarray:
    total = np.zeros(units.n_tokens)
    tokens, values = probe.entries(units)
    total[tokens] = values
    return total


def test_five_units_see_what_one_does_not():
    rng = np.random.default_rng(0)
    parts = rng.random((N, 5)) < 0.05
    on = parts.any(axis=1)
    units = sparse(parts * rng.uniform(1, 2, parts.shape))
    probes = [fit_probe(units, np.arange(k), on) for k in (1, 5)]
    one, five = (roc_auc_score(on, sum_of(probe, units)) for probe in probes)
    assert one < 0.7
    assert five == pytest.approx(1.0)


def test_halves_share_no_document_and_rare_or_repeated_factors_do_not_count(labels):
    twice = np.column_stack([labels, labels[:, 1]])
    rare = np.zeros((N, 1), bool)
    rare[:6] = True
    halves = halved(table_of(np.column_stack([twice, rare])))
    assert not set(halves.first.document) & set(halves.second.document)
    assert len(halves.first_rows) + len(halves.second_rows) == N
    assert halves.first.names == ("factor 0", "factor 2", "factor 3", "factor 4", "factor 5")
    with pytest.raises(DictionaryError, match="need a document each"):
        FactorTable(halves.first.labels, np.zeros(2, int), halves.first.names, halves.first.parents)


def test_levels_and_draws_by_hand():
    assert levels([2048, 256, 1987, 896, 2041]) == [256, 896, 1987]
    assert levels([64, 90, 384, 92]) == [64, 90]  # nothing to lay beside 384
    assert levels([24]) == [24]
    able = np.array([True, False, True, True])
    assert set(draw(able, 2, 0)) < {0, 2, 3}
    assert draw(able, 9, 0).tolist() == [0, 2, 3]


def test_matching_by_hand():
    """Taking the largest first (0.9, then 0.1) is not the best sum (0.8 + 0.7)."""
    similarity = np.array([[0.9, 0.8], [-0.7, 0.1]])
    assert mcc(similarity) == pytest.approx(0.75)
    rows, columns = match(similarity)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (1, 1)]
    assert mcc(cosines(np.eye(3), np.eye(3)[[2, 0, 1]])) == pytest.approx(1)
    with pytest.raises(DictionaryError, match="finite"):
        match(np.array([[np.nan]]))


@pytest.fixture(scope="module")
def world():
    """A background with its own covariance, 24 planted directions on or off, an SAE trained on it."""
    torch.set_num_threads(1)
    x, directions = planted(6_000, 24, 32)
    rng = torch.Generator().manual_seed(1)
    mixing = torch.randn(32, 32, generator=rng) / 32**0.5
    on = torch.einsum("tmd,fmd->tf", x - 0.5, torch.linalg.pinv(directions[:, 0]).T[:, None]) > 0.5
    x = x + 0.08 * (torch.randn(6_000, 32, generator=rng) @ mixing)[:, None]
    activations = TensorActivations(x)
    config = TrainConfig(n_latents=48, k=3, n_steps=400, batch_size=512, lr=5e-3, k_start=6)
    dictionary = saes.fit(activations, config)
    return activations, directions, on.numpy(), dictionary


@pytest.fixture(scope="module")
def scored(world):
    activations, _, on, dictionary = world
    halves = halved(table_of(on))
    index = FeatureIndex.build(dictionary, activations)
    l0 = len(index.tokens) / index.n_tokens
    z = normalised(activations, measure(activations))
    control = random_dictionary(dictionary, activations, l0, seed=0)
    pools = {
        "latents": SparseUnits(index),
        "pca": pca_directions(z),
        "random_dense": random_directions(z, 24, seed=0),
        "random_sparse": SparseUnits(FeatureIndex.build(control, activations)),
    }
    return halves, pools, ground_truth(pools, halves)


def test_planted_directions_are_recovered(world):
    _, directions, _, dictionary = world
    found = mcc(cosines(dictionary.W_dec[:, 0].numpy(), directions[:, 0].numpy()))
    assert found >= 0.9


def test_planted_factors_are_found_and_random_controls_do_not_find_them(scored):
    halves, pools, truth = scored
    assert halves.first.n_factors == 24
    n = levels([int(pool.able.sum()) for pool in truth.pools.values()])[0]
    told = figures(truth, "latents")[str(n)]
    own = told["pools"]["latents"]
    assert own["unit_auroc"]["mean"] > 0.97
    assert own["unit_ap"]["mean"] > 0.9
    assert own["unit_f1"]["mean"] > 0.9
    assert own["probe_5_f1"]["mean"] > 0.9
    assert own["mcc"]["mean"] > 0.9
    for control, most in (("random_dense", 0.9), ("random_sparse", 0.85)):  # dense directions rank every token
        assert told["pools"][control]["unit_auroc"]["mean"] < most
        assert told["ahead"][control]["unit_auroc"]["low"] > 0.05
        assert told["pools"][control]["unit_f1"]["mean"] < 0.75
        assert told["ahead"][control]["unit_f1"]["low"] > 0.15
        assert told["ahead"][control]["mcc"]["low"] > 0.15
    densities = [pools[p].index.densities().mean() for p in ("latents", "random_sparse")]
    np.testing.assert_allclose(densities, densities[0], rtol=0.05)


def test_random_directions_are_as_dense_as_neurons_and_have_both_signs(scored):
    dense = scored[1]["random_dense"]
    assert isinstance(dense, SignedUnits)
    assert dense.n_units == 48
    assert (dense.values != 0).all()
    assert ((dense.values > 0).mean(axis=1) > 0.1).all()
    np.testing.assert_array_equal(column(dense, 7), -column(dense, 6))


def test_a_latent_that_is_off_where_a_factor_is_on_counts_by_its_size():
    """MCC is mean |r|: a unit that is the factor's negation matches it as well as one that is the factor."""
    on = np.random.default_rng(0).random((N, 2)) < 0.4
    halves = halved(table_of(on))
    code = np.stack([on[:, 0], ~on[:, 1], np.random.default_rng(1).random(N) < 0.4], axis=1)
    pool = HalvedPool.of("latents", sparse(code.astype(np.float32)), halves)
    pairs, found = matched_correlation(pool, halves, np.arange(3), Resamples.of(halves.second))
    assert sorted(pairs) == [(0, 0), (1, 1)]
    assert found.value == pytest.approx(1)
    assert found.samples == pytest.approx(np.ones(len(found.samples)))
    signed = HalvedPool.of("signed", SignedUnits(np.ascontiguousarray(code.T.astype(np.float32))), halves)
    pairs, found = matched_correlation(signed, halves, np.arange(6), Resamples.of(halves.second))
    assert sorted(pairs) == [(0, 0), (3, 1)]  # the second unit with its sign turned
    assert found.value == pytest.approx(1)


def test_the_exact_directions_score_one(world):
    """Units that are the planted on/off themselves: every metric is 1, and so are the intervals."""
    on = world[2]
    truth = ground_truth({"planted": sparse(on.astype(np.float32))}, halved(table_of(on)))
    for name, mean in figures(truth, "planted")["24"]["pools"]["planted"].items():
        assert mean["mean"] == pytest.approx(1, abs=1e-6), name
        assert mean["low"] == pytest.approx(1, abs=1e-6), name


def test_shuffled_labels_are_chance(world, scored):
    """Whole documents change places, so that only the link between tokens and labels is cut."""
    _, pools, _ = scored
    on = world[2].reshape(-1, PER_DOCUMENT, 24)
    shuffled = on[np.random.default_rng(0).permutation(len(on))].reshape(-1, 24)
    halves = halved(table_of(shuffled))
    told = figures(ground_truth(pools, halves), "latents")
    share = float(halves.second.positives.mean() / len(halves.second))
    for level in told.values():
        for found in level["pools"].values():
            assert found["unit_auroc"]["mean"] == pytest.approx(0.5, abs=0.02)
            assert found["unit_ap"]["mean"] == pytest.approx(share, rel=0.15)
            assert abs(found["mcc"]["mean"]) < 0.03


def hierarchy(absorbing: bool):
    """A parent with two children and tokens of its own. The parent's latent fires on all of its tokens, or
    (absorbing) not on half of those of the first child, whose latent then has the parent's direction too."""
    rng = np.random.default_rng(0)
    kind = rng.choice(4, 6_000, p=[0.7, 0.1, 0.1, 0.1])  # none, first child, second child, parent alone
    on = np.stack([kind > 0, kind == 1, kind == 2], axis=1)
    taken = (kind == 1) & (rng.random(6_000) < 0.5) if absorbing else np.zeros(6_000, bool)
    code = np.stack([on[:, 0] & ~taken, on[:, 1], on[:, 2]], axis=1).astype(np.float32)
    decoder = np.eye(3, 8)
    if absorbing:
        decoder[1] += decoder[0]
    x = on @ np.eye(3, 8) + 0.1 * rng.normal(size=(6_000, 8))
    table = table_of(on, parents=np.array([-1, 0, 0]))
    return table, code, decoder, TensorActivations(torch.tensor(x, dtype=torch.float32)[:, None])


@pytest.mark.parametrize("absorbing", [True, False])
def test_absorption_is_found_where_it_was_planted(absorbing):
    table, code, decoder, activations = hierarchy(absorbing)
    halves = halved(table)
    pool = HalvedPool.of("latents", sparse(code), halves)
    directions = probe_directions(activations, halves.first_rows, halves.first)
    resamples = Resamples.of(halves.second)
    found = absorption(pool, decoder, directions, halves, resamples)
    assert (found.n_parents, found.n_held) == (1, 1)
    shares = {pair.child: pair.share.value for pair in found.pairs}
    assert shares[1] == pytest.approx(0.5 if absorbing else 0, abs=0.08)
    assert shares[2] == 0
    away = decoder.copy()
    away[1] -= 2 * decoder[0]
    turned = absorption(pool, away, directions, halves, resamples)
    assert {pair.share.value for pair in turned.pairs} == {0}


def test_nothing_is_absorbed_where_the_code_points_away_from_the_parent():
    """The child's latent leans to the parent as before, but one that fires everywhere leans away by more."""
    table, code, decoder, activations = hierarchy(True)
    halves = halved(table)
    code = np.column_stack([code, np.ones(len(code), np.float32)])
    decoder = np.vstack([decoder, -5 * np.eye(1, 8)])
    pool = HalvedPool.of("latents", sparse(code), halves)
    directions = probe_directions(activations, halves.first_rows, halves.first)
    found = absorption(pool, decoder, directions, halves, Resamples.of(halves.second))
    assert found.pairs
    assert {pair.share.value for pair in found.pairs} == {0}


@pytest.mark.parametrize("flips", ["a latent", "tokens at random"])
def test_the_sign_of_a_latent_says_nothing_of_its_factor(flips):
    """A latent of two signs is |f|: turned as a whole (its decoder too), or at random tokens, it scores the same.
    What it writes keeps its sign: absorbed is what f·d supplies."""
    table, code, decoder, activations = hierarchy(True)
    signs = np.ones_like(code)
    signs[:, 1] = -1 if flips == "a latent" else np.random.default_rng(3).choice([-1, 1], len(code))
    halves, resamples = halved(table), Resamples.of(halved(table).second)
    directions = probe_directions(activations, halves.first_rows, halves.first)
    turned = decoder * np.array([[1], [-1], [1]])
    one, other = (HalvedPool.of("latents", sparse(c), halves) for c in (code, code * signs))
    for metric in ("auroc", "ap", "f1"):
        np.testing.assert_array_equal(getattr(one.scores, metric), getattr(other.scores, metric))
    np.testing.assert_allclose(one.correlations, other.correlations, atol=1e-12)
    assert [s.latents for s in splits(one, halves, resamples)] == [
        s.latents for s in splits(other, halves, resamples)
    ]
    expected, found = (
        {pair.child: pair.share.value for pair in absorption(pool, d, directions, halves, resamples).pairs}
        for pool, d in ((one, decoder), (other, turned))
    )
    wrong = {
        pair.child: pair.share.value for pair in absorption(other, decoder, directions, halves, resamples).pairs
    }
    assert expected[1] > 0.4
    if flips == "a latent":
        assert found == expected
        assert wrong[1] == 0
    else:
        assert found[1] == pytest.approx(expected[1] / 2, abs=0.05)
    assert (other.second.signed(1).values < 0).any()
    assert (other.second.entries(1).values >= 0).all()


def test_flat_decoder_lays_models_side_by_side():
    assert flat_decoder(torch.arange(12.0).view(2, 2, 3)).tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_splitting_and_composition_are_found_where_they_were_planted():
    """One factor in three latents, one in one; a latent for two factors together."""
    rng = np.random.default_rng(0)
    on = rng.random((6_000, 4)) < 0.25
    part = rng.integers(0, 3, 6_000)
    columns = [on[:, 0] & (part == i) for i in range(3)]
    code = np.stack([*columns, on[:, 1], on[:, 2] & on[:, 3]], axis=1).astype(np.float32)
    halves = halved(table_of(on))
    pool = HalvedPool.of("latents", sparse(code), halves)
    by_factor = {s.factor: s for s in splits(pool, halves, Resamples.of(halves.second))}
    assert sorted(by_factor[0].latents) == [0, 1, 2]
    assert by_factor[0].together.value == pytest.approx(1)
    assert by_factor[0].alone.value == pytest.approx(0.5, abs=0.05)
    assert by_factor[1].latents == (3,)
    composed = {c.latent: c for c in compositions(pool, halves) if c.composed}
    assert set(composed) == {4}
    assert composed[4].factors == (2, 3)
    assert composed[4].pair_f1 == pytest.approx(1)


def test_no_work_is_done_twice(scored, monkeypatch):
    """A conjunction's F1 is that of the whole table; the draws become float64 once; a unit is sorted on the first
    half only where a threshold is chosen there."""
    halves, pools, _ = scored
    pool = HalvedPool.of("latents", pools["latents"], halves)
    together, some = _together(halves.second), np.array([3, 7, 3])
    everything = _pair_f1(pool.second, 2, halves.second, together)
    chosen = _pair_f1(pool.second, 2, halves.second, together, some)
    np.testing.assert_array_equal(chosen, everything[np.ix_(some, some)])
    resamples = Resamples.of(halves.second)
    values = np.random.default_rng(0).random(len(halves.second))
    by_document = np.bincount(resamples.document, values)
    np.testing.assert_array_equal(resamples.sums(values), resamples.drawn @ by_document)
    assert resamples.exactly_drawn is resamples.exactly_drawn
    sorted_, real = [], Descending.of
    monkeypatch.setattr(Descending, "of", lambda entries: sorted_.append(len(entries.tokens)) or real(entries))
    n_tokens = len(halves.first) + len(halves.second)
    noise = np.random.default_rng(1).normal(size=(40, n_tokens)).astype(np.float32)
    pool = HalvedPool.of("noise", SignedUnits(noise), halves)
    among = np.flatnonzero(pool.able)
    list(best_units(pool, halves, among, resamples))
    by_f1 = set(pool.best("f1", among))
    others = set(pool.best("auroc", among)) | set(pool.best("ap", among))
    assert others - by_f1
    assert len(sorted_) == 2 * len(by_f1) + len(others - by_f1)


def test_nothing_to_score_is_a_sentence(labels):
    with pytest.raises(DictionaryError, match="no factor is on"):
        ground_truth({"latents": sparse(np.ones((N, 1)))}, halved(table_of(labels[:, :0])))
    with pytest.raises(DictionaryError, match="no unit of latents"):
        ground_truth({"latents": sparse(np.zeros((N, 1)))}, halved(table_of(labels)))
