"""The study of superposition: neurons are the MLP's, AUROCs are scikit-learn's, controls stand beside."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from saes.index import FeatureIndex
from tests.tiny_lab import shared_lab
from workbench.errors import Misuse
from workbench.grow import grow
from workbench.lab import Lab
from workbench.neuron_factors import dense_aurocs, harvest_neurons, midranks
from workbench.plan import STUDY
from workbench.recipe import read_recipe, write_recipe
from workbench.superposition import LATENT, NEURON, Study, followed, request
from workbench.tokens import token_set


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    """A copy of the tiny lab, studied."""
    path = tmp_path_factory.mktemp("studied") / "tiny"
    shutil.copytree(shared_lab().path, path)
    lab = Lab(path)
    assert request(lab) == ("sae-base", "sae-sft", "sae-grpo")
    grow(lab, [f"evaluation/{STUDY}"], quiet=True)
    return lab


@pytest.fixture(scope="module")
def study(lab) -> Study:
    return Study.of(lab)


def test_ranks_by_counting_are_scipys():
    values = np.random.default_rng(0).normal(size=5_000).astype(np.float16)
    values[:50], values[50:60] = 0.0, -0.0
    np.testing.assert_array_equal(midranks(values), rankdata(values.astype(np.float32)))


def test_dense_aurocs_are_scikit_learns():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(600, 70)).astype(np.float16)
    truth = rng.random((600, 3)) < (0.3, 0.1, 0.01)
    values[:, 0] += 2 * truth[:, 0]
    inside = rng.random(600) < 0.8
    found = dense_aurocs(values, csr_matrix(truth.astype(float)), inside)
    for unit in (0, 1, 69):
        for factor in (0, 1):
            expected = roc_auc_score(truth[inside, factor], values[inside, unit].astype(float))
            assert found[unit, factor] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(found[:, 2]).all()  # too rare to say


def test_a_factor_is_followed_only_on_both_halves_and_in_one_direction():
    first = np.array([[0.95, 0.95, 0.95, 0.05, np.nan]])
    second = np.array([[0.95, 0.80, 0.05, 0.02, 0.99]])
    assert followed(first, second).tolist() == [[1, 0, 0, -1, 0]]


def test_neurons_are_what_the_down_projection_reads(lab, tmp_path):
    """act(gate) · up of a Llama, by hand, on one window."""
    tokens = token_set(lab, "base")
    model = lab.checkpoint("sft").model()
    wanted = np.zeros(len(tokens), bool)
    window = slice(int(tokens.starts[3]), int(tokens.stops[3]))
    wanted[window] = True
    found = harvest_neurons(model, 1, tokens, wanted, tmp_path / "n.npy")
    ids = torch.tensor([[tokens.settings["bos"], *tokens.tokens[window].tolist()]])
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states[1]
        layer = model.model.layers[1]
        seen = []
        hook = layer.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(ids)
        hook.remove()
        expected = layer.mlp.act_fn(layer.mlp.gate_proj(seen[0])) * layer.mlp.up_proj(seen[0])
    assert states.shape[:2] == expected.shape[:2]
    np.testing.assert_allclose(found, expected[0, 1:].numpy(), rtol=2e-3, atol=1e-3)
    assert not list(layer.mlp.down_proj._forward_pre_hooks)


def test_the_study_counts_what_is_there(lab, study):
    assert list(study.figures) == ["base", "sft", "grpo"]
    for name, found in study.figures.items():
        features = lab.find("features", found["dictionary"])
        index = FeatureIndex.load(features.path / "index")
        plain = ~np.asarray(token_set(lab, "base").special)
        fires = [plain[index.entries(j).tokens].any() for j in range(index.n_latents)]
        assert found["alive"] == sum(fires) <= features.figures["alive"]
        assert found["tokens"] == plain.sum()
        assert found["alive_per_dimension"] == pytest.approx(found["alive"] / found["d_model"])
        assert 0 < found["gaussian_alive"] <= found["d_sae"]
        assert found["gaussian_fvu"] > 0
        cosines = study.cosines.filter(pl.col("checkpoint") == name)
        assert (cosines["of"] == "dictionary").sum() == found["alive"] == (cosines["of"] == "random").sum()
        assert cosines["cosine"].is_between(-1, 1.0001).all()
        assert found["neurons"]["units"] == 64
        assert found["latents"]["units"] == 96
    shares = study.shares.group_by("checkpoint", "kind").agg(pl.col("share").sum())
    assert shares["share"].to_list() == pytest.approx([1.0] * 6)
    assert set(study.shares["kind"]) == {NEURON, LATENT}


def test_changes_are_between_the_figures_of_neighbouring_stages(study):
    rows = study.changes
    assert rows["figure"].value_counts()["count"].to_list() == [2] * 5
    levels = {
        "polysemantic_neurons": lambda f: f["neurons"]["polysemantic"],
        "polysemantic_latents": lambda f: f["latents"]["polysemantic"],
        "nearest_cosine": lambda f: f["dictionary_cosine"],
        "fvu": lambda f: f["fvu"],
        "alive_per_dimension": lambda f: f["alive_per_dimension"],
    }
    for row in rows.iter_rows(named=True):
        assert (row["earlier"], row["later"]) in (("base", "sft"), ("sft", "grpo"))
        level = levels[row["figure"]]
        for side, checkpoint in (("before", row["earlier"]), ("after", row["later"])):
            assert row[side] == pytest.approx(level(study.figures[checkpoint]), abs=1e-7)
        assert (row["floor"] is None) == (row["figure"] == "polysemantic_neurons" or row["change"] is None)
    trained = rows.filter(pl.col("figure").is_in(["fvu", "nearest_cosine"]))
    assert (trained["floor"] > 0).all()  # another seed is another SAE
    assert (trained["floor"] < 0.1).all()  # of the same checkpoint, equally good
    assert (trained["low"] <= trained["change"]).all()
    assert (trained["change"] <= trained["high"]).all()


def test_shown_units_follow_what_they_are_said_to(study):
    assert study.examples["factors"].min() >= 1
    assert (study.examples["names"].list.len() == study.examples["factors"]).all()
    assert (study.examples["value"] > 0).all()


def test_no_scratch_is_left_and_nothing_is_built_twice(lab, study):
    assert {p.name for p in study.path.iterdir()} == {
        "manifest.json", "cosines.parquet", "units.parquet", "shares.parquet", "examples.parquet",
        "changes.parquet",
    }  # fmt: skip
    request(lab)
    assert grow(lab, [f"evaluation/{STUDY}"], quiet=True) == []


def test_a_lab_without_saes_and_a_crosscoder_are_sentences(tmp_path):
    recipe = read_recipe(shared_lab().path / "recipe.toml")
    bare = dataclasses.replace(recipe, dictionaries=(), comparisons=())
    write_recipe(tmp_path / "bare" / "recipe.toml", bare)
    with pytest.raises(Misuse, match="no SAE"):
        request(Lab(tmp_path / "bare"))
    from workbench.plan import plan

    with pytest.raises(Misuse, match="is a crosscoder"):
        plan(dataclasses.replace(recipe, superposition=("crosscoder",)))
