"""A transcoder is evaluated as an SAE is: at the MLP's output, beside controls that write it too."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from saes import folder
from saes.arrays import ActivationArrays
from saes.factors import halved
from tests.test_pages import opened
from tests.test_quality import with_a_snapshot_of_step_0
from tests.tiny_lab import build, shared_lab
from workbench import dictionary_requests
from workbench.clamping import Site, Texts
from workbench.dictionary_requests import request_transcoder
from workbench.evaluation_requests import request_evaluation
from workbench.lab import Lab
from workbench.mlp_neurons import MlpNeurons
from workbench.points import MLP_IN, MLP_OUT
from workbench.points import Site as Place
from workbench.quality import FIGURES, Quality, artefact_name
from workbench.recipe import DictionaryConfig
from workbench.tokens import token_set
from workbench.truth import POOLS, TABLES, Truth, describe, sentence
from workbench.truth_build import factor_table, labelled_rows

NAME = "transcoder"
SPLICED = {"dictionary", "pca", "neurons", "linear", "linear-k", "random"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A copy of the shared lab with a transcoder, evaluated."""
    lab = Lab(Path(shutil.copytree(shared_lab().path, tmp_path_factory.mktemp("home") / "tiny")))
    with_a_snapshot_of_step_0(lab)
    short = functools.partial(DictionaryConfig, steps=80, batch_size=256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dictionary_requests, "DictionaryConfig", short)
        request_transcoder(lab, "base", 1, 96, 6, "batchtopk", NAME, skip=False)
    assert NAME in request_evaluation(lab)
    return build(lab, f"evaluation/{artefact_name(NAME)}", f"evaluation/truth-{NAME}")


@pytest.fixture(scope="module")
def found(lab):
    return Quality.of(lab, NAME)


@pytest.fixture(scope="module")
def truth(lab):
    return Truth.of(lab, NAME)


def test_it_has_every_figure_and_its_own_controls(lab, found):
    controls = found.controls
    assert set(controls["control"]) == SPLICED | {"seed-1", "seed-2", "untrained"}
    assert "covariance" in found.missing["gaussian"]
    assert "no gaussian control: input and output" in found.describe()
    assert "linear-k" in found.describe()
    for control in set(controls["control"]):
        lacks = set() if control in SPLICED else {"ce_score", "ce_score_mean", "kl"}
        assert set(controls.filter(pl.col("control") == control)["figure"]) == set(FIGURES) - lacks
    bounded = controls.drop_nulls("low")
    assert (bounded["low"] <= bounded["value"] + 1e-9).all()
    assert (bounded["value"] <= bounded["high"] + 1e-9).all()
    figures = lab.find("dictionary", NAME).figures
    for figure in ("fvu", "l0", "dead_share", "ce_score", "ce_score_mean"):
        assert found.value("dictionary", figure) == pytest.approx(figures[figure], rel=1e-5)
    assert found.value("dictionary", "kl") == pytest.approx(figures["kl_spliced"], rel=1e-5)


def test_fvu_of_linear_maps_and_pca_is_of_the_output(lab, found):
    """Against scikit-learn on the stored activations; the map is fitted on the dictionary set."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LinearRegression

    from workbench.dictionaries import split_rows

    def stored(point, name):
        array = ActivationArrays([lab.find("activations", f"base-layer1-{point}").path / f"{name}.npy"])
        return array[np.arange(len(array))][:, 0].double().numpy()

    fitted = split_rows(token_set(lab, "base", "dictionary"))[0]
    x, y = (stored(point, "dictionary")[fitted] for point in (MLP_IN, MLP_OUT))
    plain = ~np.asarray(token_set(lab, "base").special)
    X, Y = (stored(point, "heldout")[plain] for point in (MLP_IN, MLP_OUT))
    total = ((Y - Y.mean(axis=0)) ** 2).sum()
    linear = ((Y - LinearRegression().fit(x, y).predict(X)) ** 2).sum() / total
    assert found.value("linear", "fvu") == pytest.approx(linear, rel=1e-3)
    k = found.figures["k"]
    pca = PCA(k).fit(y)
    assert found.value("pca", "fvu") == pytest.approx(
        ((Y - pca.inverse_transform(pca.transform(Y))) ** 2).sum() / total, rel=1e-3
    )
    assert found.value("linear-k", "l0") == found.value("neurons", "l0") == k
    assert found.value("linear", "fvu") < found.value("linear-k", "fvu")
    assert found.value("pca", "fvu") <= found.value("linear-k", "fvu")  # it reads the answer
    assert found.value("random", "fvu") > found.value("dictionary", "fvu")
    assert found.value("dictionary", "kl") < found.value("random", "kl")


def test_the_neurons_are_those_of_the_mlp(lab):
    """All of them make the output again; they are what the hook of `workbench.neurons` reads."""
    from workbench.neurons import neurons

    model, tokens = lab.checkpoint("base").model(), token_set(lab, "base")
    inputs, targets = (
        ActivationArrays([lab.find("activations", f"base-layer1-{p}").path / "heldout.npy"])
        for p in (MLP_IN, MLP_OUT)
    )
    hidden, rows = MlpNeurons(model, 1, inputs), np.arange(200)
    np.testing.assert_allclose(
        hidden[rows][:, 0].numpy().T, neurons(model, 1, tokens, rows), atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(hidden[rows] @ hidden.W_out.T, targets[rows], atol=1e-4, rtol=1e-3)
    assert hidden.write(targets)
    assert not hidden.write(inputs)


def test_stability_and_the_untrained_model(lab, found):
    by = {(r["subject"], r["figure"]): r["value"] for r in found.stability.iter_rows(named=True)}
    assert by["seeds", "cosine"] > by["random", "cosine"]
    assert found.value("untrained", "fvu") != pytest.approx(found.value("dictionary", "fvu"), rel=1e-3)
    assert folder.load(lab.find("dictionary", NAME).path).n_latents == len(found.matched())


def test_the_page_shows_it(lab, monkeypatch):
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    app = opened("dictionaries")
    assert not app.exception
    said = " ".join(block.proto.body for block in app.get("html"))
    assert 'role="alert"' not in said
    assert "the best linear map from input to output" in said
    assert "There is no gaussian control: input and output" in said
    assert [box.label for box in app.selectbox if box.key == "truth"] == ["Held to the factors"]


def test_its_latents_are_held_to_the_factors_beside_the_mlps_neurons(truth):
    assert set(truth.units["pool"]) == set(POOLS)
    assert truth.figures["whole"] == "the MLP's whole output"
    for name in TABLES:
        assert truth.table(name).width > 3
    assert sentence(truth.figures) in describe(NAME, truth.figures)


def test_its_latents_read_the_mlps_input_and_pcas_too(lab, truth):
    """AUROC of chosen units, by hand from the encoder and from eigenvectors on what the MLP reads."""
    from sklearn.metrics import roc_auc_score

    tokens = token_set(lab, "base")
    rows = labelled_rows(tokens)
    halves = halved(factor_table(tokens, rows))
    stored = ActivationArrays([lab.find("activations", f"base-layer1-{MLP_IN}").path / "heldout.npy"])
    x = stored[rows]
    latents = folder.load(lab.find("dictionary", NAME).path).encode(x)
    away = (x[:, 0] - x[:, 0].mean(dim=0)).double()
    scores = away @ torch.linalg.eigh(away.T @ away).eigenvectors.flip(1)
    told = truth.units.filter((pl.col("method") == "unit") & (pl.col("metric") == "auroc"))
    for pool, values in (("latents", latents), ("pca", scores)):
        for row in told.filter(pl.col("pool") == pool).sample(8, seed=0).iter_rows(named=True):
            on = halves.second.column(halves.second.names.index(row["factor"]))
            unit = row["unit"] // 2 if pool == "pca" else row["unit"]
            found = roc_auc_score(on, values[halves.second_rows, unit].numpy())
            if pool == "pca":  # the sign of an eigenvector is nobody's choice
                found, row["value"] = max(found, 1 - found), max(row["value"], 1 - row["value"])
            assert row["value"] == pytest.approx(found, abs=5e-3)


def test_a_clamp_moves_what_the_mlp_writes_by_what_it_reads(lab):
    """By hand with hooks: f of the MLP's input, the difference added to its output; patching all of it there."""
    model, made = lab.checkpoint("base").model(), folder.load(lab.find("dictionary", NAME).path)
    site = Site([model], Place(1, MLP_OUT), made, 0, Place(1, MLP_IN))
    ids = torch.tensor(np.asarray(token_set(lab, "base").tokens[:24]).reshape(2, 12), dtype=torch.long)
    texts = Texts(ids, torch.zeros_like(ids, dtype=torch.bool))
    texts.at[:, 5] = True
    given, wrote = [], []
    mlp = model.model.layers[1].mlp

    def keep(module, inputs, output):
        given.append(inputs[0])
        wrote.append(output)

    handle = mlp.register_forward_hook(keep)
    with torch.no_grad():
        model(ids)
        model(ids.flip(1))
    handle.remove()
    f = made.encode(given[0][:, 5, None])
    latent = int(f.amax(dim=0).argmax())
    moved = site.differences(texts, [{latent: 3.0}] * 2)
    torch.testing.assert_close(moved[:, 5], (3.0 - f[:, latent, None]) * made.W_dec[latent, 0])
    assert not moved[~texts.at].any()
    patched = site.patches(texts, Texts(ids.flip(1), texts.at))
    torch.testing.assert_close(patched[:, 5], (wrote[1] - wrote[0])[:, 5])
    code = site.patches(texts, Texts(ids.flip(1), texts.at), latents_only=True)
    there, here = (made.reconstruct(x[:, 5, None])[:, 0] for x in (given[1], given[0]))
    torch.testing.assert_close(code[:, 5], there - here)
