"""Probe transfer: planted truths (a rotation, a copy, a control), one case by hand, and a lab's own part."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from pages.components import probes as drawn
from saes.factors import FactorTable
from saes.resampling import Resamples
from tests.test_pages import errors, opened, sentences
from workbench.comparison_account import account
from workbench.lab import Lab
from workbench.linear_probes import (
    LEAST_SHARE,
    PENALTIES,
    Probe,
    accuracy,
    auroc,
    control_labels,
    deal,
    fit_probe,
    frequent,
    ranked,
)
from workbench.part_tables import write_part
from workbench.probe_transfer import CONTROL, FACTOR, MEAN, TRANSFER, ProbeTransfer
from workbench.probe_transfer_build import Read, _tasks, measure
from workbench.tokens import token_set

NAME = "base-sft-grpo"
N, D, DOCUMENTS = 6_000, 24, 300


class Planted:
    """Two factors written along two directions of noise, in one basis and in another."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.document = np.repeat(np.arange(DOCUMENTS), N // DOCUMENTS)
        self.on = rng.random((N, 2)) < (0.3, 0.1)
        self.x = rng.normal(size=(N, D))
        self.x[:, :2] += 3 * self.on
        self.ids = rng.integers(0, 90, N)
        self.turn, _ = np.linalg.qr(rng.normal(size=(D, D)))
        tokens, factors = np.nonzero(self.on)
        self.table = FactorTable.of(tokens, factors, self.document, ("a", "b"))
        self.dealt = deal(self.document, (2_000, 1_000, 2_000))

    def measured(self, **activations: np.ndarray) -> tuple[pl.DataFrame, pl.DataFrame]:
        tasks = [t for f, name in enumerate("ab") for t in _tasks(name, self.on[:, f], self.ids, f)]
        read = {name: Read(*(x[part] for part in self.dealt)) for name, x in activations.items()}
        return measure(read, tasks, self.dealt, Resamples.of(self.table.on(self.dealt.score)))


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


def figures(table: pl.DataFrame, **of: str) -> dict[str, float]:
    (row,) = table.filter(task=FACTOR, **of).to_dicts()
    return row


def swapped(x: np.ndarray) -> np.ndarray:
    """A rotation that moves the written directions to where nothing was written."""
    return np.roll(x, D // 2, axis=1)


def test_rotated_activations_lose_the_probe_and_keep_the_factor(planted: Planted) -> None:
    table, _ = planted.measured(i=planted.x, j=swapped(planted.x))
    for factor in "ab":
        own = figures(table, fitted="j", scored="j", factor=factor)
        moved = figures(table, fitted="i", scored="j", factor=factor)
        assert own["auroc"] > 0.95
        assert moved["auroc"] == pytest.approx(0.5, abs=0.06)
        assert moved["loss"] == pytest.approx(moved["auroc"] - own["auroc"], abs=1e-12)
        assert moved["loss_high"] < -0.3
        assert moved["ap"] < own["ap"] / 2


def test_identical_activations_transfer_exactly(planted: Planted) -> None:
    table, _ = planted.measured(i=planted.x, j=planted.x.copy())
    for row in table.filter(pl.col("fitted") != pl.col("scored")).iter_rows(named=True):
        own = table.filter(fitted=row["scored"], scored=row["scored"], factor=row["factor"], task=row["task"])
        assert row["auroc"] == own["auroc"].item()
        assert (row["loss"], row["loss_low"], row["loss_high"]) == (0, 0, 0)


def test_a_rotation_changes_nothing_of_each_one_s_own(planted: Planted) -> None:
    """A probe that is fitted anew reads a turned factor as well; scaling by coordinate leaves a little between."""
    table, _ = planted.measured(i=planted.x, j=planted.x @ planted.turn)
    for factor in "ab":
        own = [figures(table, fitted=m, scored=m, factor=factor)["auroc"] for m in "ij"]
        assert own[0] == pytest.approx(own[1], abs=0.01)


def test_control_tasks_are_told_by_the_word_alone(planted: Planted) -> None:
    """Noise that knows no word cannot learn a control; a coordinate for each word learns it by heart."""
    blind, _ = planted.measured(i=planted.x)
    control = blind.filter(task=CONTROL, factor=MEAN)["auroc"].item()
    assert control == pytest.approx(0.5, abs=0.05)
    knows = np.concatenate([planted.x, np.eye(90)[planted.ids]], axis=1)
    table, own = planted.measured(i=knows)
    assert table.filter(task=CONTROL, factor=MEAN)["auroc"].item() > 0.99
    (row,) = own.filter(factor=MEAN).to_dicts()
    assert row["control"] > 0.95
    assert row["selectivity"] == pytest.approx(row["accuracy"] - row["control"])
    assert row["selectivity_high"] < 0


def test_labels_of_a_control_are_whole_words() -> None:
    ids = np.array([5, 5, 5, 7, 7, 9, 2, 2, 2, 2])
    for seed in range(20):
        labels = control_labels(ids, 5, seed)
        assert 0 < labels.sum() <= 5
        for word in np.unique(ids):
            assert len(set(labels[ids == word])) == 1
    assert not control_labels(ids, 0, 0).any()
    assert len({control_labels(ids, 5, seed).tobytes() for seed in range(20)}) > 1


def test_sets_share_no_document_and_rare_factors_are_left_out(planted: Planted) -> None:
    sets = [set(planted.document[part]) for part in planted.dealt]
    assert [len(part) for part in planted.dealt] == [2_000, 1_000, 2_000]
    assert sum(len(each) for each in sets) == len(set.union(*sets))
    rare = np.zeros(N, bool)
    rare[: int(LEAST_SHARE * N) - 5] = True
    on = np.column_stack([planted.on, rare, ~planted.on[:, 0], planted.on[:, 1]])
    table = FactorTable.of(*np.nonzero(on), planted.document, ("a", "b", "rare", "most", "b again"))
    assert [table.names[f] for f in frequent(table, planted.dealt)] == ["a", "b again"]
    assert [table.names[f] for f in frequent(table, planted.dealt, most=1)] == ["a"]


def test_figures_are_scikit_learn_s(planted: Planted) -> None:
    fit, choose, score = planted.dealt
    on = planted.on[:, 1]
    probe = fit_probe(planted.x[fit], on[fit], planted.x[choose], on[choose])
    odds = probe.odds(planted.x[score])
    resamples = Resamples.of(planted.table.on(score))
    found = ranked(resamples, odds, on[score])
    assert found["auroc"].value == pytest.approx(roc_auc_score(on[score], odds))
    assert auroc(odds, on[score]) == pytest.approx(roc_auc_score(on[score], odds))
    assert found["ap"].value == pytest.approx(average_precision_score(on[score], odds))
    told = accuracy(resamples, probe, planted.x[score], on[score])
    assert told.value == pytest.approx(balanced_accuracy_score(on[score], odds >= probe.told))
    assert probe.penalty in PENALTIES
    assert np.log(on[fit].mean() / (1 - on[fit].mean())) == pytest.approx(probe.told)


def test_four_tokens_by_hand() -> None:
    """Odds 2, 1, 0, −1 with the factor on in the first and third: of four pairs three are in order, AUROC ¾; AP is
    (1/1 + 2/3)/2; told above 0.5 are two, one of them right: accuracy ½."""
    table = FactorTable.of(np.array([0, 2]), np.array([0, 0]), np.arange(4), ("a",))
    on = table.column(0)
    x = np.array([[2.0], [1.0], [0.0], [-1.0]])
    found = ranked(Resamples.of(table), x[:, 0], on)
    assert found["auroc"].value == pytest.approx(3 / 4)
    assert found["ap"].value == pytest.approx((1 + 2 / 3) / 2)
    told = accuracy(Resamples.of(table), Probe(np.ones(1), 0.0, 0.5, 1.0), x, on)
    assert told.value == pytest.approx(1 / 2)


def test_a_lab_s_matrix_is_whole(lab: Lab) -> None:
    found = ProbeTransfer.of(lab, NAME)
    names, factors = found.figures["checkpoints"], found.figures["factors"]
    assert names == ["base", "sft", "grpo"]
    assert found.known
    assert set(factors) <= set(token_set(lab, "base").factor_names)
    assert found.transfer.filter(task=FACTOR).height == len(names) ** 2 * (len(factors) + 1)
    for row in found.transfer.iter_rows(named=True):
        assert row["auroc_low"] - 1e-9 <= row["auroc"] <= row["auroc_high"] + 1e-9 or row["factor"] != MEAN
        assert row["fitted"] != row["scored"] or row["gap"] == 0
    rows = found.transfer.filter(pl.col("factor") != MEAN, task=FACTOR, fitted="base", scored="grpo")
    (mean,) = found.means.filter(fitted="base", scored="grpo").to_dicts()
    assert mean["auroc"] == pytest.approx(rows["auroc"].mean())
    assert mean["gap"] == pytest.approx(rows["gap"].mean())


def test_the_gap_is_below_zero_by_what_is_lost(lab: Lab) -> None:
    found = ProbeTransfer.of(lab, NAME)
    for row in found.means.iter_rows(named=True):
        own = found.means.filter(fitted=row["scored"], scored=row["scored"])["auroc"].item()
        assert row["gap"] == pytest.approx(row["auroc"] - own)


def test_a_factor_is_below_its_control_where_the_intervals_part(lab: Lab, tmp_path) -> None:
    """Three factors: one told better than words at random, one worse, one too close to call."""
    whole = ProbeTransfer.of(lab, NAME)
    own = whole.transfer.filter(pl.col("factor") != MEAN, fitted="sft", scored="sft")
    row = own.rename({f"gap{end}": f"loss{end}" for end in ("", "_low", "_high")}).row(0, named=True)
    rows = []
    for factor, value in (("better", 0.9), ("worse", 0.6), ("close", 0.79)):
        for task, at in ((FACTOR, value), (CONTROL, 0.8)):
            ends = {"auroc": at, "auroc_low": at - 0.02, "auroc_high": at + 0.02}
            rows.append(row | ends | {"factor": factor, "task": task})
    write_part(tmp_path, "transfer", pl.DataFrame(rows, schema=TRANSFER))
    assert ProbeTransfer(NAME, whole.figures, tmp_path).below_control("sft") == ["worse"]


def test_the_account_says_it(lab: Lab) -> None:
    told = account(lab, NAME)
    figures = json.loads(json.dumps(told.figures))["probe_transfer"]
    assert len(figures["transfer"]) == 9
    assert len(figures["selectivity"]) == 3
    assert f"probes of {len(figures['factors'])} factors fitted on base: AUROC on sft" in told.describe()
    assert "transfer gap" in told.describe()


def test_the_view_shows_the_pair_of_the_address(lab: Lab) -> None:
    app = opened("drift", view="Probes", probes="grpo → base")
    assert not app.exception
    assert errors(app) == []
    assert app.selectbox(key="probes").value == "grpo → base"
    assert any("AUROC on base, 95 % intervals over documents" in text for text in sentences(app))
    found = ProbeTransfer.of(lab, NAME)
    table = found.of_pair("grpo", "base")
    assert sum(len(trace.x) for trace in drawn.factors(table, "base").data) == table.height
    cells = drawn.matrix(found.means, found.figures["checkpoints"]).data[0].z
    assert [list(row) for row in cells] == [
        [found.means.filter(fitted=i, scored=j)["auroc"].item() for j in found.figures["checkpoints"]]
        for i in found.figures["checkpoints"]
    ]


def test_no_factor_is_said(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ProbeTransfer.of(lab, NAME)
    monkeypatch.setattr(
        ProbeTransfer, "of", lambda *_: ProbeTransfer(NAME, {**found.figures, "factors": []}, found.path)
    )
    assert ProbeTransfer.of(lab, NAME).sentences("base", "sft") == [
        "probes: no labelled factor is frequent enough to fit one"
    ]
