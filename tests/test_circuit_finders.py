"""Finders of a circuit's edges: what ACDC's scores are, how nearly estimates agree with exact patches, and both in
a lab.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr, spearmanr

from pages.components import circuit_check
from tests.command_line import assert_one_sentence, run
from tests.random_pairs import pairs
from tests.test_circuit_edges import circuit_model
from tests.test_circuit_pages import BY_ACDC, DONE, NAMES, UNDONE, circuit_lab
from tests.test_pages import errors, opened, sentences
from workbench.circuit_config import ACDC, EXACT, CircuitConfig
from workbench.circuits import circuit_requests
from workbench.circuits.acdc import TAU, take_out
from workbench.circuits.agreement import FOREMOST, MEASURES, PEARSON, SPEARMAN, agreement
from workbench.circuits.attribution import edge_scores
from workbench.circuits.circuit_history import CircuitHistory, how_to_ask
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.circuit_requests import request_circuit
from workbench.circuits.edge_patching import exact_scores, refuse_many
from workbench.circuits.faithfulness import circuit_scores, ends
from workbench.circuits.finders import Finder
from workbench.circuits.found_checks import CircuitCheck
from workbench.circuits.found_circuits import FoundCircuits
from workbench.circuits.one_edge import taken_out
from workbench.circuits.study import find, judge
from workbench.errors import Failure, Misuse
from workbench.lab import Lab
from workbench.plan import Plan, check_name
from workbench.recipe import read_recipe

KEYS_BEFORE = {
    "name", "task", "checkpoints", "beside", "other", "n_pairs", "n_steps", "seed", "source", "source_sha256",
}  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> CircuitModel:
    return circuit_model(tmp_path_factory.mktemp("llama"), n_layers=2)


@pytest.fixture(scope="module")
def lab() -> Lab:
    return circuit_lab()


@pytest.mark.parametrize("tau", [0.0, 0.02, 0.2])
def test_scores_of_edges_taken_out_add_up_to_what_the_circuit_lost(llama: CircuitModel, tau: float) -> None:
    """Pair by pair, since every trial begins where the last accepted one ended; what stays costs more than τ."""
    p = pairs(3, seed=3)
    left, between = take_out(llama, p, tau), ends(llama, p)
    m = circuit_scores(llama, p, left.edges[None])[0]
    lost = left.scores.by_pair[:, ~left.edges].sum(axis=1)
    np.testing.assert_allclose(lost, m - between.full, atol=1e-4)
    whole = (between.full - between.none).mean()
    assert (-left.scores.mean[left.edges] / whole > tau).all()
    assert (-left.scores.mean[~left.edges] / whole <= tau + 1e-6).all()
    assert not left.scores.by_pair[:, ~llama.graph.edges].any()
    assert np.array_equal(take_out(llama, p, tau).edges, left.edges)


def test_the_first_edge_tried_is_patched_in_the_whole_model(llama: CircuitModel) -> None:
    """So its score is its exact effect: the last writer into the logits."""
    p = pairs(3, seed=3)
    at = llama.graph.named(llama.graph.senders[-1], "logits")
    assert take_out(llama, p).scores.mean[at] == pytest.approx(exact_scores(llama, p).mean[at], abs=1e-4)


def test_a_finder_gives_what_it_is_called_after(llama: CircuitModel) -> None:
    p = pairs(2)
    for name, expected in (("eap-ig", edge_scores(llama, p, 3)), (EXACT, exact_scores(llama, p))):
        scores, edges = Finder(name, 3).look(llama, p)
        np.testing.assert_array_equal(scores.by_pair, expected.by_pair)
        assert scores.method == expected.method
        assert edges is None
    runs: list[int] = []
    scores, edges = Finder(ACDC, tau=0.05).look(llama, p, runs.append)
    assert np.array_equal(edges, take_out(llama, p, 0.05).edges)
    assert scores.method == "ACDC, τ 0.05"
    assert 0 < sum(runs) <= llama.graph.n_edges * len(p)
    with pytest.raises(Misuse, match="did you mean 'exact'"):
        Finder("exat")


def test_acdc_may_leave_nothing_of_a_checkpoint_that_does_not_do_the_task(llama: CircuitModel) -> None:
    """Such a one stops no other's circuit; one that does the task is told how to go on."""
    all_out = Finder(ACDC, tau=1e9)
    found = find(llama, "base", pairs(3), finder=all_out, does_it=False)
    assert found.circuit.n_edges == 0
    assert not found.faithful
    judged = judge(llama, "base", {"base": found}, pairs(2, seed=1), n_random=2)
    assert judged.measured(judged.own).f == pytest.approx(0, abs=1e-4)
    with pytest.raises(Failure, match=r"takes every edge of base out .* lower --tau"):
        find(llama, "base", pairs(3), finder=all_out)


def test_circuits_of_before_there_was_a_choice_keep_their_ids() -> None:
    """The keys that ids were made of then; another finder's are others."""
    config = CircuitConfig("capitals-base", "capitals", ("base",))
    assert set(config.settings()) == KEYS_BEFORE
    assert set(dataclasses.replace(config, finder=EXACT).settings()) == KEYS_BEFORE | {"finder"}
    by_acdc = dataclasses.replace(config, finder=ACDC, tau=0.02).settings()
    assert set(by_acdc) == KEYS_BEFORE | {"finder", "tau"}
    assert Finder.of(config.settings()) == Finder(tau=0.0)
    assert Finder.of(by_acdc) == Finder(ACDC, tau=0.02)
    assert "--finder acdc --tau 0.02 --check" in how_to_ask("demo", by_acdc, "--check")


def test_agreement_of_scores_with_themselves_is_perfect_at_any_scale() -> None:
    exact = np.random.default_rng(0).normal(size=(6, 40))
    for scale, sign in ((1, 1), (7, 1), (-2, -1)):
        found = agreement(scale * exact, exact)
        for measure, ends_at in ((PEARSON, sign), (SPEARMAN, sign), (FOREMOST, 1)):
            assert tuple(found[measure]) == pytest.approx((ends_at,) * 3)


def test_agreement_is_that_of_scipy_and_the_overlap_is_counted() -> None:
    """20 edges, so that the foremost tenth is of two; by hand the estimates share one of them."""
    draw = np.random.default_rng(1)
    exact, estimate = (draw.normal(size=(5, 20)) / 10 for _ in range(2))
    exact[:, [3, 7]] += [4, -5]
    estimate[:, [7, 9]] += [-5, 4]
    found, means = agreement(estimate, exact), (estimate.mean(axis=0), exact.mean(axis=0))
    assert found[PEARSON].value == pytest.approx(pearsonr(*means).statistic)
    assert found[SPEARMAN].value == pytest.approx(spearmanr(*means).statistic)
    assert tuple(found[FOREMOST]) == (0.5, 0.5, 0.5)
    assert found[PEARSON].low < found[PEARSON].value < found[PEARSON].high
    one = agreement(estimate[:1], exact[:1])
    assert all(np.isnan([one[measure].low, one[measure].high]).all() for measure in MEASURES)
    assert np.isnan(agreement(0 * estimate, exact)[PEARSON].value)


def test_a_check_holds_every_edge_s_effect_beside_its_estimates(lab: Lab) -> None:
    """An effect is what the Graph view finds without the edge; EAP-IG's are the scores of the circuit."""
    check, found = CircuitCheck.of(lab, DONE), FoundCircuits.of(lab, DONE)
    rows = check.table("scores")
    assert check.checkpoints == found.able == list(NAMES)
    assert len(rows) == len(NAMES) * found.graph.n_edges
    assert (rows["low"] <= rows["exact"]).all()
    assert (rows["exact"] <= rows["high"]).all()
    for name in NAMES:
        own = found.table("edges").filter(checkpoint=name)
        beside = rows.filter(checkpoint=name).join(own, on=["sender", "receiver"], suffix="_own")
        np.testing.assert_allclose(beside["eap_ig"], beside["score"], atol=1e-5)
    model, circuit = CircuitModel(lab.checkpoint("sft").bridge()), found.circuit("sft")
    sender, receiver, _ = circuit.named_edges()[0]
    alone = taken_out(model, found.pairs(lab), circuit, sender, receiver).alone
    exact = rows.filter(checkpoint="sft", sender=sender, receiver=receiver)["exact"].item()
    assert exact == pytest.approx(alone.value, abs=1e-4)
    agreed = check.table("agreement")
    assert len(agreed) == len(NAMES) * 2 * len(MEASURES)
    assert set(agreed["n_edges"]) == {found.graph.n_edges}
    own = agreed.filter(checkpoint="sft", method="EAP", measure=PEARSON)["value"].item()
    some = rows.filter(checkpoint="sft")
    assert own == pytest.approx(pearsonr(some["eap"], some["exact"]).statistic, abs=1e-6)
    assert any(text.startswith("sft: EAP-IG 5 beside") for text in check.sentences())


def test_no_edge_is_patched_where_no_checkpoint_does_the_task(lab: Lab) -> None:
    check = CircuitCheck.of(lab, UNDONE)
    assert check.table("scores").is_empty()
    assert check.sentences() == ["No checkpoint does the task, so no edge was patched for itself"]


def test_what_was_not_checked_says_how(lab: Lab) -> None:
    with pytest.raises(Misuse, match=rf"{BY_ACDC!r} are what each.*--finder acdc --tau {TAU} --check`"):
        CircuitCheck.of(lab, BY_ACDC)


def test_a_script_has_the_nulls_beside_the_claim_and_the_way_along_the_snapshots(lab: Lab) -> None:
    found, history = FoundCircuits.of(lab, DONE), CircuitHistory.of(lab, DONE)
    told = found.told()
    assert {row["kind"] for row in told["controls"]} >= {"random"}
    assert {row["checkpoint"] for row in told["competence"]} == set(NAMES)
    assert f"{found.n_search} pairs found it" in found.describe()
    said = history.told()["sentences"]
    assert said == [*history.sentences(), *history.figures["sentences"]]
    assert any(text.startswith("copying in context") for text in said)


def test_a_circuit_by_acdc_is_what_acdc_leaves(lab: Lab) -> None:
    found = FoundCircuits.of(lab, BY_ACDC)
    assert found.finder == ACDC
    assert found.figures["method"] == f"ACDC, τ {TAU}"
    model, p = CircuitModel(lab.checkpoint("sft").bridge()), found.pairs(lab)
    assert np.array_equal(found.circuit("sft").edges, take_out(model, p).edges)
    other = found.table("controls").filter(kind="other task")
    sizes = {name: found.circuit(name).n_edges for name in NAMES}
    for name, size in other.select("checkpoint", "n_edges").rows():
        assert sizes[name] <= size <= sizes[name] + 3  # an edge may bring some with it
    with pytest.raises(Misuse, match="was found by acdc: along the snapshots only circuits that eap-ig"):
        CircuitHistory.of(lab, BY_ACDC)
    assert FoundCircuits.of(lab, DONE).finder == "eap-ig"
    steps = Plan.of(lab).steps
    assert steps[f"circuit/{BY_ACDC}"].id != steps[f"circuit/{DONE}"].id


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--finder", "exat"), ("finder 'exat'", "did you mean 'exact'")),
        (("--tau", "0.1"), ("the finder is eap-ig", "--finder acdc")),
        (("--finder", "acdc", "--tau", "1"), ("--tau is 1", "from 0 to below 1")),
        (("--finder", "exact", "--snapshots"), ("--snapshots", "leave --finder out")),
    ],
)
def test_what_does_not_go_together_is_refused(
    lab: Lab, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    before = read_recipe(lab.path / "recipe.toml")
    asked = ("circuit", lab.name, "--task", "previous_token", "--checkpoints", "base", "--pairs", "8")
    assert_one_sentence(run(lab.path.parent, *asked, *arguments), 2, *words)
    assert read_recipe(lab.path / "recipe.toml") == before


def test_a_graph_too_large_is_refused_before_it_is_entered(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count is told and EAP-IG offered."""
    monkeypatch.setattr(circuit_requests, "refuse_many", functools.partial(refuse_many, most_edges=5))
    before = read_recipe(lab.path / "recipe.toml")
    n = FoundCircuits.of(lab, DONE).graph.n_edges
    for more in ({"finder": EXACT}, {"finder": ACDC}, {"check": True}):
        with pytest.raises(Misuse, match=rf"has {n} edges, and patching each.*EAP-IG estimates"):
            request_circuit(lab, "previous_token", ["base"], 8, **more)
    assert read_recipe(lab.path / "recipe.toml") == before


def test_a_check_asked_for_in_the_shell_is_told_with_the_circuit(lab: Lab) -> None:
    """What is there is not made again."""
    source = read_recipe(lab.path / "recipe.toml").circuit(DONE).source
    assert Path(source).is_file()
    folder = lab.find("circuit", check_name(DONE)).path
    before = folder.stat().st_mtime_ns
    asked = (
        "circuit",
        lab.name,
        "--task",
        source,
        "--checkpoints",
        ",".join(NAMES),
        "--pairs",
        "12",
        "--check",
    )
    told = json.loads(run(lab.path.parent, *asked, "--json").stdout)
    assert {row["measure"] for row in told["check"]["agreement"]} == set(MEASURES)
    assert "beside" in run(lab.path.parent, *asked).stdout.splitlines()[-1]
    assert folder.stat().st_mtime_ns == before


def test_exact_scores_are_stored_with_their_sign(lab: Lab) -> None:
    """A circuit found exactly has the check's effects for scores."""
    rows = CircuitCheck.of(lab, DONE).table("scores").filter(checkpoint="base")
    found = FoundCircuits.of(lab, DONE)
    scores, _ = Finder(EXACT).look(CircuitModel(lab.checkpoint("base").bridge()), found.pairs(lab))
    by_name = rows.select(pl.format("{}->{}", "sender", "receiver"), "exact").rows()
    graph = found.graph
    for name, effect in by_name:
        assert scores.mean[graph.named(*name.split("->"))] == pytest.approx(effect, abs=1e-4)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> Lab:
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    return lab


@pytest.mark.parametrize("share", ["the circuit", "10 %"])
def test_the_graph_view_draws_what_acdc_leaves(shown: Lab, share: str) -> None:
    """It stands on no step of the ladder, so the slider's first place is the circuit itself."""
    found = FoundCircuits.of(shown, BY_ACDC)
    n = found.circuit("sft").n_edges
    app = opened("circuits", circuit=BY_ACDC, view="Graph", checkpoint="sft", share=share)
    assert not app.exception
    assert errors(app) == []
    drawn = n if share == "the circuit" else found.at_share("sft", 0.1).n_edges
    assert any(f">{drawn} of {found.graph.n_edges} edges do" in text for text in sentences(app))


def test_a_circuit_by_another_finder_is_not_followed_and_says_so_on_its_page(shown: Lab) -> None:
    app = opened("circuits", circuit=BY_ACDC, view="Snapshots")
    assert not app.exception
    assert any("was found by acdc" in text for text in sentences(app))
    app = opened("circuits", circuit=BY_ACDC, view="Curve")
    assert not app.exception
    assert any("has not been measured" in text and "--check" in text for text in sentences(app))


def test_an_edge_in_the_address_is_chosen_among_the_dots(shown: Lab) -> None:
    sender, receiver, _ = FoundCircuits.of(shown, DONE).circuit("sft").named_edges()[0]
    asked = {"circuit": DONE, "view": "Curve", "checkpoint": "sft", "estimate": "EAP"}
    app = opened("circuits", **asked, at=f"{sender}->{receiver}")
    assert not app.exception
    assert errors(app) == []
    said = sentences(app)
    assert any("with this edge alone corrupt m changes by" in text for text in said)
    agreed = (
        CircuitCheck.of(shown, DONE).table("agreement").filter(checkpoint="sft", method="EAP", measure=PEARSON)
    )
    assert any(f"{agreed['value'].item():.2f} [" in text for text in said)
    app = opened("circuits", **asked, at="nowhere")
    assert any("nowhere" in text for text in errors(app))
    app = opened("circuits", circuit=UNDONE, view="Curve")
    assert any("its edges were not patched one by one" in text for text in sentences(app))


def test_every_edge_is_a_dot_at_its_effect_and_its_estimate(lab: Lab) -> None:
    found, rows = FoundCircuits.of(lab, DONE), CircuitCheck.of(lab, DONE).table("scores")
    inside = found.table("edges").select("checkpoint", "sender", "receiver", "in_circuit")
    edges = rows.join(inside, on=["checkpoint", "sender", "receiver"]).filter(checkpoint="sft")
    edges = edges.with_columns(edge=pl.format("{}->{}", "sender", "receiver"))
    drawn = {}
    for trace in circuit_check.dots(edges, "eap", "EAP", "sft").data[1:]:
        drawn |= {data[0]: (x, y) for data, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)}
    assert drawn == {edge: (x, y) for edge, x, y in edges.select("edge", "exact", "eap").rows()}
