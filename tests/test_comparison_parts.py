"""A comparison taken apart: what its tables hold, against plain arithmetic on the models themselves."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import polars as pl
import pytest
import torch

from tests.tiny_lab import make_lab, shared_lab, tiny_recipe
from workbench.comparison import Comparison
from workbench.comparison_account import account
from workbench.difference_controls import CHANCE, readouts
from workbench.differences import Differences
from workbench.drift import Drift
from workbench.errors import Failure, Misuse
from workbench.lab import Lab
from workbench.specificity import Exclusive, Share, Specificity, sentence

NAME = "base-sft-grpo"
PAIRS = [("base", "sft"), ("base", "grpo"), ("sft", "grpo")]


@pytest.fixture(scope="module")
def lab() -> Lab:
    return shared_lab()


def test_weights_moved_as_far_as_they_did(lab: Lab) -> None:
    drift = Drift.of(lab, NAME)
    models = {name: lab.checkpoint(name).model().state_dict() for name in ("base", "sft", "grpo")}
    for before, after in PAIRS:
        rows = drift.weights.filter(pl.col("before") == before, pl.col("after") == after)
        assert set(rows["parameter"]) == set(models[before])
        change = sum(float((models[after][n] - w).double().square().sum()) for n, w in models[before].items())
        size = sum(float(w.double().square().sum()) for w in models[before].values())
        assert drift.figures["moved"][f"{before}|{after}"] == pytest.approx((change / size) ** 0.5, rel=1e-5)
        assert drift.figures["apart"][f"{before}|{after}"] == []
    norms = drift.weights.filter(pl.col("kind").str.contains("norm"))
    assert norms["effective_rank"].null_count() == norms.height
    assert (norms["unchanged"] == 1.0).all()  # the tiny stages move matrices alone


def test_layers_and_the_matrix_of_them_agree(lab: Lab) -> None:
    drift = Drift.of(lab, NAME)
    n_layers = lab.checkpoint("base").n_layers
    assert set(drift.layers.select("before", "after").iter_rows()) == set(PAIRS)
    assert drift.layers.height == len(PAIRS) * n_layers * 2
    assert (drift.layers["low"] <= drift.layers["value"]).all()
    assert (drift.layers["value"] <= drift.layers["high"]).all()
    assert drift.cka.height == len(PAIRS) * n_layers**2
    diagonal = drift.cka.filter(pl.col("layer_before") == pl.col("layer_after"))
    joined = diagonal.join(
        drift.layers.filter(pl.col("figure") == "cka"),
        left_on=["before", "after", "layer_before"],
        right_on=["before", "after", "layer"],
    )
    assert joined.height == diagonal.height
    assert (joined["cka"] - joined["value"]).abs().max() < 0.02  # the matrix reads some of the tokens


def test_drift_grows_from_parent_to_grandchild(lab: Lab) -> None:
    """Every stage of the tiny lab is its parent moved by noise as large: two stages move further than one."""
    moved = Drift.of(lab, NAME).layers.filter(pl.col("figure") == "moved")
    by_pair = {pair: moved.filter(pl.col("before") == pair[0], pl.col("after") == pair[1]) for pair in PAIRS}
    for layer in range(lab.checkpoint("base").n_layers):
        one, two = (by_pair[p].filter(pl.col("layer") == layer)["value"].item() for p in PAIRS[:2])
        assert two > one > 0


def test_scaling_is_of_the_lab_s_own_tokens(lab: Lab) -> None:
    """ν of one latent, by hand: the crosscoder, the stored activations, no markers."""
    found, comparison = Specificity.of(lab, NAME), Comparison.of(lab, NAME)
    from workbench.features import FeatureTable
    from workbench.tokens import token_set

    table = FeatureTable.of(lab, "crosscoder")
    counted = ~np.asarray(token_set(lab, "base").special)
    x = table.activations[np.flatnonzero(counted)]
    f = table.dictionary.encode(x)
    latent = int((f > 0).sum(dim=0).argmax())
    scales, W_dec = table.dictionary.scales, table.dictionary.W_dec
    d = W_dec[latent, 1] / scales[1]

    def beta(m: int) -> float:
        rest = (x[:, m] - table.dictionary.decode(f)[:, m]) / scales[m]
        rest = rest + f[:, latent, None] * W_dec[latent, m] / scales[m]
        return float((f[:, latent] * (rest @ d)).sum() / (d.square().sum() * f[:, latent].square().sum()))

    row = found.table.filter(pl.col("latent") == latent, pl.col("own") == "sft", pl.col("other") == "base")
    assert row["error"].item() == pytest.approx(abs(beta(0)) / beta(1), rel=1e-3)
    assert row["n"].item() == int((f[:, latent] > 0).sum())
    pairs = set(found.table.select("own", "other").iter_rows())
    assert pairs == set(itertools.permutations(comparison.checkpoints, 2))
    known = found.table.drop_nulls()
    assert (known["error_low"] <= known["error_high"]).all()


def test_what_is_specific_is_under_every_bound(lab: Lab) -> None:
    found = Specificity.of(lab, NAME)
    for name in ("base", "sft", "grpo"):
        rows = found.table.filter(pl.col("own") == name)
        for latent in found.specific(name):
            mine = rows.filter(pl.col("latent") == latent)
            assert (mine["error"] < 0.2).all()
            assert (mine["reconstruction"] < 0.5).all()
        shares = found.exclusive(name)
        assert shares.specific.hits == len(found.specific(name))
        assert shares.confirmed.hits <= shares.confirmed.n == shares.by_norm.hits


def test_mean_differences_are_of_the_lab_s_own_activations(lab: Lab) -> None:
    """Size and lens of one group by hand: digits, sft → grpo."""
    found = Differences.of(lab, NAME)
    from workbench.site import direct_logits
    from workbench.tokens import token_set

    tokens = token_set(lab, "base")
    digits = np.array([shown.strip("␣").isdigit() for shown in tokens.vocabulary])[np.asarray(tokens.tokens)]
    x, y = (
        np.load(lab.find("activations", name).path / "heldout.npy")[digits].astype(np.float64)
        for name in ("sft", "grpo")
    )
    here = {"before": "sft", "after": "grpo", "site": found.figures["site"], "group": "digits"}
    row = found.means.filter(**here).row(0, named=True)
    delta = (y - x).mean(0)
    assert row["n"] == digits.sum()
    assert row["size"] == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(x, axis=1).mean(), rel=1e-5)
    assert row["coherence"] == pytest.approx(
        np.linalg.norm(delta) / np.linalg.norm(y - x, axis=1).mean(), rel=1e-5
    )
    model = lab.checkpoint("grpo").model()
    added = direct_logits(model, torch.tensor(delta, dtype=torch.float32)[None])[0]
    first = found.lens.filter(**here, head="grpo", reading="plain", end="promoted", place=1)
    assert first["id"].item() == int(added.argmax())
    assert first["by"].item() == pytest.approx(float(added.max() - added.mean()), abs=1e-4)


def test_every_figure_of_a_difference_has_its_interval_and_its_control(lab: Lab) -> None:
    found = Differences.of(lab, NAME)
    assert found.pairs == PAIRS
    assert found.sites == ["blocks.1.hook_resid_post", "blocks.3.hook_resid_post"]
    for table in (found.means.filter(pl.col("blocks") > 1), found.components.filter(of="stream")):
        value = table["size"] if "size" in table.columns else table["share"]
        assert ((table["low"] <= value + 0.05) & (value - 0.05 <= table["high"])).all()
    assert set(found.steering["direction"]) == {"difference", "random"}
    assert found.steering.filter("own").height * 5 == found.steering.height
    assert (found.steering.filter(figure="strayed")["value"] > 0).all()
    assert set(found.readout["class"]) == {"chat markers", "answer openings"}
    assert found.readout["p"].is_between(0, 1, closed="right").all()
    assert set(found.contexts["component"]) == {1, 2, 3}


def test_ranks_stand_beside_chance_and_a_control_that_is_not_there_is_left_out(lab: Lab) -> None:
    table = readouts(lab, Differences.of(lab, NAME), "base", "sft")
    assert table["series"].unique(maintain_order=True).to_list() == ["base → sft", CHANCE]
    assert {"<|user|>", "<|assistant|>", "<|end|>"} < set(table["token"])


def test_an_account_names_every_pair_and_every_checkpoint(lab: Lab) -> None:
    told = account(lab, NAME)
    text = told.describe()
    for before, after in PAIRS:
        assert f"{before} → {after}: weights moved by" in text
    assert text.count("latent scaling") == 3
    assert text.count("on own samples: KL(") == len(PAIRS)
    assert "KL(grpo‖base)" in text
    assert "behind questions: tokens a sample" in text
    assert {row["checkpoint"] for row in told.figures["samples"]["said"]} == {"base", "sft", "grpo"}
    assert text.count("mean difference at blocks.1.hook_resid_post") == text.count("of prose it promotes") == 3
    assert set(told.figures["exclusive"]) == {"base", "sft", "grpo"}
    json.dumps(told.figures, allow_nan=False)


def test_words_for_none_and_for_some() -> None:
    none, few = Share.of(0, 90), Share.of(3, 90)
    nothing = Exclusive("sft", none, Share.of(0, 0), none, Share.of(1, 50))
    assert sentence(nothing) == (
        "sft: no latent is its own by norm; latent scaling: 0 (of 50 random shared latents it passes 1)"
    )
    some = Exclusive("sft", few, Share.of(2, 3), few, Share.of(0, 50))
    assert "3 of 90 latents are its own by norm; latent scaling confirms 2" in sentence(some)
    assert Share.of(0, 0) == (0, 0, None, None)


def test_a_comparison_not_taken_apart_says_so(tmp_path) -> None:
    lab = make_lab(tmp_path, "tiny", dataclasses.replace(tiny_recipe()))
    with pytest.raises(Misuse):
        Drift.of(lab, NAME)


def test_a_damaged_table_is_said(lab: Lab, tmp_path) -> None:
    drift = Drift.of(lab, NAME)
    (tmp_path / "layers.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(Failure, match=r"layers.parquet cannot be read .*compare again"):
        _ = dataclasses.replace(drift, path=tmp_path).layers
    torch.manual_seed(0)
    drift.cka.drop("cka").write_parquet(tmp_path / "cka.parquet")
    with pytest.raises(Failure, match="lacks the column 'cka'"):
        _ = dataclasses.replace(drift, path=tmp_path).cka
