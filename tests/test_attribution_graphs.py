"""Attribution graphs of a prompt, their pruning, and the file that another front end reads: laws, and by hand."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from saes.transcoder import Transcoder
from tests.tiny_models import tiny_model, tiny_tokenizer
from workbench.circuits.attribution_graph import AttributionGraph, attribution_graph
from workbench.circuits.graph_perturbation import foretold, most_influential, perturbed
from workbench.circuits.graph_pruning import graph_scores, influence, normalised, prune
from workbench.circuits.local_replacement import frozen_run
from workbench.circuits.tracer_json import INDEX, cantor, tracer_graph, write_tracer_graph
from workbench.errors import Misuse
from workbench.points import MLP_IN, Site

FAMILIES = ("llama", "gpt2", "gpt_neox", "qwen3")
D = 32


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return tiny_model(request.param, n_layers=2)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama", n_layers=2)


def random_transcoders(n=2, skip=False, seed=0, f=24):
    draw = torch.Generator().manual_seed(seed)
    return [
        Transcoder(
            torch.randn(1, D, f, generator=draw), torch.randn(f, generator=draw),
            torch.randn(f, 1, D, generator=draw), torch.randn(1, D, generator=draw),
            torch.full((f,), 1.0), torch.ones(1), ("m",), k=4, site=Site(layer, MLP_IN).name,
            W_skip=torch.randn(D, D, generator=draw) / D if skip else None,
        )
        for layer in range(n)
    ]  # fmt: skip


def perfect_transcoders(model, ids):
    """Decoders that give back exactly what the MLPs wrote on this prompt: fewer positions than latents on."""
    made, blank = [], random_transcoders(f=200)
    run = frozen_run(model, ids, blank)
    for layer, each in enumerate(blank):
        f = each.encode(run.read[layer][0].detach()[:, None]).double()
        target = (run.written[layer][0].detach() - each.b_dec).double()
        W_dec = torch.linalg.pinv(f) @ target
        made.append(Transcoder(**{**vars(each), "W_dec": W_dec.float()[:, None].contiguous()}))
    return made


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("bos", [None, 7])
def test_what_comes_in_is_what_a_node_is(family, skip, bos):
    """Σ in-edges + bias is the preactivation, or the logit; nothing comes from above or from later."""
    ids = torch.tensor([7, 40, 41, 90, 12])
    graph = attribution_graph(family, random_transcoders(skip=skip), ids, bos, mass=0.3)
    assert graph.residual < 1e-4
    assert np.abs(graph.adjacency).max() > 0.1
    np.testing.assert_allclose(graph.values[: graph.n_latents], graph.activations, atol=1e-6)
    layer = np.r_[graph.latents[:, 0], np.repeat([0, 1], 5), np.full(5, -1), np.full(len(graph.logit_ids), 2)]
    position = np.r_[graph.latents[:, 1], np.tile(np.arange(5), 3), np.full(len(graph.logit_ids), 4)]
    after = (layer[:, None] <= layer[None]) | (position[:, None] < position[None])
    assert (graph.adjacency[after] == 0).all()
    assert (graph.adjacency[graph.n_latents : graph.tokens.stop] == 0).all()
    at_first = graph.adjacency[:, graph.errors].reshape(-1, 2, 5)[..., 0]
    if bos is None:
        assert np.abs(at_first).max() > 0
    else:
        assert (at_first == 0).all()
        assert (graph.latents[:, 1] > 0).all()


def test_logit_nodes_are_the_models_own(family):
    ids = torch.tensor([40, 41, 90])
    graph = attribution_graph(family, random_transcoders(), ids, most_logits=4)
    with torch.no_grad():
        logits = family(ids[None]).logits[0, -1]
    top = logits.softmax(-1).topk(4)
    assert graph.logit_ids.tolist() == top.indices.tolist()
    np.testing.assert_allclose(graph.probabilities, top.values, rtol=1e-4)
    np.testing.assert_allclose(graph.values[graph.logits], (logits - logits.mean())[top.indices], atol=1e-4)
    some = attribution_graph(family, random_transcoders(), ids, mass=float(top.values[0]) / 2)
    assert len(some.logit_ids) == 1


def test_the_model_is_left_as_it_was(llama):
    ids, before = torch.tensor([[40, 41, 90]]), llama.config._attn_implementation
    with torch.no_grad():
        clean = llama(ids).logits
        run = frozen_run(llama, ids[0], random_transcoders())
        assert torch.allclose(run.logits, clean[0, -1], atol=1e-5)
        assert torch.equal(llama(ids).logits, clean)
    assert llama.config._attn_implementation == before
    llama(ids).logits.sum().backward()  # queries and keys learn again
    assert float(llama.model.layers[0].self_attn.q_proj.weight.grad.abs().sum()) > 0
    llama.zero_grad()


def test_a_perfect_transcoder_has_no_error(llama):
    ids = torch.tensor([40, 41, 90, 12])
    graph = attribution_graph(llama, perfect_transcoders(llama, ids), ids)
    assert graph.residual < 1e-3
    assert np.abs(graph.adjacency[:, graph.errors]).max() < 1e-3 * np.abs(graph.adjacency).max()
    found = graph_scores(graph)
    assert found.replacement > 0.999
    assert found.completeness > 0.999


def test_without_attention_a_logit_by_hand():
    """One layer whose heads write nothing: token and error are E and y, and an edge is s·(γ ⊙ w) / r."""
    model = tiny_model("llama", n_layers=1)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
    (coder,), ids = random_transcoders(1), torch.tensor([40, 41, 90])
    graph = attribution_graph(model, [coder], ids, most_logits=1)
    with torch.no_grad():
        E = model.get_input_embeddings()(ids)[-1]
        block = model.model.layers[0]
        read = block.post_attention_layernorm(E)
        y = block.mlp(read)
        f = coder.encode(read[None, None])[0]
        error = y - f @ coder.W_dec[:, 0] - coder.b_dec[0]
        W_U = model.get_output_embeddings().weight
        along = (W_U[graph.logit_ids[0]] - W_U.mean(dim=0)) * model.model.norm.weight
        along = along / (E + y).square().mean().sqrt()
        row = graph.adjacency[-1]
        at_last = graph.latents[:, 1] == 2
        np.testing.assert_allclose(row[: graph.n_latents][~at_last], 0, atol=1e-6)
        on = f.nonzero()[:, 0]
        by_hand = f[on] * (coder.W_dec[on, 0] @ along)
        np.testing.assert_allclose(row[: graph.n_latents][at_last], by_hand, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(row[graph.errors], [0, 0, error @ along], atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(row[graph.tokens], [0, 0, E @ along], atol=1e-4, rtol=1e-4)
        assert graph.bias[-1] == pytest.approx(float(coder.b_dec[0] @ along), abs=1e-4)


def test_a_graph_needs_a_transcoder_of_every_layer(llama):
    ids = torch.tensor([40, 41])
    with pytest.raises(Misuse, match="2 layers and 1 transcoders"):
        attribution_graph(llama, random_transcoders(1), ids)
    with pytest.raises(Misuse, match=r"layer 0 needs a transcoder of blocks\.0\.mlp\.hook_in"):
        attribution_graph(llama, random_transcoders()[::-1], ids)


def worked_graph():
    """One layer, two tokens: latent 5 at each, and error at the second.

    latent 0 ← token 0 (2) · latent 1 ← token 0 (1), token 1 (−3) · logit ← latent 0 (1), latent 1 (2), error 1 (−1)
    """
    adjacency = np.zeros((7, 7), np.float32)
    adjacency[0, 4], adjacency[1, 4], adjacency[1, 5] = 2, 1, -3
    adjacency[6, 0], adjacency[6, 1], adjacency[6, 3] = 1, 2, -1
    values = adjacency.sum(axis=1).astype(np.float64)
    return AttributionGraph(
        np.array([9, 8]), 1, np.array([[0, 0, 5], [0, 1, 5]]), np.array([2.0, 3.0], np.float32),
        np.array([3]), np.array([0.8]), adjacency, values, np.zeros(7),
    )  # fmt: skip


def test_influence_by_hand():
    """Of the logit's 0.8: ¼ latent 0, ½ latent 1, ¼ error 1; token 0 has latent 0 and a quarter of latent 1."""
    graph = worked_graph()
    weights = normalised(graph.adjacency)
    found = influence(weights, graph.logit_weights)
    np.testing.assert_allclose(found, 0.8 * np.array([0.25, 0.5, 0, 0.25, 0.375, 0.375, 0]))
    everything = np.linalg.inv(np.eye(7) - weights) - np.eye(7)
    np.testing.assert_allclose(found, graph.logit_weights @ everything)
    scores = graph_scores(graph)
    assert scores.replacement == pytest.approx(0.75)
    # the logit's inputs are ¾ no error, all others' wholly; their weight is 0.8 of 0.8 (1 + 1 + 0.75)
    assert scores.completeness == pytest.approx((0.75 + 1 + 0.75) / 2.75)
    cycle = np.zeros((2, 2))
    cycle[0, 1] = cycle[1, 0] = 1
    with pytest.raises(ValueError, match="cycle"):
        influence(cycle, np.array([1.0, 0.0]))


def test_pruning_by_hand():
    graph = worked_graph()
    whole = prune(graph, 1.0, 1.0)
    assert whole.nodes.tolist() == [True, True, False, True, True, True, True]
    assert (whole.edges == (graph.adjacency != 0)).all()
    # ½ + ⅜ + ⅜ of 1.75 is 0.71: the second largest latent and the error come next
    half = prune(graph, 0.7, 1.0)
    assert half.nodes.tolist() == [False, True, False, False, True, True, True]
    assert half.edges.sum() == 3
    np.testing.assert_allclose(half.cumulative[1], 0.5 / 1.75)
    # of the edges into the logit and into latent 1, each ½ in all, the strongest from a token is ¾ of its half
    strong = prune(graph, 0.7, 0.8)
    assert strong.edges[6, 1]
    assert strong.edges[1, 5]
    assert not strong.edges[1, 4]
    with pytest.raises(ValueError, match="from 0 to 1"):
        prune(graph, 1.2)


def test_nothing_kept_dangles(family):
    graph = attribution_graph(family, random_transcoders(), torch.tensor([40, 41, 90, 12, 60]))
    kept = prune(graph, 0.5, 0.8)
    assert 0 < kept.edges.sum() < (graph.adjacency != 0).sum()
    fixed = graph.n_latents + graph.n_errors
    assert (kept.edges.any(axis=0) == kept.nodes)[:fixed].all()
    assert (kept.edges.any(axis=1) == kept.nodes)[: graph.n_latents].all()
    assert kept.nodes[fixed:].all()


def test_taking_a_latent_out_by_hand():
    """Latent 1 has 2 of the logit's 1 + 2 − 1; were half of it latent 0's, 1 more would go with that one."""
    graph = worked_graph()
    assert foretold(graph, np.array([0, 1])).tolist() == [-1, -2]
    adjacency, values = graph.adjacency.copy(), graph.values.copy()
    adjacency[1, 0], values[1] = 2, 4
    fed = dataclasses.replace(graph, adjacency=adjacency, values=values)
    assert foretold(fed, np.array([0, 1])).tolist() == [-2, -2]


def test_in_the_last_layer_only_the_final_scale_is_in_the_way(family):
    """With it held the change is as foretold, the direct edge; with it free it is another."""
    ids, coders = torch.tensor([40, 41, 90, 12]), random_transcoders()
    graph = attribution_graph(family, coders, ids)
    last = (graph.latents[:, 0] == 1) & (graph.latents[:, 1] == 3)
    found = perturbed(family, coders, graph, np.flatnonzero(last))
    direct = graph.adjacency[graph.logits.start, : graph.n_latents][last]
    np.testing.assert_allclose(found.foretold, -direct, atol=1e-5)
    np.testing.assert_allclose(found.held, -direct, atol=1e-3, rtol=1e-3)
    assert np.abs(found.true - found.held).max() > 1e-2
    assert found.pearson_held > 0.999
    assert set(most_influential(graph, 3)) <= set(range(graph.n_latents))


def test_what_reaches_no_logit_changes_none(llama):
    """In the last layer, at any but the last position."""
    ids, coders = torch.tensor([40, 41, 90, 12]), random_transcoders()
    graph = attribution_graph(llama, coders, ids)
    aside = np.flatnonzero((graph.latents[:, 0] == 1) & (graph.latents[:, 1] < 3))
    found = perturbed(llama, coders, graph, aside)
    assert np.abs(found.foretold).max() < 1e-9
    assert np.abs(found.true).max() < 1e-5


# circuit-tracer's schema (version 1): field, type, and whether it may be null
METADATA = {"slug": str, "scan": str, "transcoder_list": list, "prompt_tokens": list, "prompt": str,
            "node_threshold": float, "schema_version": int}  # fmt: skip
Q_PARAMS = {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str}
NODE = {"node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": float,
        "is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int, "jsNodeId": str, "clerp": str}  # fmt: skip
NULLABLE = {"influence": float, "activation": float}
KINDS = {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}


def test_the_front_end_can_read_the_file(llama, tmp_path):
    tokenizer, ids = tiny_tokenizer(), torch.tensor([1, 41, 90, 12])
    graph = attribution_graph(llama, random_transcoders(), ids, bos=1)
    pruned, latent = prune(graph, 0.9, 0.95), tuple(int(i) for i in graph.latents[0, [0, 2]])
    made = tracer_graph(graph, pruned, tokenizer, "a-prompt", "tiny", ["t0", "t1"], {latent: "marbles"})
    for _ in range(2):  # the second takes the place of the first
        path = write_tracer_graph(tmp_path / "graphs", made)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found == made
    for part, fields in ((found["metadata"], METADATA), (found["qParams"], Q_PARAMS)):
        assert {name: type(part[name]) for name in fields} == fields
    for node in found["nodes"]:
        assert {name: type(node[name]) for name in NODE} == NODE
        assert all(node[name] is None or type(node[name]) is kind for name, kind in NULLABLE.items())
        assert node["feature_type"] in KINDS
        assert 0 <= node["ctx_idx"] < len(ids)
    known = [node["node_id"] for node in found["nodes"]]
    assert len(set(known)) == len(known) == pruned.nodes.sum()
    assert len(found["links"]) == pruned.edges.sum()
    for link in found["links"]:
        assert set(link) == {"source", "target", "weight"}
        assert {link["source"], link["target"]} <= set(known)
    assert sum(node["is_target_logit"] for node in found["nodes"]) == 1
    named = [node for node in found["nodes"] if node["clerp"] == "marbles"]
    assert all(node["feature"] == cantor(*latent) for node in named)
    assert len(found["metadata"]["prompt_tokens"]) == len(ids)
    listed = json.loads((tmp_path / "graphs" / INDEX).read_text(encoding="utf-8"))["graphs"]
    assert [each["slug"] for each in listed] == ["a-prompt"]
    with pytest.raises(Misuse, match="cannot be a graph"):
        tracer_graph(graph, pruned, tokenizer, "../elsewhere", "tiny")


def test_one_number_for_a_pair():
    assert len({cantor(x, y) for x in range(30) for y in range(30)}) == 900
