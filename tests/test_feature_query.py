"""Search, filters and order of the table of latents say what a slow reading of the table says; directions,
map and files keep their laws."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.decomposition import PCA

from tests.tiny_lab import shared_lab
from workbench import feature_export, feature_geometry
from workbench.disk import write_json
from workbench.errors import Misuse
from workbench.feature_query import ALIVE, DEAD, EXAMPLES, FACTOR, LABEL, PROMOTED, Query, Searcher, checkpoints
from workbench.features import FeatureTable
from workbench.lab import Lab


@pytest.fixture(scope="module")
def lab():
    return shared_lab()


@pytest.fixture(scope="module", params=["crosscoder", "sae-sft"])
def table(request, lab):
    return FeatureTable.of(lab, request.param)


@pytest.fixture(scope="module")
def searcher(table):
    return Searcher(table).warm()


def test_hits_are_those_of_a_slow_reading(table, searcher):
    for text in ("River", "the", "<script>", "no such text"):
        slow = [
            sum(text.lower() in e.lower() for e in table.excerpts.filter(pl.col("latent") == latent)["text"])
            for latent in range(table.table.height)
        ]
        assert searcher.hits(text, EXAMPLES).to_list() == slow
    found = searcher.find(Query("river", EXAMPLES))
    assert found["latent"].to_list() == table.search("river")["latent"].to_list()


def test_everywhere_is_the_sum_of_the_places(searcher):
    for text in ("e", "answer", "␣the"):
        parts = [searcher.hits(text, place) for place in (EXAMPLES, FACTOR, PROMOTED, "label")]
        assert searcher.hits(text, "everything").to_list() == [sum(row) for row in zip(*parts, strict=True)]


def test_a_space_is_found_in_tokens_as_they_are_shown(table, searcher):
    shown = next(t for row in table.table["promoted"] for t in row if t.startswith("␣") and len(t) > 3)
    holds = [any(shown.lower() in t.lower() for t in row) for row in table.table["promoted"]]
    for text in (shown, shown.replace("␣", " ")):
        assert (searcher.hits(text, PROMOTED) > 0).to_list() == holds


def test_filters_keep_what_they_say(table, searcher):
    rows = table.table
    for query, kept in (
        (Query(), rows),
        (Query(alive=ALIVE), rows.filter(pl.col("density") > 0)),
        (Query(alive=DEAD), rows.filter(pl.col("density") == 0)),
        (Query(density=(0.001, 0.05)), rows.filter(pl.col("density").is_between(0.001, 0.05))),
        (Query(auroc=0.7), rows.filter(pl.col("factor_auroc") >= 0.7)),
        (Query(factor="Entity"), rows.filter(pl.col("factor").str.contains("entity"))),
    ):
        assert searcher.find(query)["latent"].to_list() == kept["latent"].to_list()
    both = searcher.find(Query(alive=ALIVE)).height + searcher.find(Query(alive=DEAD)).height
    assert both == rows.height


def test_a_change_and_its_reverse_are_reciprocal(table, searcher):
    a, b = checkpoints(table.table)[:2]
    there, back = searcher.change((a, b)).to_numpy(), searcher.change((b, a)).to_numpy()
    known = ~np.isnan(there)
    assert known.any()
    assert np.isfinite(there[known]).all()
    assert there[known] * back[known] == pytest.approx(1)
    found = searcher.find(Query(change=(a, b), at_least=1.5, order="largest change"))
    assert (found["change"] >= 1.5).all()
    assert found["change"].is_sorted(descending=True)
    assert found.height == (there[known] >= 1.5).sum()


def test_orders_are_orders(searcher):
    assert searcher.find(Query(order="most frequent"))["density"].is_sorted(descending=True)
    assert searcher.find(Query(order="rarest"))["density"].is_sorted()
    assert searcher.find(Query("e", order="strongest"))["max_activation"].is_sorted(descending=True)
    assert searcher.find(Query("e"))["hits"].is_sorted(descending=True)


@pytest.fixture
def told(tmp_path) -> FeatureTable:
    """A table of which people, and a language model, have said something."""
    shutil.copytree(shared_lab().path, tmp_path / "tiny")
    table = FeatureTable.of(Lab(tmp_path / "tiny"), "sae-sft")
    table.annotations.set_label(9, "Zebras, mostly")
    table.annotations.set_label(4, "an own label")
    table.annotations.set_star(4, True)
    table.annotations.set_star(7, True)
    write_json(
        table.annotations.explanations_path,
        {"latents": {"3": {"text": "stripes of a quagga", "model": "m", "balanced": 0.9, "f1": 0.9, "n": 20}}},
    )
    return table


def test_what_people_say_is_searched_filtered_and_ordered_by(told):
    searcher = Searcher(told).warm()
    assert searcher.find(Query("zebras"))["latent"].to_list() == [9]
    assert searcher.find(Query("QUAGGA", LABEL))["latent"].to_list() == [3]
    assert searcher.find(Query("zebras", FACTOR)).height == 0
    assert searcher.find(Query(starred=True))["latent"].to_list() == [4, 7]
    assert searcher.find(Query(labelled=True))["own_label"].to_list() == ["an own label", "Zebras, mostly"]
    assert searcher.find(Query(starred=True, labelled=True))["latent"].to_list() == [4]
    assert searcher.find(Query(order="starred first"))["latent"].to_list()[:3] == [4, 7, 0]
    told.annotations.set_label(9, "")  # a searcher that is kept sees what is said now
    assert searcher.find(Query("zebras")).height == 0
    best = searcher.find(Query(order="label score"))
    known = best["label_score"].drop_nulls()
    assert known.is_sorted(descending=True)
    assert best["label_score"].to_list()[: len(known)] == known.to_list()
    assert best.height == told.table.height


def test_what_people_say_goes_into_files_and_dashboards(told):
    rows = Searcher(told).find(Query())
    saved = json.loads(feature_export.list_json(told.name, rows))["latents"]
    assert (saved[4]["own_label"], saved[4]["star"], saved[5]["own_label"]) == ("an own label", True, None)
    read = list(csv.DictReader(io.StringIO(feature_export.list_csv(rows))))
    assert (read[9]["own_label"], read[9]["star"], read[7]["star"]) == ("Zebras, mostly", "false", "true")
    near = told.parts["neighbours"].filter(pl.col("other") == 9)["latent"]
    called = told.dashboard(int(near[0])).parts["neighbours"].filter(pl.col("other") == 9)["called"]
    assert set(called) == {"Zebras, mostly"}
    assert told.dashboard(3).explanation["text"] == "stripes of a quagga"


def test_what_fires_on_a_text_keeps_its_order_under_filters(table, searcher):
    fires = pl.DataFrame({"latent": [5, 2, 9], "fires_with": [3.0, 2.0, 1.0]}).cast({"latent": pl.Int32})
    assert searcher.find(Query(), fires)["latent"].to_list() == [5, 2, 9]
    alive = [j for j in (5, 2, 9) if table.table["density"][j] > 0]
    assert searcher.find(Query(alive=ALIVE), fires)["latent"].to_list() == alive


def test_a_query_that_cannot_be_is_one_sentence(searcher):
    with pytest.raises(Misuse, match="needs two checkpoints"):
        Query(order="largest change")
    with pytest.raises(Misuse, match="nowhere"):
        Query(place="nowhere")
    with pytest.raises(Misuse, match="smft"):
        searcher.change(("smft", "grpo"))


def test_the_map_is_the_principal_plane(table):
    directions = feature_geometry.unit_directions(table.dictionary)
    assert directions.norm(dim=1).numpy() == pytest.approx(1, abs=1e-5)
    found = feature_geometry.plane(directions)
    reference = PCA(2, svd_solver="full").fit(directions.double().numpy())
    theirs = reference.transform(directions.double().numpy())
    for axis in (0, 1):
        assert abs(np.corrcoef(found.places[:, axis], theirs[:, axis])[0, 1]) == pytest.approx(1, abs=1e-4)
    assert found.places.var(axis=0) == pytest.approx(theirs.var(axis=0), rel=1e-4)
    assert found.shares == pytest.approx(tuple(reference.explained_variance_ratio_), rel=1e-4)


def test_the_best_match_of_a_latent_is_the_nearest(lab):
    joint, sae = (FeatureTable.of(lab, name).dictionary for name in ("crosscoder", "sae-sft"))
    slow = torch.nn.functional.cosine_similarity(
        joint.W_dec[7, joint.model_index("sft")][None], sae.W_dec[:, 0]
    )
    found = feature_geometry.best_match(joint, 7, sae)
    assert found.latent == int(slow.argmax())
    assert found.cosine == pytest.approx(float(slow.max()), abs=1e-5)
    itself = feature_geometry.cosines(sae, 7, sae)
    assert itself[7] == pytest.approx(1, abs=1e-5)
    nearest = feature_geometry.best_match(sae, 7, sae)
    assert nearest.latent != 7
    assert nearest.cosine == pytest.approx(float(np.delete(itself, 7).max()))


def test_decoders_of_different_spaces_have_no_cosine(lab):
    sae = FeatureTable.of(lab, "sae-sft").dictionary
    half = sae.d // 2
    narrow = dataclasses.replace(
        sae, W_enc=sae.W_enc[:, :half], W_dec=sae.W_dec[..., :half], b_dec=sae.b_dec[:, :half]
    )
    with pytest.raises(Misuse, match="no cosine"):
        feature_geometry.best_match(sae, 0, narrow)


def test_a_latent_is_saved_as_it_is_shown(table):
    latent = int(table.table.sort("density", descending=True)["latent"][0])
    found = table.dashboard(latent)
    saved = json.loads(feature_export.latent_json(table.name, found))
    assert saved["latent"] == latent
    assert saved["dictionary"] == table.name
    assert [e["tokens"] for e in saved["examples"]] == [e.tokens for e in found.examples]
    assert sum(saved["histogram"]["counts"]) == sum(found.histogram.counts)
    for name, rows in found.parts.items():
        if name != "intervals":
            assert len(saved[name]) == rows.height, name
    assert [len(part["examples"]) for part in saved["intervals"]] == [len(p.examples) for p in found.intervals]
    assert {"star", "own_label", "explanation"} <= set(saved)
    rows = list(csv.DictReader(io.StringIO(feature_export.latent_csv(table.name, found))))
    assert [row["tokens"].split(" ") for row in rows] == [e.tokens for e in found.examples]
    dead = table.table.filter(pl.col("density") == 0)["latent"]
    if len(dead):
        assert feature_export.latent_csv(table.name, table.dashboard(int(dead[0]))).count("\n") == 1


def test_a_list_is_saved_whole_and_null_where_it_is_not_a_number(table):
    rows = table.table.head(30).with_columns(pl.lit(float("inf")).alias("change"))
    saved = json.loads(feature_export.list_json(table.name, rows), parse_constant=pytest.fail)
    assert [row["latent"] for row in saved["latents"]] == list(range(30))
    assert {row["change"] for row in saved["latents"]} == {None}
    read = list(csv.DictReader(io.StringIO(feature_export.list_csv(rows))))
    assert [row["promoted"].split(" ") for row in read] == rows["promoted"].to_list()
