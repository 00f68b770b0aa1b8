"""The commands `graph` and `lens`: what is asked for is grown once, written whole and told; the rest is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import transformers as hf

from tests.command_line import assert_one_sentence, run
from tests.test_attribution_graphs import worked_graph
from tests.tiny_lab import begun_lab, build, tiny_recipe
from workbench.circuit_commands import _trained_first
from workbench.circuits import tracer_json
from workbench.circuits.found_lenses import COLUMNS, FoundLens
from workbench.circuits.graph_paths import strongest_paths
from workbench.circuits.graph_perturbation import Perturbed
from workbench.circuits.graph_pruning import prune
from workbench.circuits.lens_kl import LOGIT_LENS, lens_kl
from workbench.circuits.prompt_graph import GraphRequest, refuse_unlike
from workbench.circuits.site_dictionaries import latent_labels, wanted_layer_transcoders
from workbench.errors import Misuse
from workbench.features import FeatureTable
from workbench.lab import Lab
from workbench.plan import Plan
from workbench.points import MLP_IN, MLP_OUT
from workbench.recipe import DictionaryConfig, Recipe, read_recipe, write_recipe
from workbench.tokens import TokenSet

LAYERS = 4
PROMPT = "What is 12+30?"


def recipe() -> Recipe:
    """Small transcoders of every layer of sft."""
    small = DictionaryConfig("", ("sft",), 64, 6, steps=30, batch_size=256, point=MLP_IN, target=MLP_OUT)
    coders = [dataclasses.replace(small, name=f"transcoder-{layer}", layer=layer) for layer in range(LAYERS)]
    return dataclasses.replace(tiny_recipe(), comparisons=(), dictionaries=tuple(coders))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return begun_lab(tmp_path_factory.mktemp("commands"), recipe())


@pytest.fixture(scope="module")
def told(lab: Lab) -> dict:
    asked = ("graph", "tiny", "sft", PROMPT, "--chat", "--out", str(lab.path / "graphs" / "new"), "--json")
    done = run(lab.path.parent, *asked)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def lenses(lab: Lab) -> dict:
    done = run(lab.path.parent, "lens", "tiny", "sft,base", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["lenses"]


def test_a_graph_is_told_as_it_is_written(told: dict) -> None:
    written = json.loads(Path(told["file"]).read_text(encoding="utf-8"))
    assert len(written["nodes"]) == told["nodes"]["kept"] < told["nodes"]["all"]
    assert len(written["links"]) == told["edges"]["kept"] < told["edges"]["all"]
    assert (
        written["metadata"]["transcoder_list"]
        == told["transcoders"]
        == [f"transcoder-{n}" for n in range(LAYERS)]
    )
    assert "<|user|>" in written["metadata"]["prompt"]
    assert len(told["tokens"]) == len(written["metadata"]["prompt_tokens"])
    folder = Path(told["file"]).parent
    assert {path.name for path in folder.iterdir()} == {Path(told["file"]).name, tracer_json.INDEX}
    assert told["largest_residual"] < 1e-3
    assert 0 < told["replacement_score"] < 1
    for which in ("pearson", "pearson_held"):
        found = told["taken_out"][which]
        assert found["low"] <= found["value"] <= found["high"]
    assert told["taken_out"]["n"] == 32
    for path in told["paths"]:
        assert path["nodes"][-1] == f"logit {told['logits'][0]['token']}"
        assert path["nodes"][0].startswith("token") or "error" in path["nodes"][0]
    shares = [path["share"] for path in told["paths"]]
    assert shares == sorted(shares, reverse=True)


def test_transcoders_are_grown_once_and_thresholds_count(lab: Lab, told: dict) -> None:
    before = {folder: folder.stat().st_mtime_ns for folder in lab.path.glob("dictionary/transcoder-*")}
    assert len(before) == LAYERS
    folder = Path(told["file"]).parent
    settings = ("--node-threshold", "0.5", "--edge-threshold", "0.6", "--top-k", "1")
    done = run(lab.path.parent, "graph", "tiny", "sft", PROMPT, "--chat", "--out", str(folder), *settings)
    assert done.returncode == 0, done.stderr
    assert {folder: folder.stat().st_mtime_ns for folder in lab.path.glob("dictionary/transcoder-*")} == before
    file = Path(done.stdout.splitlines()[0])
    fewer = json.loads(file.read_text(encoding="utf-8"))
    assert sum(node["feature_type"] == tracer_json.LOGIT for node in fewer["nodes"]) == 1
    assert len(fewer["links"]) < told["edges"]["kept"]
    for words in ("Replacement score", "completeness score", "foretells have r =", "Strongest paths to"):
        assert words in done.stdout
    listed = json.loads((folder / tracer_json.INDEX).read_text(encoding="utf-8"))["graphs"]
    assert {each["slug"] for each in listed} == {file.stem, Path(told["file"]).stem}


def test_labels_of_latents_stand_in_the_graph(lab: Lab, told: dict, tmp_path: Path) -> None:
    """Of the transcoders whose feature table is there; a person's label goes before the one that was made."""
    names = told["transcoders"]
    assert latent_labels(lab, names) == {}
    build(lab, f"features/{names[0]}")
    table = FeatureTable.of(lab, names[0])
    made = dict(table.table.drop_nulls("label").select("latent", "label").iter_rows())
    assert latent_labels(lab, names) == {(0, latent): label for latent, label in made.items()}
    before = json.loads(Path(told["file"]).read_text(encoding="utf-8"))["nodes"]
    latent = next(int(n["node_id"].split("_")[1]) for n in before if n["layer"] == "0" and n["activation"])
    table.annotations.set_label(latent, "mine")
    done = run(lab.path.parent, "graph", "tiny", "sft", PROMPT, "--chat", "--out", str(tmp_path))
    file, view = done.stdout.splitlines()[:2]
    assert f"start-server --graph_file_dir {tmp_path}" in view
    known = {(0, key): label for key, label in made.items()} | {(0, latent): "mine"}
    for node in json.loads(Path(file).read_text(encoding="utf-8"))["nodes"]:
        if node["feature_type"] == tracer_json.LATENT:
            layer, number, _ = map(int, node["node_id"].split("_"))
            assert node["clerp"] == known.get((layer, number), "")


def test_a_checkpoint_without_transcoders_gets_one_of_every_layer(lab: Lab, tmp_path: Path) -> None:
    copy = Lab(tmp_path / "tiny")
    shutil.copytree(lab.path, copy.path)
    names = wanted_layer_transcoders(copy, "grpo")
    known = {each.name: each for each in read_recipe(copy.path / "recipe.toml").dictionaries}
    assert [known[name].layer for name in names] == list(range(LAYERS))
    assert {(known[name].checkpoints, known[name].kind) for name in names} == {(("grpo",), "transcoder")}
    assert wanted_layer_transcoders(copy, "grpo") == names
    assert wanted_layer_transcoders(copy, "sft") == [f"transcoder-{n}" for n in range(LAYERS)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sft", "  "), ["the prompt is empty"]),
        (("sft", "word " * 200), ["tokens too long", "shorten it"]),
        (("sff", "hello"), ["did you mean 'sft'"]),
        (("sft@77", "hello"), ["no snapshots"]),
    ],
)
def test_what_has_no_graph_is_refused(
    lab: Lab, tmp_path: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    done = run(lab.path.parent, "graph", "tiny", *arguments, "--out", str(tmp_path / "out"))
    assert_one_sentence(done, 2, *words)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_grows(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for out, words in (("file", "is a file, not a folder"), ("file/below", "name a folder that can")):
        done = run(lab.path.parent, "graph", "tiny", "grpo", "hello", "--out", str(tmp_path / out))
        assert_one_sentence(done, 2, "--out", words)
    assert (tmp_path / "file").read_text() == "kept"
    assert not [d for d in read_recipe(lab.path / "recipe.toml").dictionaries if d.checkpoints == ("grpo",)]
    (tmp_path / tracer_json.INDEX).write_text("[]")
    with pytest.raises(Misuse, match="no list of graphs"):
        tracer_json.write_tracer_graph(tmp_path, {"metadata": {"slug": "a"}})
    assert not (tmp_path / "a.json").exists()


def test_a_share_that_is_none_is_refused(lab: Lab, tmp_path: Path) -> None:
    for option in ("--node-threshold", "--edge-threshold"):
        done = run(lab.path.parent, "graph", "tiny", "sft", "hello", "--out", str(tmp_path), option, "nan")
        assert_one_sentence(done, 2, f"{option} is nan", "from 0 to 1")


def test_what_is_trained_first_is_told_before(lab: Lab, told: dict, lenses: dict) -> None:
    """Of what is on the disk no word is said."""
    steps = [f"dictionary/{name}" for name in told["transcoders"]]
    assert _trained_first(lab, [*steps, "evaluation/lens-sft"], "a minute") == ""
    names = wanted_layer_transcoders(lab, "base")
    line = _trained_first(lab, [*steps, *(f"dictionary/{name}" for name in names)], "a minute")
    assert line.endswith(f"in a minute each: {', '.join(names)}\n")


def test_a_checkpoint_named_twice_has_no_two_lenses(lab: Lab) -> None:
    assert_one_sentence(run(lab.path.parent, "lens", "tiny", "sft", "sft"), 2, "sft is named twice")


def test_a_family_without_mlps_is_refused(lab: Lab) -> None:
    """OPT keeps its two matrices in the block itself."""
    shape = {"hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 2, "word_embed_proj_dim": 32}
    config = hf.OPTConfig(vocab_size=400, num_hidden_layers=2, max_position_embeddings=64, **shape)
    with pytest.raises(Misuse, match="no MLP module of their own"):
        refuse_unlike(hf.OPTForCausalLM(config), GraphRequest.of(lab.checkpoint("sft"), "hello"))


def test_a_model_that_cannot_be_made_linear_is_refused(lab: Lab) -> None:
    """A norm that is no scaling of its input."""
    model, asked = lab.checkpoint("sft").model(), GraphRequest.of(lab.checkpoint("sft"), "hello")
    refuse_unlike(model, asked)
    model.model.norm.register_forward_hook(lambda module, args, output: output.abs(), prepend=True)
    with pytest.raises(Misuse, match="'sft' has no attribution graphs: LlamaRMSNorm is no scaling"):
        refuse_unlike(model, asked)


def test_a_graph_is_never_half_written(tmp_path: Path, told: dict) -> None:
    """What cannot be written leaves the file that was there, and nothing beside it."""
    document = json.loads(Path(told["file"]).read_text(encoding="utf-8"))
    path = tracer_json.write_tracer_graph(tmp_path, document)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        tracer_json.write_tracer_graph(tmp_path, document | {"links": [{"weight": float("nan")}]})
    assert path.read_bytes() == before
    assert {each.name for each in tmp_path.iterdir()} == {path.name, tracer_json.INDEX}


def test_paths_by_hand() -> None:
    """Of the worked graph there are four: their shares sum to 1 and what they bring to the logit."""
    graph = worked_graph()
    found = strongest_paths(graph, prune(graph, 1.0, 1.0).edges, n=9)
    by_nodes = {path.nodes: path for path in found}
    assert found[0].nodes == (5, 1, 6)
    by_hand = {(5, 1, 6): (0.375, 3.0), (4, 0, 6): (0.25, 1.0), (3, 6): (0.25, -1.0), (4, 1, 6): (0.125, -1.0)}
    assert set(by_nodes) == set(by_hand)
    for nodes, (share, contribution) in by_hand.items():
        assert by_nodes[nodes][:2] == pytest.approx((share, contribution))
    assert sum(path.contribution for path in found) == pytest.approx(graph.values[6])
    assert strongest_paths(graph, prune(graph, 1.0, 1.0).edges, n=2) == found[:2]


def test_the_interval_of_a_correlation() -> None:
    """It holds the correlation, is a point where that is 1, and not a number where there is none."""
    draw = np.random.default_rng(0)
    x, noise = draw.normal(size=32), draw.normal(size=32)
    found = Perturbed(np.arange(32), x, x + noise, 2 * x)
    assert found.interval.low < found.pearson < found.interval.high < 1
    assert found.interval_held == pytest.approx((1, 1))
    assert np.isnan(Perturbed(np.arange(2), x[:2], x[:2], x[:2]).interval).all()


def test_lenses_of_a_lineage(lab: Lab, lenses: dict) -> None:
    """The root's is a parent, read on the later checkpoint; each is on the disk as it was measured."""
    assert list(lenses) == ["sft", "base"]
    step = Plan.of(lab).step("evaluation", "lens-sft")
    assert "evaluation/lens-base" in step.parents
    assert "evaluation/lens-base" not in Plan.of(lab).step("evaluation", "lens-base").parents
    base, sft = (FoundLens.of(lab, name) for name in ("base", "sft"))
    tokens = next(key for key in step.parents if key.startswith("activations/tokens-"))
    heldout = TokenSet(lab.find("activations", tokens.split("/")[1]).path, "heldout")
    again = lens_kl(lab.checkpoint("sft").model(), heldout, {"own": sft.lens(), "root": base.lens()})
    table = sft.table("kl")
    for name in (LOGIT_LENS, "own", "root"):
        rows = table.filter(pl.col("lens") == name).sort("layer")
        np.testing.assert_allclose(rows["kl"], [each.kl for each in again.by_layer(name)], atol=1e-4)
        assert rows["row"].to_list() == ["embedding", *(f"block {n}" for n in range(LAYERS))]
        assert (rows["low"] <= rows["kl"]).all()
        assert (rows["kl"] <= rows["high"]).all()
        assert rows["kl"][-1] == pytest.approx(0, abs=1e-5)
    assert set(base.table("kl")["lens"]) == {LOGIT_LENS, "own"}


def test_a_lens_is_worth_fitting(lab: Lab, lenses: dict) -> None:
    above = FoundLens.of(lab, "sft").table("above").filter(pl.col("layer") < LAYERS)
    own = above.filter(pl.col("lens") == "own")
    assert set(own["other"]) == {LOGIT_LENS}
    assert (own["high"] < 0).all()
    assert set(above.filter(pl.col("lens") == "root")["other"]) == {"own"}


def test_lenses_are_fitted_once_and_shown_as_a_table(lab: Lab, lenses: dict) -> None:
    before = {folder: folder.stat().st_mtime_ns for folder in lab.path.glob("evaluation/lens-*")}
    assert len(before) == 2
    done = run(lab.path.parent, "lens", "tiny", "sft")
    assert done.returncode == 0, done.stderr
    assert {folder: folder.stat().st_mtime_ns for folder in lab.path.glob("evaluation/lens-*")} == before
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + LAYERS + 1
    for head in (LOGIT_LENS, "own lens", "base's lens above own lens"):
        assert head in lines[1]
    assert set(lenses["sft"]) >= {"root", "tokens", "documents", *COLUMNS}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("sfft",), 2, ["did you mean 'sft'"]),
        (("sft@77",), 2, ["no snapshots"]),
        ((",",), 2, ["no checkpoint is named"]),
    ],
)
def test_what_has_no_lens_is_refused(lab: Lab, arguments: tuple[str, ...], code: int, words: list[str]) -> None:
    before = read_recipe(lab.path / "recipe.toml")
    assert_one_sentence(run(lab.path.parent, "lens", "tiny", *arguments), code, *words)
    assert read_recipe(lab.path / "recipe.toml") == before


def test_a_recipe_with_a_lens_of_nothing_says_so(tmp_path: Path) -> None:
    write_recipe(tmp_path / "bad" / "recipe.toml", dataclasses.replace(recipe(), lenses=("gone",)))
    assert_one_sentence(run(tmp_path, "status", "bad"), 2, "a lens of recipe.toml names 'gone'")
