"""Sweeps of a lab: entered once, equal to the lab's own dictionaries, a row each, one page of plots."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from saes import folder
from tests.test_pages import opened
from tests.tiny_lab import begun_lab, build, tiny_recipe
from workbench.errors import Failure, Misuse
from workbench.evaluation_commands import numbers
from workbench.recipe import read_recipe
from workbench.sweeps import COLUMNS, PCA, Sweep, request_sweep

ASKED = ("base", None, ["batchtopk", "topk"], [64, 96], [4, 6])


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    only = tuple(d for d in tiny_recipe().dictionaries if d.name == "sae-base")
    recipe = dataclasses.replace(tiny_recipe(), comparisons=(), dictionaries=only)
    lab = begun_lab(tmp_path_factory.mktemp("sweeps"), recipe)
    return build(lab, request_sweep(lab, *ASKED), "dictionary/sae-base")


@pytest.fixture(scope="module")
def found(lab):
    return Sweep.of(lab, "sweep-base-batchtopk.topk-w64.96-k4.6")


def test_a_sweep_is_entered_once_whatever_the_order(lab):
    again = request_sweep(lab, "base", None, ["batchtopk", "topk"], [96, 64, 64], [6, 4])
    recipe = read_recipe(lab.path / "recipe.toml")
    assert [s.name for s in recipe.sweeps] == [again]
    assert recipe.sweep(again).steps == recipe.dictionary("sae-base").steps
    long = request_sweep(lab, "base", 0, ["batchtopk"], [64], list(range(1, 60)))
    assert len(long) < 40
    assert long.startswith("sweep-base-layer0-")


def test_every_combination_has_a_row_and_figures_are_in_their_intervals(found):
    table = found.table
    assert set(COLUMNS) <= set(table.columns)
    trained = table.filter(table["arch"] != PCA)
    wanted = {(a, w, k) for a in ASKED[2] for w in ASKED[3] for k in ASKED[4]}
    assert set(trained.select("arch", "width", "k").iter_rows()) == wanted
    for figure in ("fvu", "ce_score", "ce_score_mean", "kl", "l0"):
        assert (table[f"{figure}_low"] <= table[figure] + 1e-9).all()
        assert (table[figure] <= table[f"{figure}_high"] + 1e-9).all()
    pca = table.filter(table["arch"] == PCA).sort("k")
    assert pca["k"].to_list() == [4, 6]
    assert pca["l0"].to_list() == [4, 6]
    assert pca["fvu"][0] > pca["fvu"][1]
    assert "topk-w64-k4" in found.describe()


def test_a_dictionary_of_a_sweep_is_the_lab_s_own_of_the_same_settings(lab, found):
    """Trained beside seven others, it is sae-base bit for bit."""
    own = folder.load(lab.find("dictionary", "sae-base").path)
    swept = folder.load(found.path / "dictionaries" / "batchtopk-w96-k6")
    assert torch.equal(own.W_dec, swept.W_dec)
    assert torch.equal(own.threshold, swept.threshold)


def test_plots_are_one_page_without_a_network(found, tmp_path):
    made = found.pareto("fvu", "FVU")
    assert [trace.name for trace in made.data][-1] == "PCA"
    assert len(made.data) == 5
    found.write_html(tmp_path / "plots.html")
    text = (tmp_path / "plots.html").read_text()
    assert text.count("plotly-graph-div") == 2
    assert 'src="https://' not in text


def test_the_page_plots_the_sweep(lab, found, monkeypatch):
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    app = opened("dictionaries")
    assert not app.exception
    assert app.selectbox(key="sweep").value == found.name
    said = " ".join(block.proto.body for block in app.get("html"))
    assert 'role="alert"' not in said
    assert "No dictionary has been judged yet" in said


def test_what_cannot_be_swept_is_one_sentence(lab, found, tmp_path):
    for asked, sentence in (
        (("bsae", None, ["topk"], [64], [4]), "did you mean 'base'"),
        (("base", 9, ["topk"], [64], [4]), "there is no site '9'"),
        (("base", None, ["tokp"], [64], [4]), "did you mean 'topk'"),
        (("base", None, ["topk"], [64], [65]), "k 65 cannot be"),
        (("base", None, ["topk"], [64], [0]), "cannot be"),
        (("base", None, ["topk"], [], [4]), "at least one"),
        (("base", None, ["topk"], [64], [4], "../x"), "cannot be a sweep name"),
        (("base", None, ["topk"], [64], [4], found.name), "with other settings"),
    ):
        with pytest.raises(Misuse, match=sentence):
            request_sweep(lab, *asked)
    with pytest.raises(Misuse, match="not a list of whole numbers"):
        numbers("4,eight")
    with pytest.raises(Failure, match="sweep again"):
        dataclasses.replace(found, path=tmp_path).table  # noqa: B018
