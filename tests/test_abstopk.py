"""Latents of two signs in a lab: how strongly one fires is |f|, wherever strength is meant."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import polars as pl
import pytest

from tests.tiny_lab import shared_lab
from workbench.detection import around
from workbench.dictionary_requests import request_sae
from workbench.examples import values_between
from workbench.explanations import N_SHOWN, _text, strongest
from workbench.features import FeatureTable
from workbench.followed_factors import followed
from workbench.grow import grow
from workbench.lab import Lab
from workbench.labels import label_columns
from workbench.neuronpedia import _activation
from workbench.recipe import read_recipe, write_recipe


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The table of an abstopk SAE that was asked for and grown in a tiny lab."""
    path = tmp_path_factory.mktemp("labs") / "tiny"
    shutil.copytree(shared_lab().path, path)
    lab = Lab(path)
    assert request_sae(lab, "sft", None, 64, 5, "abstopk", "signed") == "signed"
    recipe = read_recipe(path / "recipe.toml")
    short = dataclasses.replace(recipe.dictionary("signed"), steps=60, batch_size=256)
    write_recipe(
        path / "recipe.toml", dataclasses.replace(recipe, dictionaries=(*recipe.dictionaries[:-1], short))
    )
    grow(lab, ["features/signed"], quiet=True)
    return FeatureTable.of(lab, "signed")


@pytest.fixture(scope="module")
def latent(table):
    """One that fires below zero more strongly than above."""
    values = [np.asarray(table.index.entries(j).values) for j in range(table.index.n_latents)]
    below = [j for j, v in enumerate(values) if len(v) > 30 and -v.min() > v.max() > 0]
    assert below
    return below[0]


def test_rows_are_of_strengths(table):
    dense = table.dictionary.encode(table.activations[np.arange(len(table.token_set))]).numpy()
    assert (dense < 0).any()
    size, rows = np.abs(dense), table.table
    np.testing.assert_allclose(rows["max_activation"].to_numpy(), size.max(axis=0), rtol=1e-4)
    means = size.sum(axis=0) / np.maximum((dense != 0).sum(axis=0), 1)
    np.testing.assert_allclose(rows["mean_activation"].to_numpy(), means, rtol=1e-3)
    np.testing.assert_allclose(rows["density"].to_numpy(), (dense != 0).mean(axis=0), atol=2 / len(dense))
    tokens = np.asarray(table.token_set.tokens)
    for j in np.flatnonzero(size.any(axis=0))[:10]:
        sums = np.bincount(tokens, size[:, j], minlength=len(table.token_set.vocabulary))
        assert sums[table.token_set.vocabulary.index(rows["top_token"][int(j)])] == pytest.approx(sums.max())


def test_a_dashboard_shows_what_is_far_from_zero(table, latent):
    found = table.dashboard(latent)
    peaks = [example.values[example.peak] for example in found.examples]
    assert min(peaks) < 0
    assert np.all(np.diff(np.abs(peaks)) <= 1e-6)
    assert abs(peaks[0]) == pytest.approx(found.row["max_activation"], rel=1e-5)
    assert sum(found.histogram.counts) == len(table.index.entries(latent).values)
    for part in found.intervals:
        for example in part.examples:
            assert part.low - 1e-5 <= abs(example.values[example.peak]) <= part.high + 1e-5
    exported = _activation(found.examples[0], -1.0, 1.0, -1.0)
    assert exported["maxValueTokenIndex"] == found.examples[0].peak
    assert exported["maxValue"] == pytest.approx(abs(peaks[0]), abs=1e-3)
    shown = table.show(latent).html
    assert "rgba(177" in shown  # the tint below zero


def test_factors_and_labels_do_not_depend_on_the_signs(table):
    """Of the index with every sign lost they are those stored."""
    positive = dataclasses.replace(table.index, values=np.abs(table.index.values))
    assert followed(positive, table.token_set).equals(table.parts["factors"])
    promoted = table.logit_arrays("sft")[0][:, 0]
    again = label_columns(positive, table.token_set, promoted)
    assert again["label"].to_list() == table.table["label"].to_list()
    np.testing.assert_array_equal(again["label_score"].to_numpy(), table.table["label_score"].to_numpy())


def test_texts_for_a_language_model_begin_with_the_strongest(table, latent):
    inside = np.ones(len(table.token_set), bool)
    tokens, values = table.index.entries(latent)
    texts = strongest(table, latent, inside)
    assert 0 < len(texts) <= N_SHOWN
    assert "<<" in texts[0]
    peak = int(tokens[np.abs(values).argmax()])
    row = values_between(table.index, latent, peak, peak + 1)
    assert row[0] < 0
    start, stop = (int(edge[0]) for edge in around(table.token_set, np.array([peak])))
    assert texts[0] == _text(table, latent, start, stop, marked=True)


def test_a_text_is_read_in_both_signs(table):
    text = "Fellow citizens, the letter b in banana"
    found = table.fires_on(text)
    assert (found["value"] < 0).any()
    sizes = found["value"].abs().to_numpy()
    assert (np.diff(sizes) <= 0).all()
    for row in found.iter_rows(named=True):
        assert abs(row["value"]) == pytest.approx(max(map(abs, row["values"])))


def test_writers_explain_the_size(table):
    """On a latent's strongest tokens |pre| is above what is usual, so what writes it adds up to more than
    nothing."""
    totals = table.parts["writers"].group_by("latent").agg(total=pl.col("delta").sum())
    assert (totals["total"] > 0).mean() > 0.9
