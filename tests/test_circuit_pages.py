"""The Circuits page: every view of a circuit that was found and of one that was not; its layout and its difference
graph; one component and one edge looked at."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
import torch

from pages.components import (
    circuit_figure,
    circuit_grids,
    circuit_heads,
    circuit_snapshots,
    circuit_store,
    circuit_transfer,
    circuit_verdict,
    show,
    store,
    theme,
)
from pages.components.circuit_store import Of
from tests.grown_once import grown_once
from tests.test_pages import errors, opened, sentences
from tests.tiny_lab import WORDS, build, make_lab, on_pages, tiny_recipe
from workbench.circuit_config import ACDC
from workbench.circuits.activation_patching import NOISE, Patching
from workbench.circuits.circuit_history import LAST_HERE, OWN, TOLD_APART, CircuitHistory
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.circuit_picture import line as way
from workbench.circuits.circuit_picture import places, read_of, widths, writer_name
from workbench.circuits.circuit_requests import request_circuit
from workbench.circuits.circuit_show import as_json, svg
from workbench.circuits.competence import competence
from workbench.circuits.difference_graph import GAINED, KEPT, LOST, REWEIGHTED, Scored, difference
from workbench.circuits.earlier import earlier_circuits
from workbench.circuits.edge_patching import exact_scores
from workbench.circuits.faithfulness import circuit_scores, ends, faithfulness
from workbench.circuits.found_circuits import FoundCircuits
from workbench.circuits.graph import Graph, alive
from workbench.circuits.grids import HEAD, LAYER, cells
from workbench.circuits.heads import KINDS
from workbench.circuits.history_build import N_PAIRS, SCHEMA
from workbench.circuits.node_effects import cell_of, node_effect
from workbench.circuits.one_edge import taken_out
from workbench.circuits.overlap import overlap
from workbench.circuits.pairs import logit_difference
from workbench.errors import Failure, Misuse
from workbench.feature_parts import written_by
from workbench.lab import Lab
from workbench.plan import check_name, history_name
from workbench.recipe import read_recipe, write_recipe

DONE, UNDONE = "planted-base-sft", "previous_token-base"
BY_ACDC = f"{DONE}-{ACDC}"
NAMES = ("base", "sft")
VIEWS = {
    "Verdict": ("What became of the circuit", "The evidence", ["competence", "faithful"]),
    "Graph": ("The circuit of one checkpoint", "Click a component", ["circuit-graph"]),
    "Difference": ("Two checkpoints' edges, one over the other", "Click the dot", ["difference-graph"]),
    "Curve": ("How few edges it takes", "CPR, sft", ["circuit-curve", "circuit-check"]),
    "Transfer": ("Each circuit in each checkpoint", "found in i", ["transfer", "overlap"]),
    "Patching": ("What each part is worth", "restores the clean one", ["grid-position-sft", "grid-head-base"]),
    "Heads": (
        "Where heads look, and what they write",
        "what a part writes",
        ["last-attention-base", "direct-logits"],
    ),
    "Latents": ("Which latents the task is done with", "has not been worked out", []),
    "Lens": ("At which layer the answer stands", "from the row from which on", ["lens-answers"]),
    "Snapshots": (
        "The circuit's way along the snapshots",
        "the first key left out",
        ["snapshots", "snapshot-heads"],
    ),
    "Prompts": ("The prompts", "differing tokens marked", []),
}


def planted(lab: Lab, path: Path) -> Path:
    """A task that base does by construction: of each pair of prompts the two tokens are those that it itself
    prefers, one on either prompt."""
    at = lab.checkpoint("base")
    model, tokenizer = at.model(), at.tokenizer()
    texts = {i: tokenizer.decode([i]) for i in range(len(tokenizer))}
    usable = [
        i for i, text in texts.items() if text.startswith(" ") and text.strip().isalpha() and text.isascii()
    ]

    def ids(text: str) -> list[int]:
        return [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]

    @torch.no_grad()
    def logits(text: str) -> torch.Tensor:
        return model(torch.tensor([ids(text)])).logits[0, -1, usable]

    rng, lines = random.Random(0), []
    for first, (one, other) in itertools.product(WORDS, itertools.combinations(WORDS, 2)):
        clean, corrupt = (f"the {first} {word}" for word in rng.sample([one, other], 2))
        if len(ids(clean)) != len(ids(corrupt)):
            continue
        a, b = logits(clean), logits(corrupt)
        target, foil = int(a.argmax()), int(b.argmax())
        answers = texts[usable[target]], texts[usable[foil]]
        whole = (ids(clean + answers[0]), ids(corrupt + answers[1]))
        read_apart = whole == ([*ids(clean), usable[target]], [*ids(corrupt), usable[foil]])
        if target != foil and read_apart:
            pair = {"clean": clean, "corrupt": corrupt, "target": answers[0], "foil": answers[1]}
            lines.append(json.dumps(pair))
    path.write_text("\n".join(rng.sample(lines, 24)))
    return path


@grown_once
def circuit_lab(home: Path) -> Lab:
    """A tiny lab with a circuit in two checkpoints that do the task, and one in a checkpoint that does not."""
    recipe = tiny_recipe()
    lab = make_lab(
        home, recipe=dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, n_layers=2))
    )
    own = str(planted(lab, home / "planted.jsonl"))
    names = [
        request_circuit(lab, own, NAMES, 12, history=True, check=True),
        request_circuit(lab, "previous_token", ["base"], 8, check=True),
        request_circuit(lab, own, NAMES, 12, finder=ACDC),
    ]
    assert names == [DONE, UNDONE, BY_ACDC]
    made = (*names, history_name(DONE), check_name(DONE), check_name(UNDONE))
    return build(lab, *(f"circuit/{name}" for name in made))


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return on_pages(circuit_lab(), monkeypatch)


@pytest.fixture
def found(lab: Lab) -> FoundCircuits:
    return FoundCircuits.of(lab, DONE)


@pytest.mark.parametrize("view", list(VIEWS))
def test_every_view_draws_itself_alone_behind_how_well_the_task_is_done(lab: Lab, view: str) -> None:
    app = opened("circuits", circuit=DONE, view=view)
    assert not app.exception
    assert errors(app) == []
    title, told, charts = VIEWS[view]
    assert [header.value for header in app.header] == [title]
    said = [*sentences(app), *(each.value for each in app.subheader)]
    assert any(told in text for text in said)
    assert "sft chooses rightly" in " ".join(said[:6])
    assert not any("no circuit is claimed" in text for text in said)
    drawn = [chart.proto.id for chart in app.get("plotly_chart")]
    assert all(any(chart in id_ for id_ in drawn) for chart in charts)
    for other in set(VIEWS) - {view}:
        assert not any(chart in id_ for chart in VIEWS[other][2] for id_ in drawn)


@pytest.mark.parametrize("view", list(VIEWS))
def test_where_the_task_is_not_done_no_circuit_is_claimed(lab: Lab, view: str) -> None:
    app = opened("circuits", circuit=UNDONE, view=view)
    assert not app.exception
    assert errors(app) == []
    assert any("base does not do the task, so no circuit is claimed for it" in text for text in sentences(app))


def test_pictures_leave_out_who_does_not_do_the_task(lab: Lab) -> None:
    undone = FoundCircuits.of(lab, UNDONE)
    own, controls = undone.table("transfer"), undone.table("controls")
    for able in ([], ["base"]):
        beside = circuit_verdict.beside_controls(own, controls, ["base"], able)
        assert bool(beside.data) == bool(able)
        assert any("no circuit is claimed" in note.text for note in beside.layout.annotations) != bool(able)
        cell = circuit_transfer.matrix(own, ["base"], able).data[0]
        assert (cell.z[0][0] is not None) == bool(able)
        assert bool(cell.text[0][0]) == bool(able)


def test_shares_of_next_to_nothing_have_no_colour() -> None:
    """One colour for every value, no scale, and the words instead."""
    effects = [[-2.0, 0.5], [1.0, 30.0]]
    done, undone = (circuit_grids.heat(effects, effects, effects, None, None, does) for does in (True, False))
    assert len({colour for _, colour in undone.data[0].colorscale}) == 1
    assert len({colour for _, colour in done.data[0].colorscale}) == 3
    assert (undone.data[0].showscale, done.data[0].showscale) == (False, True)
    assert done.data[0].colorbar.title.text
    assert undone.data[0].texttemplate is None
    assert [note.text for note in undone.layout.annotations] == ["does not do the task"]
    assert not done.layout.annotations


def test_the_camera_is_spoken_of_where_a_picture_is(lab: Lab) -> None:
    undone = [(UNDONE, view, False) for view in ("Curve", "Prompts", "Snapshots")]
    for circuit, view, pictures in ((DONE, "Curve", True), *undone):
        app = opened("circuits", circuit=circuit, view=view)
        offered = [each.label for each in app.get("button_group")] if pictures else []
        named = "The camera above a picture saves" in str([each.proto for each in app.get("button_group")])
        assert named == pictures, (view, offered)


def test_a_component_in_the_address_is_shown_in_each_checkpoint(lab: Lab, found: FoundCircuits) -> None:
    head = next(name for name in found.circuit("sft").nodes if ".h" in name)
    app = opened("circuits", circuit=DONE, view="Graph", checkpoint="sft", at=head)
    assert not app.exception
    assert errors(app) == []
    assert f"{head} in each checkpoint" in [each.value for each in app.subheader]
    drawn = " ".join(chart.proto.id for chart in app.get("plotly_chart"))
    assert all(f"pattern-{name}" in drawn for name in NAMES)
    said = " ".join(sentences(app))
    of = circuit_store.of(lab, DONE)
    direct = circuit_store.direct(of, "base")[writer_name(head)]
    assert f"{direct.mean:.2f}".replace("-0.00", "0.00") in said
    assert "No dictionary with a feature table" in said


def test_an_edge_in_the_address_is_taken_out(lab: Lab, found: FoundCircuits) -> None:
    sender, receiver, _ = found.circuit("sft").named_edges()[0]
    for view in ("Graph", "Difference"):
        app = opened("circuits", circuit=DONE, view=view, at=f"{sender}->{receiver}")
        assert not app.exception
        assert errors(app) == []
        assert any("with this edge alone corrupt m changes by" in text for text in sentences(app))


def test_addresses_of_nothing_say_so(lab: Lab) -> None:
    for parameter in ("circuit", "view", "checkpoint", "share", "at", "camera"):
        app = opened("circuits", **({"circuit": DONE, "view": "Graph"} | {parameter: "nowhere"}))
        assert not app.exception
        assert any("'nowhere'" in text.replace("&#x27;", "'") for text in errors(app)), parameter


def test_a_circuit_of_other_settings_is_listed_with_its_command(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on the disk, and not what the recipe asks for any more."""
    assert earlier_circuits(lab) == []
    copy = Lab(tmp_path / lab.name)
    shutil.copytree(lab.path, copy.path)
    recipe = read_recipe(copy.path / "recipe.toml")
    changed = [dataclasses.replace(c, seed=7) if c.name == UNDONE else c for c in recipe.circuits]
    write_recipe(copy.path / "recipe.toml", dataclasses.replace(recipe, circuits=tuple(changed)))
    [earlier] = earlier_circuits(copy)
    assert earlier[:2] == (UNDONE, "settings differ (seed)")
    command = "circuit tiny --task previous_token --checkpoints base --pairs 8 --seed 7"
    assert earlier.command == f"python -m workbench {command}"
    monkeypatch.setenv("MARBLE_HOME", str(tmp_path))
    app = opened("circuits", circuit=UNDONE)
    assert not app.exception
    assert earlier.command in [code.value for code in app.code]
    assert any("not shown" in text and UNDONE in text for text in sentences(app))
    assert any("settings differ (seed)" in text for text in errors(app))


def test_one_checkpoint_into_another(lab: Lab) -> None:
    app = opened("circuits", circuit=DONE, view="Patching", put="One checkpoint into another")
    assert not app.exception
    assert errors(app) == []
    assert any("On the clean prompts" in text for text in sentences(app))


def test_a_lab_without_circuits_tells_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_lab(tmp_path)
    monkeypatch.setenv("MARBLE_HOME", str(tmp_path))
    monkeypatch.setenv("MARBLE_LAB", made.name)
    app = opened("circuits", task="induction")
    assert not app.exception
    assert any("No circuit has been found" in text for text in sentences(app))
    [code] = app.code
    assert code.value == "python -m workbench circuit tiny --task induction --checkpoints base,sft,grpo"


@pytest.mark.parametrize("graph", [Graph(3, 4, 4), Graph(2, 6, 2), Graph(2, 3, 3, parallel=True)])
def test_every_component_has_a_place_of_its_own_and_every_edge_goes_up(graph: Graph) -> None:
    where = places(graph)
    assert set(where) == {*graph.senders, "logits"}
    assert len({(place.x, place.y) for place in where.values()}) == len(where)
    ends_of = {}
    for s, r in np.argwhere(graph.edges):
        sender, receiver = graph.senders[s], graph.receivers[r].name
        drawn = way(graph, where, sender, receiver)
        assert (np.diff(drawn.y) > 0).all()
        assert drawn.x[0] == where[sender].x
        assert drawn.middle in list(zip(drawn.x, drawn.y, strict=True))
        ends_of[receiver] = (drawn.x[-1], drawn.y[-1])
    assert len(set(ends_of.values())) == len(ends_of)  # q, k and v of a head enter apart


@pytest.mark.parametrize("width", [360, 700])
def test_the_dots_of_a_heads_q_k_and_v_do_not_cover_one_another(width: int) -> None:
    """In pixels of the picture on a page 1000 and 1400 wide: their middles are a dot's size apart."""
    graph = Graph(4, 4, 4)
    where = places(graph)
    column = width / (max(place.x for place in where.values()) + 1.8)
    for sender in graph.senders:
        for head in (each for each in graph.senders if each.startswith("a")):
            if int(head[1]) <= (int(sender[1]) if sender != "embed" else -1):
                continue
            dots = [way(graph, where, sender, f"{head}<{read}>").middle for read in "qkv"]
            for (x, y), (other_x, other_y) in itertools.combinations(dots, 2):
                apart = np.hypot((x - other_x) * column, (y - other_y) * circuit_figure.ROW)
                assert apart >= 8, (sender, head)


def test_widths_follow_the_size_of_scores() -> None:
    assert widths(np.array([1.0, -0.25, 0.0])).tolist() == [6, 3, 1]
    assert widths(np.zeros(2)).tolist() == [1, 1]
    assert read_of("a0.h1<k>") == "k"
    assert read_of("m1") == ""


def drawn_scores(graph: Graph, seed: int) -> Scored:
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=graph.edges.shape) * graph.edges
    spread = np.abs(rng.normal(size=mean.shape)) * graph.edges / 4
    return Scored(mean, mean - spread, mean + spread)


def test_a_circuit_and_itself_keep_every_edge_whatever_the_scale() -> None:
    graph = Graph(2, 2, 2)
    scored = drawn_scores(graph, 0)
    larger = Scored(*(3 * part for part in scored))
    counts = difference(graph, scored, larger, 12).counts()
    assert counts[KEPT] > 0
    assert counts[REWEIGHTED] == counts[LOST] == counts[GAINED] == 0


@pytest.mark.parametrize("seed", range(5))
def test_what_one_way_loses_the_other_way_gains(seed: int) -> None:
    graph = Graph(2, 2, 2)
    a, b = drawn_scores(graph, seed), drawn_scores(graph, seed + 100)
    there, back = difference(graph, a, b, 15), difference(graph, b, a, 15)
    turned = {KEPT: KEPT, REWEIGHTED: REWEIGHTED, LOST: GAINED, GAINED: LOST}
    kinds = {(c.sender, c.receiver): c.kind for c in there.changes}
    assert {(c.sender, c.receiver): turned[c.kind] for c in back.changes} == kinds
    assert there.jaccard == overlap(graph, a.mean, b.mean, 15).edges


def test_the_difference_of_a_case_worked_by_hand() -> None:
    """embed→logits halves its share and its intervals part; embed→m0→logits is lost, embed→a0.h0<v>, a0.h0→logits
    gained."""
    graph = Graph(1, 1, 1)

    def of(**scores: float) -> Scored:
        mean = np.zeros(graph.edges.shape)
        for name, value in scores.items():
            mean[graph.named(*EDGES[name])] = value
        return Scored(mean, mean - 0.1, mean + 0.1)

    EDGES = {
        "straight": ("embed", "logits"), "into_m": ("embed", "m0"), "out_of_m": ("m0", "logits"),
        "into_a": ("embed", "a0.h0<v>"), "out_of_a": ("a0.h0", "logits"),
    }  # fmt: skip
    made = difference(
        graph, of(straight=-4, into_m=-2, out_of_m=-2), of(straight=-2, into_a=-3, out_of_a=-3), 3
    )
    kinds = {(c.sender, c.receiver): c.kind for c in made.changes}
    expected = dict.fromkeys(("into_a", "out_of_a"), GAINED) | dict.fromkeys(("into_m", "out_of_m"), LOST)
    assert kinds == {EDGES[name]: kind for name, kind in (expected | {"straight": REWEIGHTED}).items()}
    [straight] = [c for c in made.changes if c.receiver == "logits" and c.sender == "embed"]
    assert (straight.s_before, straight.s_after) == (-0.5, -0.25)
    assert made.counts() == {KEPT: 0, REWEIGHTED: 1, LOST: 2, GAINED: 2}
    assert made.jaccard == 1 / 5


def test_the_difference_agrees_with_the_overlap_that_was_stored(found: FoundCircuits) -> None:
    rows = found.table("overlap").filter(measure="edges")
    assert len(rows) == 1
    for before, after, value in rows.select("before", "after", "value").iter_rows():
        assert found.difference(before, after).jaccard == pytest.approx(value)


def test_the_ladder_has_a_step_for_every_circuit(found: FoundCircuits) -> None:
    for name in NAMES:
        own = found.circuit(name)
        assert np.array_equal(found.at_share(name, found.own_share(name)).edges, own.edges)
        assert np.array_equal(found.at_share(name, 1.0).edges, found.graph.edges)


def test_the_planted_task_is_done(found: FoundCircuits) -> None:
    assert all(found.figures["checkpoints"][name]["does_it"] for name in NAMES)


def test_a_circuit_as_json_and_as_a_picture(found: FoundCircuits) -> None:
    circuit = found.circuit("sft")
    told = json.loads(as_json(circuit))
    edges = np.zeros_like(circuit.edges)
    for each in told["edges"]:
        edges[circuit.graph.named(each["sender"], each["receiver"])] = True
    assert np.array_equal(edges, circuit.edges)
    assert "negative score" in told["sign"]
    drawn = ElementTree.fromstring(svg(circuit))
    assert len(drawn.findall(".//{*}polyline")) == circuit.n_edges
    assert len(drawn.findall(".//{*}rect")) == len(circuit.graph.senders) + 1
    shown = circuit.show()
    assert "<svg" in shown.html
    assert "<script" not in shown.html
    assert f"{circuit.n_edges} of {circuit.graph.n_edges} edges" in repr(shown)


def test_a_component_alone_is_its_cell_of_the_noise_grid(lab: Lab, found: FoundCircuits) -> None:
    patching = Patching(lab.checkpoint("sft").model(), found.pairs(lab))
    grid = patching.grid("z", NOISE, (LAYER, HEAD))
    effect = node_effect(patching, "a1.h0")
    assert effect.share.value == pytest.approx(grid.effect().value[1, 0], abs=1e-5)
    best = effect.strongest(3)
    assert best[0][1] == effect.lost.max()
    assert [lost for _, lost in best] == sorted((lost for _, lost in best), reverse=True)
    listed = cells(grid.effect(), (LAYER, HEAD))
    assert listed.filter(layer=1, head=0)["effect"].item() == grid.effect().value[1, 0]
    with pytest.raises(Misuse, match="the logits write into no stream"):
        cell_of("logits")


def test_all_that_the_embedding_writes_is_all_that_differs(lab: Lab, found: FoundCircuits) -> None:
    effect = node_effect(Patching(lab.checkpoint("base").model(), found.pairs(lab)), "embed")
    assert float(effect.share.value) == pytest.approx(1, abs=1e-4)


def test_an_edge_taken_out_is_the_one_patched_for_itself(lab: Lab, found: FoundCircuits) -> None:
    pairs, circuit = found.pairs(lab), found.circuit("sft")
    model = CircuitModel(lab.checkpoint("sft").bridge())
    exact = exact_scores(model, pairs).mean
    inside, outside = np.argwhere(circuit.edges)[0], np.argwhere(circuit.graph.edges & ~circuit.edges)[0]
    for s, r in (inside, outside):
        left = taken_out(model, pairs, circuit, circuit.graph.senders[s], circuit.graph.receivers[r].name)
        assert left.alone.value == pytest.approx(exact[s, r], abs=1e-4)
        assert (left.circuit is None) == (not circuit.edges[s, r])
    s, r = inside
    rest = circuit.edges.copy()
    rest[s, r] = False
    f = faithfulness(circuit_scores(model, pairs, alive(circuit.graph, rest)[None])[0], ends(model, pairs)).f
    left = taken_out(model, pairs, circuit, circuit.graph.senders[s], circuit.graph.receivers[r].name)
    assert left.without is not None
    assert left.without.f == pytest.approx(f)


def test_latents_are_listed_by_the_share_that_a_component_has_in_them() -> None:
    rows = [("sft", 0, "head 0.1", 0.2), ("sft", 1, "head 0.1", 0.7), ("sft", 2, "head 0.1", -0.3)]
    rows += [("base", 3, "head 0.1", 0.9), ("sft", 4, "mlp 0", 0.9)]
    table = pl.DataFrame(rows, schema=["checkpoint", "latent", "component", "share"], orient="row")
    assert written_by(table, writer_name("a0.h1"), "sft", 8).rows() == [(1, 0.7), (0, 0.2)]
    assert written_by(table, writer_name("a0.h1"), "sft", 1).rows() == [(1, 0.7)]
    assert written_by(table, writer_name("m1"), "sft", 8).is_empty()


def test_a_clicked_point_tells_its_name() -> None:
    assert show.name_of({"customdata": ["a0.h1"]}) == "a0.h1"
    assert show.name_of({"customdata": {"0": "a0.h1"}}) == "a0.h1"


def test_the_attention_shown_is_a_pattern(lab: Lab) -> None:
    of: Of = circuit_store.of(lab, DONE)
    weights = circuit_store.patterns(of, "base", 0)
    n = len(circuit_store.texts(of)[0][0])
    assert weights.shape[2:] == (n, n)
    assert np.allclose(weights.sum(axis=-1), 1, atol=1e-4)


def test_a_way_along_the_snapshots_is_not_offered_as_a_circuit(lab: Lab) -> None:
    assert history_name(DONE) in store.finished(lab, "circuit")
    assert circuit_store.names(lab) == [DONE, UNDONE, BY_ACDC]


def test_a_circuit_that_was_not_followed_tells_the_command_it_was_asked_for_with(lab: Lab) -> None:
    app = opened("circuits", circuit=UNDONE, view="Snapshots")
    asked = "python -m workbench circuit tiny --task previous_token --checkpoints base --pairs 8 --snapshots"
    assert any(f"<code>{asked}</code>" in text for text in sentences(app))
    with pytest.raises(Misuse, match="has not been followed"):
        CircuitHistory.of(lab, UNDONE)


def test_the_way_ends_where_the_last_checkpoint_is(lab: Lab, found: FoundCircuits) -> None:
    """Its figures there are those of the model opened for itself, on the pairs that the way is judged on."""
    history = CircuitHistory.of(lab, DONE)
    assert history.moments.filter("end")["address"].to_list() == list(NAMES)
    asked = dataclasses.replace(found, config={**found.config, "n_pairs": N_PAIRS})
    judge = asked.pairs(lab, "judge")
    for name in NAMES:
        at = {
            figure: history.curve(figure).filter(address=name).row(0, named=True)
            for figure in (TOLD_APART, LAST_HERE)
        }
        assert at[TOLD_APART]["value"] == competence(lab.checkpoint(name).model(), judge).told_apart.value
        assert at[TOLD_APART]["n"] == len(judge)
        model = CircuitModel(lab.checkpoint(name).bridge())
        m = circuit_scores(model, judge, found.circuit("sft").edges[None])[0]
        assert at[LAST_HERE]["value"] == pytest.approx(faithfulness(m, ends(model, judge)).f, abs=1e-4)
    assert history.at_home("edges") == history.curve("edges")["value"][-1]


def test_the_strongest_heads_are_those_with_the_largest_score_anywhere(lab: Lab) -> None:
    history = CircuitHistory.of(lab, DONE)
    rows = history.table("heads")
    for kind in KINDS:
        largest: dict[tuple[int, int], float] = {}
        for layer, head, score in rows.filter(kind=kind).select("layer", "head", "score").iter_rows():
            largest[layer, head] = max(score, largest.get((layer, head), score))
        best = history.strongest(kind, 2)
        assert best == sorted(largest, key=lambda at: -largest[at])[:2]
        named = history.head_curves(kind, 2)["name"].unique(maintain_order=True).to_list()
        assert named == [f"head {layer}.{head}" for layer, head in best]


def followed(found: FoundCircuits, folder: Path, done: list[bool]) -> CircuitHistory:
    """A way of four moments, base 0, 4, 9 and sft 2, of which `done` do the task."""
    rows = []
    for (stage, step, axis, place), does in zip(
        (("base", 0, 0, 0.0), ("base", 4, 4, 0.7), ("base", 9, 9, 1.0), ("sft", 2, 11, 2.0)), done, strict=True
    ):
        at = (stage, step, axis, place)
        rows.append((*at, TOLD_APART, 0.5 + 0.4 * does, 0.4 + 0.4 * does, 0.6 + 0.4 * does, 32))
        if does:
            rows += [(*at, LAST_HERE, 0.8, 0.7, 0.9, 32), (*at, OWN, 0.9, 0.8, 1.0, 32)]
            rows += [(*at, measure, axis / 20, None, None, 32) for measure in ("edges", "nodes", "weights")]
    pl.DataFrame(rows, schema=SCHEMA, orient="row").write_parquet(folder / "history.parquet")
    return CircuitHistory(found, {}, folder)


def test_a_way_worked_by_hand(found: FoundCircuits, tmp_path: Path) -> None:
    """Done at base@4 and at the end, not at base between: the line breaks there, and the sentences say so."""
    history = followed(found, tmp_path, [False, True, False, True])
    assert history.moments["address"].to_list() == ["base@0", "base@4", "base", "sft"]
    assert history.moments["done"].to_list() == [False, True, False, True]
    assert history.curve("edges")["value"].to_list() == [None, 0.2, None, 0.55]
    assert history.sentences()[:2] == [
        "The task is done from sft on, told apart 0.90 [0.80, 1.00] there",
        "Before that it is done at 1 of 4 moments (base@4) and lost again: by chance, or in another way",
    ]
    history = followed(found, tmp_path, [False, True, True, True])
    first, f, _, shared = history.sentences()
    assert first == "The task is done from base@4 on, told apart 0.90 [0.80, 1.00] there"
    assert f == (
        "sft's circuit does f = 0.80 [0.70, 0.90] of the task at base@4 and 0.80 [0.70, 0.90] at sft, one found "
        "there 0.90 [0.80, 1.00] and 0.90 [0.80, 1.00]"
    )
    assert (
        shared == "The two share 0.20 of their edges at base@4; sft's, found on 32 pairs and on 12, share 0.55"
    )
    history = followed(found, tmp_path, [False, True, False, True])
    drawn = {trace.name: list(trace.y) for trace in way_of(history).data}
    assert drawn["edges"] == [None, 0.2, None, 0.55]
    assert drawn["the task"] == [0.5, 0.9, 0.5, 0.9]


def way_of(history: CircuitHistory):  # type: ignore[no-untyped-def]
    figures = (TOLD_APART, LAST_HERE, OWN, "edges", "weights") if history.claimed else (TOLD_APART, OWN)
    return circuit_snapshots.way({f: history.curve(f) for f in figures}, history.moments, history.last)


def test_no_circuit_is_followed_where_none_is_claimed(found: FoundCircuits, tmp_path: Path) -> None:
    never = followed(found, tmp_path, [False] * 4)
    assert never.sentences() == ["At none of 4 moments is the task done: no circuit is claimed on the way"]
    checkpoints = {name: {**found.figures["checkpoints"][name], "does_it": name != "sft"} for name in NAMES}
    unable = dataclasses.replace(found, figures={**found.figures, "checkpoints": checkpoints})
    folder = tmp_path / "unable"
    folder.mkdir()
    history = followed(unable, folder, [False, True, True, False])
    assert history.sentences()[1:] == ["sft does not do the task: it has no circuit that could be followed"]
    assert history.at_home("edges") is None
    assert {trace.name for trace in way_of(history).data} == {"the task", "the moment's own"}


def test_last_attention_is_the_last_row_of_every_pattern(lab: Lab) -> None:
    of = circuit_store.of(lab, DONE)
    some, looked = circuit_store.pairs(of, "judge", True), circuit_store.last_attention(of, "sft")
    with torch.inference_mode():
        out = lab.checkpoint("sft").model()(input_ids=some.clean, output_attentions=True)
    expected = torch.stack(out.attentions)[:, :, :, -1].mean(dim=1).numpy()
    assert np.allclose(looked.mean, expected, atol=1e-5)
    assert np.allclose(looked.mean.sum(axis=-1), 1, atol=1e-5)
    assert (looked.interval[..., 0] <= looked.mean + 1e-9).all()
    assert (looked.mean <= looked.interval[..., 1] + 1e-9).all()
    listed = looked.table.filter(layer=1, head=0)["attention"].to_list()
    assert listed == pytest.approx(looked.mean[1, 0].tolist())
    labels = [str(at) for at in range(looked.mean.shape[-1])]
    figure = circuit_heads.attention(looked.mean.tolist(), looked.interval.tolist(), labels, "#123456")
    (drawn,) = figure.data
    assert figure.layout.yaxis.autorange != "reversed"  # layer 0 at the bottom, as in every view
    assert drawn.colorbar.title.text
    heads = looked.mean.shape[1]
    assert np.allclose(drawn.z[heads], looked.mean[1, 0])
    assert drawn.customdata[heads][0][:2] == ["1.0", "0"]


def test_the_parts_drawn_add_up_to_the_logits_of_the_model(lab: Lab) -> None:
    of = circuit_store.of(lab, DONE)
    some, made = circuit_store.pairs(of), {name: circuit_store.written(of, name) for name in NAMES}
    rows = [(name, *each) for name in NAMES for each in made[name].parts.values()]
    schema = ["checkpoint", "component", "logits", "low", "high", "n"]
    figure = circuit_heads.writes(pl.DataFrame(rows, schema=schema, orient="row"), ["base"])
    drawn = figure.data
    grey = theme.LIGHT.muted
    assert [trace.marker.color == grey for trace in drawn] == [name == "base" for name in NAMES]
    assert figure.layout.yaxis.range[0] < figure.layout.yaxis.range[1]  # the embedding, layer 0, at the bottom
    for name, trace in zip(NAMES, drawn, strict=True):
        with torch.inference_mode():
            logits = lab.checkpoint(name).model()(input_ids=some.clean).logits
        m = logit_difference(logits[torch.arange(len(some)), some.last], some.target, some.foil)
        assert sum(trace.x) == pytest.approx(float(m.mean()), abs=1e-4)
        assert f"over {len(some)} pairs" in made[name].check


def test_a_head_that_does_more_than_a_norm_and_an_unembedding_is_told(lab: Lab) -> None:
    of = circuit_store.of(lab, DONE)
    circuit_store.written.clear()
    head = store.loaded(of.opened(), "sft").model.get_output_embeddings()
    capped = head.register_forward_hook(lambda module, read, out: 3 * torch.tanh(out / 3))
    try:
        with pytest.raises(Failure, match=r"in sft: .*does more than a norm and an unembedding"):
            circuit_store.written(of, "sft")
        app = opened("circuits", circuit=DONE, view="Heads")
    finally:
        capped.remove()
    assert not app.exception
    said = sentences(app)
    assert any("nothing is attributed in sft" in text for text in said)
    assert any("base, planted: m =" in text for text in said)
