"""The export is what Neuronpedia's importer reads: files, fields, types; it says what dashboards say."""

from __future__ import annotations

import datetime
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.tiny_lab import shared_lab
from tests.tiny_models import tiny_model
from workbench.disk import write_json
from workbench.errors import Misuse
from workbench.features import FeatureTable
from workbench.lab import Lab
from workbench.neuronpedia import CREATOR_ID, _n_neurons, export, text
from workbench.site import decoder_layers

# Fields and types of the rows of jbloomAus/SAEDashboard, `sae_dashboard/neuronpedia/neuronpedia_export.py`:
# its dataclasses Activation, Feature, Model, Source, SourceRelease, SourceSet); None where it may be null.
NUMBER, NUMBERS, TEXTS = (int, float), [float], [str]
FEATURE = {
    "modelId": str, "layer": str, "index": str, "creatorId": str, "createdAt": str, "maxActApprox": NUMBER,
    "hasVector": bool, "vector": NUMBERS, "vectorLabel": None, "vectorDefaultSteerStrength": NUMBER,
    "hookName": str,
    "topkCosSimIndices": [int], "topkCosSimValues": NUMBERS,
    "neuron_alignment_indices": [int], "neuron_alignment_values": NUMBERS, "neuron_alignment_l1": NUMBERS,
    "correlated_neurons_indices": [int], "correlated_neurons_pearson": NUMBERS,
    "correlated_neurons_l1": NUMBERS,
    "correlated_features_indices": [int], "correlated_features_pearson": NUMBERS,
    "correlated_features_l1": NUMBERS, "neg_str": TEXTS, "neg_values": NUMBERS, "pos_str": TEXTS,
    "pos_values": NUMBERS, "frac_nonzero": NUMBER, "freq_hist_data_bar_heights": NUMBERS,
    "freq_hist_data_bar_values": NUMBERS, "logits_hist_data_bar_heights": NUMBERS,
    "logits_hist_data_bar_values": NUMBERS, "decoder_weights_dist": NUMBERS, "sourceSetName": str,
}  # fmt: skip
ACTIVATION = {
    "id": str, "tokens": TEXTS, "index": str, "layer": str, "modelId": str, "maxValue": NUMBER,
    "maxValueTokenIndex": int, "minValue": NUMBER, "values": NUMBERS, "creatorId": str, "createdAt": str,
    "dataSource": None, "dataIndex": None, "dfaValues": NUMBERS, "dfaTargetIndex": None, "dfaMaxValue": None,
    "lossValues": NUMBERS, "logitContributions": None, "binMin": NUMBER, "binMax": NUMBER,
    "binContains": NUMBER, "qualifyingTokenIndex": int, "zIndices": None, "zValues": None,
}  # fmt: skip
HEADS = {
    "release": {"name": str, "description": str, "creatorName": str, "creatorId": str, "visibility": str},
    "model": {"id": str, "instruct": bool, "creatorId": str, "layers": int, "dimension": int,
              "neuronsPerLayer": int, "owner": str},
    "sourceset": {"modelId": str, "name": str, "creatorId": str, "releaseName": str, "hasDashboards": bool,
                  "description": str, "creatorName": str},
    "source": {"id": str, "modelId": str, "setName": str, "creatorId": str, "num_prompts": int},
}  # fmt: skip
# Explanations come from hijohnnylin/neuronpedia alone: model Explanation of `apps/webapp/prisma/schema.prisma`. Its
# `typeName` and `explanationModelName` refer to rows of other tables, which a lab cannot add to: null.
EXPLANATION = {
    "id": str, "modelId": str, "layer": str, "index": str, "description": str, "authorId": str, "notes": str,
    "typeName": None, "explanationModelName": None, "createdAt": str,
}  # fmt: skip
# Columns of the same file, beside those above, that have no default and may not be null.
REQUIRED = {
    "release": {"name", "description", "creatorName", "creatorId"},
    "model": {"id", "creatorId", "layers", "neuronsPerLayer", "owner"},
    "sourceset": {"modelId", "name", "description", "creatorName", "creatorId"},
    "source": {"id", "modelId", "setName", "creatorId"},
}


def follows(row: dict[str, Any], schema: dict[str, Any], exactly: bool = True) -> None:
    assert set(row) == set(schema) if exactly else set(schema) <= set(row)
    for field, kind in schema.items():
        value = row[field]
        if isinstance(kind, list):
            inner = NUMBER if kind == [float] else kind[0]
            assert isinstance(value, list), field
            assert all(isinstance(v, inner) for v in value), field
        elif kind is not None:
            assert isinstance(value, kind), (field, value)


def lines(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("*.jsonl.gz"), key=lambda p: int(p.name.split("-")[1].split(".")[0]))
    return [json.loads(line) for path in files for line in gzip.open(path, "rt", encoding="utf-8")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    home = tmp_path_factory.mktemp("neuronpedia")
    shutil.copytree(shared_lab().path, home / "tiny")
    return Lab(home / "tiny")


@pytest.fixture(scope="module")
def exported(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureTable, Path]:
    table = FeatureTable.of(lab, "sae-sft")
    table.annotations.set_label(5, "a label by hand")
    said = {"text": "what a model said", "model": "m", "balanced": 0.75, "f1": 0.7, "n": 20}
    write_json(table.annotations.explanations_path, {"latents": {"5": said}})
    [folder] = export(table, tmp_path_factory.mktemp("out"))
    return table, folder


def test_files_lie_where_the_importer_looks(exported):
    _, folder = exported
    assert folder.parts[-2:] == ("tiny-sft", "1-sae-sft")
    assert not list(folder.parent.glob(".partial*"))
    for name, schema in HEADS.items():
        [row] = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        follows(row, schema, exactly=False)
        assert all(row[field] not in (None, "") for field in REQUIRED[name])
        assert datetime.datetime.fromisoformat(row["createdAt"]).tzinfo is not None
        if name == "model":
            assert row["neuronsPerLayer"] == 64


def test_every_row_has_every_field_in_its_type(exported):
    table, folder = exported
    features, activations = lines(folder / "features"), lines(folder / "activations")
    assert [row["index"] for row in features] == [str(j) for j in range(table.table.height)]
    for row in features:
        follows(row, FEATURE)
        assert row["creatorId"] == CREATOR_ID
        assert len(row["pos_str"]) == len(row["pos_values"]) > 0
        assert len(row["logits_hist_data_bar_heights"]) == len(row["logits_hist_data_bar_values"])
        assert sum(row["logits_hist_data_bar_heights"]) == len(table.token_set.vocabulary)
    for row in activations:
        follows(row, ACTIVATION)
        assert len(row["tokens"]) == len(row["values"])
        assert row["maxValue"] == max(row["values"]) == row["values"][row["maxValueTokenIndex"]]
        assert row["modelId"] == "tiny-sft"
        assert row["layer"] == "1-sae-sft"
    assert len({row["id"] for row in activations}) == len(activations)


def test_rows_say_what_the_dashboards_say(exported):
    table, folder = exported
    latent = int(table.table.sort("density", descending=True)["latent"][1])
    found = table.dashboard(latent)
    row = lines(folder / "features")[latent]
    assert row["frac_nonzero"] == pytest.approx(found.row["density"])
    assert row["pos_str"] == [text(token) for token, _ in found.logits["sft"].promoted]
    assert sum(row["freq_hist_data_bar_heights"]) == len(table.index.entries(latent).tokens)
    own = [a for a in lines(folder / "activations") if a["index"] == str(latent)]
    strongest = [a for a in own if a["binContains"] == -1]
    assert len(strongest) == len(found.examples)
    assert strongest[0]["maxValue"] == pytest.approx(found.row["max_activation"], abs=1e-3)
    shares = {(a["binMin"], a["binContains"]) for a in own if a["binContains"] >= 0}
    assert sum(share for _, share in shares) == pytest.approx(1.0, abs=0.01)


def test_labels_are_explanations_and_a_persons_comes_first(exported):
    table, folder = exported
    rows = lines(folder / "explanations")
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        follows(row, EXPLANATION)
        assert row["typeName"] is row["explanationModelName"] is None
        assert row["authorId"] == CREATOR_ID
    [explained] = [row for row in rows if row["id"].endswith("-explained")]
    assert (explained["index"], explained["description"]) == ("5", "what a model said")
    assert explained["notes"] == "explained by m; detection: balanced 0.750 on 20 texts"
    told = {int(row["index"]): row for row in rows if row is not explained}
    assert told[5]["notes"] == "label by a person"  # the figures of our label are not those of the person's
    scored = table.table.filter(pl.col("label").is_not_null(), pl.col("label_detection").is_not_null())
    first = next(row for row in scored.iter_rows(named=True) if row["latent"] != 5)
    assert f"balanced {first['label_detection']:.3f}" in told[first["latent"]]["notes"]
    assert told[first["latent"]]["notes"].startswith(f"Marble's {first['label_kind']} label; ")
    assert told[5]["description"] == "a label by hand"
    own = table.table.filter(table.table["label"].is_not_null())["latent"].to_list()
    assert set(told) == set(own) | {5}


def test_an_export_is_never_written_over_and_a_crosscoder_has_a_source_each(lab, exported, tmp_path):
    table, folder = exported
    with pytest.raises(Misuse, match="is there already"):
        export(table, folder.parents[1])
    folders = export(FeatureTable.of(lab, "crosscoder"), tmp_path)
    assert [f.parent.name for f in folders] == ["tiny-base", "tiny-sft", "tiny-grpo"]


def test_no_file_is_empty(exported, tmp_path, monkeypatch):
    """The importer reads a file's columns from its first line, and stops where there is none."""
    from workbench import neuronpedia

    table, _ = exported
    monkeypatch.setattr(neuronpedia, "_texts", lambda found: iter(()))
    [folder] = export(table, tmp_path)
    assert not list((folder / "activations").iterdir())
    assert all(gzip.decompress(path.read_bytes()) for path in folder.rglob("*.gz"))


def test_of_a_mixture_of_experts_no_neurons_are_counted():
    dense, mixed = (decoder_layers(tiny_model(family))[0] for family in ("llama", "mixtral"))
    assert (_n_neurons(dense), _n_neurons(mixed)) == (64, 0)
