"""Circuits that are known because their weights were set by hand: what finders of circuits say of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.benchmarks.hand_set import LENGTH, PLANTED, induction, opened, shuffled_circuit
from tests.benchmarks.modular_sums import (
    P,
    all_answers,
    by_frequency,
    fresh,
    key_frequencies,
    logit_shares,
    of_numbers,
)
from workbench.circuits.acdc import take_out
from workbench.circuits.attribution import edge_scores
from workbench.circuits.circuit import GREEDY, TOP, chosen
from workbench.circuits.competence import competence
from workbench.circuits.edge_patching import exact_scores
from workbench.circuits.faithfulness import circuit_scores, ends, faithfulness
from workbench.circuits.graph import alive
from workbench.circuits.study import find

KINDS = {
    "induction": ("another continuation", "swapped", "another sequence and place"),
    "lookup": ("another key", "another key elsewhere"),
}
CASES = [(name, kind) for name, kinds in KINDS.items() for kind in kinds]
SMALL = 0.05  # of the effect: more than any edge that was not planted is worth


@pytest.fixture(scope="module")
def planted():
    made = {name: make(seed=3, n_layers=2) for name, make in PLANTED.items()}
    return {name: (each, opened(each.model)) for name, each in made.items()}


@pytest.fixture(scope="module")
def exact(planted):
    """The effect of every edge as a share of m(M) − m(∅), by case."""
    found = {}
    for name, kind in CASES:
        made, model = planted[name]
        pairs = made.pairs(kind, 4)
        between = ends(model, pairs)
        found[name, kind] = exact_scores(model, pairs).mean / (between.full - between.none).mean()
    return found


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_truth_is_one(planted, name, kind):
    """The model does the task, the planted edges alone do it too, and no part of them does."""
    made, model = planted[name]
    pairs, true = made.pairs(kind, 16, seed=1), made.true(kind, model.graph)
    assert competence(made.model, pairs).told_apart.value == 1
    assert model.residual(pairs) < 1e-5
    assert (alive(model.graph, true) == true).all()
    at = np.argwhere(true)
    kept = np.array(list(itertools.product([True, False], repeat=len(at))))  # every part, all of them first
    circuits = np.zeros((len(kept), *true.shape), dtype=bool)
    circuits[:, at[:, 0], at[:, 1]] = kept
    between = ends(model, pairs)
    f = [faithfulness(m, between).f for m in circuit_scores(model, pairs, circuits)]
    assert abs(1 - f[0]) < SMALL
    assert max(f[1:]) < 0.6


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_exact_patching_and_eap_ig_find_all_that_was_planted_and_nothing_else(planted, exact, name, kind):
    """Precision and recall are 1 at the true size: each planted edge takes nearly half of what is done or more, and
    no other takes anything to speak of."""
    made, model = planted[name]
    true, worth = made.true(kind, model.graph), exact[name, kind]
    for scores in (worth, edge_scores(model, made.pairs(kind, 4), n_steps=5).mean):
        for how in (TOP, GREEDY):
            assert (chosen(model.graph, scores, int(true.sum()), how) == true).all()
    assert worth[true].max() < -0.4
    assert np.abs(worth[~true]).max() < SMALL


def test_the_gradient_at_the_clean_prompt_misses_where_attention_is_sure(planted, exact):
    """EAP's blind spot: a softmax that is all but one has next to no slope, so what is matched looks a tenth of
    what it is or less; gradients on the way from the corrupt prompt see it [Hanna 2024]."""
    made, model = planted["induction"]
    pairs, worth = made.pairs("swapped", 4), exact["induction", "swapped"]
    at = model.graph.named(*next(e for e in made.edges["swapped"] if e.receiver.endswith("<k>")))
    between = ends(model, pairs)
    eap, ig = (
        edge_scores(model, pairs, n_steps=n).mean[at] / (between.full - between.none).mean() for n in (1, 20)
    )
    assert abs(eap) < 0.15 * abs(worth[at])
    assert ig == pytest.approx(worth[at], abs=0.1)


@pytest.mark.parametrize("name", PLANTED)
def test_the_workbench_s_own_choice_holds_all_that_was_planted(planted, name):
    """`find` does not know how many edges there are; ACDC does not either. Shuffled scores find next to nothing."""
    made, model = planted[name]
    kind = KINDS[name][-1]
    pairs, true = made.pairs(kind, 4), made.true(kind, model.graph)
    found = find(model, "planted", pairs)
    assert found.faithful
    assert found.circuit.edges[true].all()
    assert found.circuit.n_edges <= 2 * true.sum()
    pruned = take_out(model, pairs, tau=0.1).edges
    assert (pruned == true).all()
    null = shuffled_circuit(model.graph, found.scores.mean, int(true.sum()), np.random.default_rng(0))
    assert null[true].mean() < 0.5


def test_pairs_with_another_continuation_do_not_show_the_head_that_looks_back(planted, exact):
    """A circuit is of what pairs differ in: what head P tells of the place that is found is the same in both."""
    made, model = planted["induction"]
    worth = exact["induction", "another continuation"]
    for edge in set(made.edges["another sequence and place"]) - set(made.edges["another continuation"]):
        assert abs(worth[model.graph.named(*edge)]) < SMALL


def test_places_and_noise_are_the_seed_s():
    one, same, other = induction(0), induction(0), induction(1)
    weights = [torch.nn.utils.parameters_to_vector(each.model.parameters()) for each in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert one.edges == same.edges != other.edges
    assert PLANTED["lookup"](0).pairs("another key", 3).clean.shape == (3, LENGTH)


def test_a_model_that_is_its_formula_is_explained_by_it():
    """Embeddings of two frequencies have these; logits that are cos(w(a + b − c)) are explained by w, and by none
    other. Before training neither is so."""
    n, waves = np.arange(P)[:, None], 2 * np.pi * np.array([3, 7]) / P
    shares = by_frequency(np.concatenate([np.cos(waves * n), np.sin(waves * n)], axis=1))
    assert shares[[2, 6]].sum() == pytest.approx(1)
    assert key_frequencies(shares) == [3, 7]
    model = fresh(0)
    assert logit_shares(all_answers(model)).sum() < 0.01
    assert len(key_frequencies(by_frequency(of_numbers(model)))) > 8
    a, b, c = np.ogrid[:P, :P, :P]
    found = logit_shares(np.cos(waves[0] * (a + b - c)) + 2.0 * np.cos(waves[1] * (a + b - c)) + a * b)
    assert found[[2, 6]] == pytest.approx(
        [0.2, 0.8]
    )  # squares of the amplitudes; what is the same for all c is no answer
    assert found.sum() == pytest.approx(1)
    assert logit_shares(np.cos(waves[0] * (a - b - c))).sum() < 1e-9
