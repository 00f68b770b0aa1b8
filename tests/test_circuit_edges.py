"""Edges of a model: what is written and read, attribution and patching, circuits and what they are held against."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.random_pairs import pairs
from tests.tiny_models import save_tiny
from workbench.circuits.acdc import take_out
from workbench.circuits.across import REUSED, REWEIGHTED, REWIRED, UNDETERMINED, Evidence, gap, verdict
from workbench.circuits.attribution import EdgeScores, edge_scores
from workbench.circuits.circuit import GREEDY, HELPING, TOP, Circuit, chosen, sized, smallest_faithful
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.edge_patching import exact_scores
from workbench.circuits.faithfulness import (
    Ends,
    Measured,
    circuit_scores,
    cmd,
    cpr,
    ends,
    faithfulness,
    ladder,
)
from workbench.circuits.graph import Graph, alive, nodes_of
from workbench.circuits.overlap import Overlap, floor, jaccard, overlap, redrawn, weighted_jaccard
from workbench.circuits.pairs import Pairs
from workbench.circuits.random_circuits import random_circuit, shuffled_heads
from workbench.errors import Failure, Misuse
from workbench.loading import load_model, load_tokenizer

FAMILIES = ("llama", "gpt2", "gpt_neox", "qwen3")
GRAPHS = {"plain": Graph(2, 3, 3), "grouped": Graph(2, 4, 2), "parallel": Graph(3, 2, 2, parallel=True)}


def circuit_model(folder, family="llama", **shape):
    from transformer_lens.model_bridge import TransformerBridge

    save_tiny(folder, family, **shape)
    model, tokenizer = load_model(folder, "cpu"), load_tokenizer(folder)
    return CircuitModel(TransformerBridge.boot_transformers(str(folder), hf_model=model, tokenizer=tokenizer))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    return circuit_model(tmp_path_factory.mktemp(request.param), request.param, n_layers=2)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return circuit_model(tmp_path_factory.mktemp("llama"), n_layers=2)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graph_has_every_edge_of_a_decoder(name):
    """Counted by hand: a layer's reads have 1 + l (heads + 1) writers before them, its MLP its heads too."""
    graph = GRAPHS[name]
    before = [1 + layer * (graph.n_heads + 1) for layer in range(graph.n_layers + 1)]
    reads = graph.n_heads + 2 * graph.n_kv_heads
    beside = 0 if graph.parallel else graph.n_heads
    by_hand = sum(n * reads + n + beside for n in before[:-1]) + before[-1]
    assert graph.n_edges == by_hand
    assert len({r.name for r in graph.receivers}) == len(graph.receivers) == graph.edges.shape[1]
    assert (graph.feeds.sum(axis=0)[:-1] >= 1).all()  # every reader is some component's
    assert not (graph.feeds & graph.edges).any()  # and comes before what that component writes
    assert (alive(graph, graph.edges) == graph.edges).all()


def test_four_layers_of_four_heads_have_479_edges():
    assert Graph(4, 4, 4).n_edges == 479


def test_dead_ends_are_pruned():
    """embed -> a0.h0<v>, a0.h0 -> m1, m1 -> logits is a way; an edge into a head that is not read is none."""
    graph = GRAPHS["plain"]
    edges = np.zeros(graph.edges.shape, dtype=bool)
    way = [("embed", "a0.h0<v>"), ("a0.h0", "m1"), ("m1", "logits")]
    for edge in [*way, ("embed", "a0.h1<v>"), ("a0.h2", "a1.h2<q>")]:
        edges[graph.named(*edge)] = True
    left = alive(graph, edges)
    assert left.sum() == len(way)
    assert all(left[graph.named(*edge)] for edge in way)
    assert nodes_of(graph, left) == ["embed", "a0.h0", "m1", "logits"]
    with pytest.raises(ValueError, match="lead nowhere"):
        Circuit(graph, "t", "base", edges, np.zeros(edges.shape))
    with pytest.raises(KeyError):
        graph.named("m1", "a0.h0<q>")


def test_all_edges_are_the_clean_run_and_none_the_corrupt_one(family):
    p = pairs(ragged=True)
    every, none = family.graph.edges, np.zeros_like(family.graph.edges)
    found, between = circuit_scores(family, p, np.stack([every, none, every])), ends(family, p)
    assert np.abs(found[0] - between.full).max() < 1e-4
    assert np.abs(found[1] - between.none).max() < 1e-4
    assert (found[2] == found[0]).all()
    assert family.residual(p) < 1e-5
    assert np.abs(between.full - between.none).max() > 0.1


def test_a_run_is_the_model(family):
    """Padding behind a prompt changes nothing, and m is that of the model's own logits."""
    p = pairs(ragged=True)
    for row in range(len(p)):
        with torch.no_grad():
            logits = family.bridge(p.clean[row : row + 1, : p.last[row] + 1])[0, -1]
        own = logits[p.target[row]] - logits[p.foil[row]]
        assert abs(float(family.scores(p.clean, p)[row] - own)) < 1e-4


def test_what_is_written_adds_up_to_what_is_read(family):
    """Differences of clean and corrupt: biases drop out of both."""
    p = pairs()
    gap = family.written(p.clean) - family.written(p.corrupt)
    read = {}
    for ids in (p.clean, p.corrupt):
        hook = ("ln_final.hook_in", lambda x, hook: read.update({len(read): x}))
        with torch.no_grad():
            family.run(ids, p.last, [hook])
    assert torch.allclose(gap.sum(dim=2), read[0] - read[1], atol=1e-5)


def test_eap_is_the_derivative_of_patching(family):
    """Finite differences, edge by edge: a little of the corrupt write in what one reader reads."""
    p, step = pairs(2), 2e-3
    scores = edge_scores(family, p, n_steps=1).by_pair
    way = family.written(p.corrupt) - family.written(p.clean)
    rng = np.random.default_rng(0)
    edges = np.argwhere(family.graph.edges)
    for sender, receiver in edges[rng.choice(len(edges), 12, replace=False)]:
        at = torch.full((len(p),), int(receiver))
        up, down = (family.nudged(p, at, sign * step * way[:, :, sender]) for sign in (1, -1))
        slope = ((up - down) / (2 * step)).numpy()
        assert np.abs(slope - scores[:, sender, receiver]).max() < 1e-2 * max(1.0, np.abs(scores).max())


def test_an_edge_patched_for_itself_is_a_circuit_without_it(family):
    """Two ways to the same number; where there is no edge there is no score."""
    p = pairs(2)
    exact, n = exact_scores(family, p), family.graph.n_edges
    edges = np.argwhere(family.graph.edges)
    some = edges[np.random.default_rng(1).choice(n, 10, replace=False)]
    without = np.repeat(family.graph.edges[None], len(some), axis=0)
    for row, (sender, receiver) in enumerate(some):
        without[row, sender, receiver] = False
    left = circuit_scores(family, p, without) - ends(family, p).full
    assert np.abs(left - exact.by_pair[:, some[:, 0], some[:, 1]].T).max() < 1e-3
    on = family.graph.edges
    assert not exact.by_pair[:, ~on].any()
    assert not edge_scores(family, p).by_pair[:, ~on].any()


def test_a_part_that_writes_nothing_has_no_edges_that_matter(llama):
    """A last MLP whose write is scaled to nothing: its edge is worth nothing, by every method."""
    p = pairs()
    (down,) = (
        w for name, w in llama.bridge.original_model.named_parameters() if ".1." in name and "down_proj" in name
    )
    kept = down.data.clone()
    try:
        down.data.zero_()
        at = llama.graph.named("m1", "logits")
        for scores in (edge_scores(llama, p), exact_scores(llama, p)):
            assert abs(scores.mean[at]) < 1e-5 < np.abs(scores.mean).max()
    finally:
        down.data.copy_(kept)


def test_a_graph_too_large_is_refused_in_a_sentence(llama):
    with pytest.raises(Misuse, match=r"edges, and patching each takes.*EAP-IG"):
        exact_scores(llama, pairs(), most_edges=5)


def test_a_family_that_does_not_add_up_is_refused(llama, monkeypatch):
    """As where a norm stands between a part and the stream: here the MLPs' writes are taken for half."""
    written, half = llama.written, torch.ones(len(llama.graph.senders), 1)
    half[[name.startswith("m") for name in llama.graph.senders]] = 0.5
    monkeypatch.setattr(llama, "written", lambda ids: half * written(ids))
    with pytest.raises(Failure, match="does not add up"):
        llama.residual(pairs())


@pytest.mark.parametrize("how", [TOP, HELPING, GREEDY])
def test_circuits_grow_with_their_share_and_have_no_dead_ends(llama, how):
    p = pairs(6)
    scores = edge_scores(llama, p).mean
    steps = ladder(llama.graph, scores, how)
    sizes = [int(edges.sum()) for edges in steps]
    assert sizes == sorted(sizes)
    assert sizes[-1] == llama.graph.n_edges
    assert all((alive(llama.graph, edges) == edges).all() for edges in steps)
    f = [faithfulness(each, ends(llama, p)).f for each in circuit_scores(llama, p, steps)]
    assert f[-1] == pytest.approx(1, abs=1e-4)


def test_a_run_leaves_no_hook_behind_and_the_owners_alone(llama: CircuitModel) -> None:
    """Whether it ends or breaks; a hook that the bridge does not have is no hook that is never called."""
    p, seen = pairs(1), list[str]()
    point = llama.bridge.hook_dict["blocks.0.hook_resid_pre"]
    point.add_hook(lambda tensor, hook: seen.append(hook.name))
    before = [len(each.fwd_hooks) for each in llama.bridge.hook_dict.values()]

    def broken(x: torch.Tensor, hook: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        llama.run(p.clean, p.last, [("blocks.0.hook_resid_pre", broken)])
    llama.scores(p.clean, p)
    assert [len(each.fwd_hooks) for each in llama.bridge.hook_dict.values()] == before
    assert seen
    point.remove_hooks()
    with pytest.raises(KeyError):
        llama.run(p.clean, p.last, [("blocks.0.hook_nowhere", broken)])


def test_greedy_stays_connected_where_top_falls_apart():
    """The n strongest edges by themselves lead nowhere; greedy goes from the logits down."""
    graph = GRAPHS["plain"]
    scores = np.zeros(graph.edges.shape)
    scores[graph.named("embed", "a0.h0<v>")] = -9
    scores[graph.named("embed", "logits")] = -1
    assert chosen(graph, scores, 1, TOP).sum() == 0
    greedy = chosen(graph, scores, 1, GREEDY)
    assert greedy.sum() == 1
    assert greedy[graph.named("embed", "logits")]


@pytest.mark.parametrize("how", [GREEDY, TOP, HELPING])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_circuit_of_a_size_is_grown_until_as_many_edges_are_alive(name, how):
    """Asked for the number of live edges, `chosen` prunes once more and gives fewer; `sized` finds the circuit
    again, and makes another one as large."""
    graph, rng = GRAPHS[name], np.random.default_rng(1)
    smaller = 0
    for asked in (5, 9, graph.n_edges // 5):
        scores, others = rng.standard_t(2, size=(2, *graph.edges.shape))
        own = chosen(graph, scores, asked, how)
        n = int(own.sum())
        smaller += chosen(graph, scores, n, how).sum() < n
        assert (sized(graph, scores, n, how) == own).all()
        beside = sized(graph, others, n, how)
        assert (alive(graph, beside) == beside).all()
        fewer = sized(graph, others, n - 1, how).sum() if n else 0
        assert beside.sum() >= n
        assert fewer <= beside.sum()
    assert smaller or how == HELPING
    assert (sized(graph, scores, graph.n_edges) == graph.edges).all()


@pytest.mark.parametrize("name", GRAPHS)
def test_random_circuits_keep_degrees_and_lead_somewhere(name):
    graph, rng = GRAPHS[name], np.random.default_rng(0)
    circuit = chosen(graph, rng.normal(size=graph.edges.shape), graph.n_edges // 3, GREEDY)
    overlaps = []
    for _ in range(5):
        found = random_circuit(graph, circuit, rng)
        assert found.edges.sum() == circuit.sum()
        assert (alive(graph, found.edges) == found.edges).all()
        for axis in (0, 1):
            assert sorted(found.edges.sum(axis=axis)) == sorted(circuit.sum(axis=axis))
        overlaps.append(found.overlap)
    assert min(overlaps) < 1
    shuffled = shuffled_heads(graph, circuit, rng)
    assert (alive(graph, shuffled) == shuffled).all()
    assert shuffled.sum() == circuit.sum()


def test_faithfulness_of_a_made_up_circuit():
    """f = (3 - 1) / (5 - 1) by hand; areas by trapezoids."""
    between = Ends(np.full(4, 5.0), np.full(4, 1.0))
    found = faithfulness(np.full(4, 3.0), between)
    assert found == Measured(0.5, 0.5, 0.5)
    assert cpr([0.0, 1.0], [0.0, 1.0]) == 0.5
    assert cmd([0.0, 1.0], [0.0, 1.0]) == 0.5
    assert cmd([2.0, 2.0], [0.0, 1.0]) == 1
    assert gap(np.full(4, 3.0), np.full(4, 4.0), between).f == -0.25
    assert smallest_faithful([0.1, 0.2, 0.5, 1.0], [0.9, 0.3, 0.85, 1.0]) == 0.5
    assert smallest_faithful([0.1, 1.0], [0.9, 0.1]) is None


def test_acdc_leaves_what_matters(llama):
    """What is left does nearly all, and is smaller."""
    p = pairs(2, seed=3)
    sign = np.sign((ends(llama, p).full - ends(llama, p).none).mean())
    if sign < 0:
        p = Pairs("random", p.clean, p.corrupt, p.foil, p.target, p.last)
    tried = []
    left = take_out(llama, p, tau=0.02, done=tried.append).edges
    assert sum(tried) <= llama.graph.n_edges
    assert 0 < left.sum() < llama.graph.n_edges
    assert (alive(llama.graph, left) == left).all()
    removed = llama.graph.n_edges - left.sum()
    f = faithfulness(circuit_scores(llama, p, left[None])[0], ends(llama, p)).f
    assert f >= 1 - 0.02 * removed - 1e-3


def test_overlap_of_a_circuit_with_itself_is_one_and_falls_below_its_floor_for_another(llama):
    graph, rng = llama.graph, np.random.default_rng(0)
    true, other = rng.normal(size=(2, *graph.edges.shape)) ** 5 * graph.edges
    noisy = true + 3 * rng.normal(size=(40, *graph.edges.shape)) * graph.edges
    scores, n = EdgeScores(graph, "EAP", noisy), graph.n_edges // 5
    assert overlap(graph, true, true, n) == Overlap(1, 1, 1)
    found = floor(redrawn(scores, n, draws=50))
    assert 0.05 < found.edges < 1
    assert overlap(graph, scores.mean, other, n).weights < found.weights
    twins = true + 3 * rng.normal(size=(20, 40, *graph.edges.shape)).mean(axis=1) * graph.edges
    above = [overlap(graph, scores.mean, twin, n).weights >= found.weights for twin in twins]
    assert sum(above) >= 16  # 19 of 20 expected, of another draw of noise on the same circuit


def test_jaccard_by_hand():
    assert jaccard({1, 2}, {2, 3}) == 1 / 3
    assert jaccard(set(), set()) == 1
    a, b = np.array([[2.0, -2.0]]), np.array([[2.0, 2.0]])
    assert weighted_jaccard(a, b) == pytest.approx(1 / 3)
    assert weighted_jaccard(a, 5 * a) == 1
    assert weighted_jaccard(a, 0 * a) == 0


GOOD, BAD = Measured(0.95, 0.9, 1.0), Measured(0.1, 0.0, 0.2)
SAME, LESS = Overlap(0.9, 0.9, 0.9), Overlap(0.2, 0.5, 0.3)
FLOOR = Overlap(0.7, 0.8, 0.7)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, REUSED),
        ({"moved": Measured(1.7, 1.6, 1.8), "gap": Measured(0.75, 0.65, 0.85)}, UNDETERMINED),
        ({"overlap": LESS}, REWEIGHTED),
        ({"overlap": LESS, "moved": Measured(0.4, 0.3, 0.5), "gap": Measured(-0.55, -0.6, -0.5)}, REWIRED),
        ({"moved": Measured(0.4, 0.3, 0.5), "gap": Measured(-0.55, -0.6, -0.5)}, UNDETERMINED),
        ({"does_after": False}, UNDETERMINED),
        ({"does_before": False}, UNDETERMINED),
        ({"share_before": 0.85}, UNDETERMINED),
        ({"home_after": BAD}, UNDETERMINED),
        ({"other_task": Measured(0.96, 0.94, 0.98)}, UNDETERMINED),
    ],
)
def test_verdicts(change, word):
    """Where most random circuits are faithful, the word stands with that beside it."""
    found = Evidence(
        True, True, GOOD, GOOD, GOOD, Measured(0.0, -0.05, 0.05), BAD, SAME, FLOOR, 12, 0.05, 0.05, 12, 0.1
    )._replace(**change)
    said = verdict(found, "sft", "grpo")
    assert said.word == word
    beside = verdict(found._replace(random_faithful=0.95), "sft", "grpo")
    assert beside.word == word
    assert ("95% of random circuits are faithful in grpo too" in beside.why) == ("in common" in said.why)
    assert "random" not in said.why
    assert ("of 12 edges of each" in said.why) == (
        word in (REUSED, REWEIGHTED, REWIRED) or "in common" in said.why
    )
