"""Comparisons and dictionary scores: exact where they must be, and equal to plain arithmetic elsewhere."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

from saes.arrays import ActivationArrays, TensorActivations
from saes.config import TrainConfig
from saes.heldout import heldout_sums
from saes.metrics import evaluate
from saes.trainer import fit
from tests.tiny_lab import build, make_lab, shared_lab, tiny_recipe
from workbench import dictionaries
from workbench.behaviour import behaviour
from workbench.comparison import Comparison, decoder_cosines, kinds
from workbench.comparison_requests import compare, with_comparison
from workbench.errors import Misuse
from workbench.features import FeatureTable
from workbench.intervals import ratio_interval
from workbench.progress import Progress
from workbench.recipe import AddedCheckpoint, read_recipe
from workbench.splice import spliced_nats
from workbench.tokens import token_set


@pytest.fixture(scope="module")
def lab():
    return shared_lab()


@pytest.fixture(scope="module")
def tokens(lab):
    return token_set(lab, "base")


def test_a_checkpoint_does_not_differ_from_its_copy(lab, tokens):
    """KL(self) = 0 and equal losses, exactly."""
    models = {"one": lab.checkpoint("sft").model(), "copy": lab.checkpoint("sft").model()}
    found = behaviour(models, tokens, tokens.sample_windows(1500, seed=0))
    assert set(found.kl_table()["kl"]) == {0.0}
    assert set(found.kl_table()["high"]) <= {0.0, None} or found.kl_table()["high"].fill_nan(0.0).max() == 0.0
    assert np.array_equal(found.nats["one"], found.nats["copy"])


def test_loss_and_kl_are_plain_sums(lab, tokens):
    """One window after another through both models, by hand."""
    models = {name: lab.checkpoint(name).model() for name in ("base", "grpo")}
    windows = np.array([1, 4, len(tokens.starts) - 2])
    found = behaviour(models, tokens, windows)
    kl = nats = n = 0.0
    for window in windows:
        rows = slice(tokens.starts[window], tokens.stops[window])
        ids = torch.tensor([[tokens.settings["bos"], *tokens.tokens[rows]]])
        with torch.no_grad():
            p, q = (models[name](ids).logits[0, :-1].double().log_softmax(-1) for name in ("base", "grpo"))
        kl += float((p.exp() * (p - q)).sum())
        nats -= float(p.gather(1, ids[0, 1:, None]).sum())
        n += len(p)
    table = found.kl_table().filter((pl.col("p") == "base") & (pl.col("domain") == "all")).row(0, named=True)
    assert table["kl"] == pytest.approx(kl / n, rel=1e-3)
    assert table["n"] == n
    assert found.loss_table().filter(pl.col("domain") == "all")["loss"][0] == pytest.approx(nats / n, rel=1e-5)


def test_kinds_by_hand():
    shares = np.array([[1 / 3] * 3, [0.85, 0.1, 0.05], [0.48, 0.5, 0.02], [0.25, 0.25, 0.5], [0.59, 0.41, 0.0]])
    assert kinds(shares, ("a", "b", "c")) == ["shared", "exclusive:a", "absent:c", "between", "absent:c"]
    assert kinds(np.array([[0.8, 0.0, 0.2]]), ("a", "b", "c")) == ["exclusive:a"]
    pair = np.array([[0.5, 0.5], [0.1, 0.9], [0.65, 0.35]])
    assert kinds(pair, ("a", "b")) == ["shared", "exclusive:b", "between"]


def test_rotation_is_the_angle_between_decoders():
    decoders = np.array([[[1.0, 0], [0, 2]], [[1, 1], [3, 3]], [[0, 0], [1, 0]]])
    cosines = decoder_cosines(decoders, ("a", "b"))["cosine_a_b"]
    np.testing.assert_allclose(cosines[:2], [0, 1], atol=1e-12)
    assert np.isnan(cosines[2])


def test_a_crosscoder_on_a_checkpoint_and_itself_shares_every_latent(lab):
    x = ActivationArrays([lab.find("activations", "sft").path / "dictionary.npy"])
    x = x[np.arange(len(x))].expand(-1, 2, -1).contiguous()
    settings = TrainConfig(n_latents=96, k=6, n_steps=250, batch_size=256)
    dictionary = fit(TensorActivations(x), settings, names=("sft", "copy"))
    alive = (dictionary.encode(x) > 0).any(dim=0).numpy()
    found = np.array(kinds(dictionary.relative_norms().numpy(), dictionary.names))
    assert alive.sum() > 48
    assert set(found[alive]) == {"shared"}


def test_a_comparison_reads_back_whole(lab):
    found = Comparison.of(lab, "base-sft-grpo")
    features = FeatureTable.of(lab, "crosscoder")
    assert found.checkpoints == ("base", "sft", "grpo")
    assert found.latents["latent"].to_list() == features.table["latent"].to_list()
    assert found.latents["kind"].to_list() == kinds(
        features.dictionary.relative_norms().numpy(), found.checkpoints, found.bounds
    )
    assert {"cosine_base_sft", "cosine_base_grpo", "cosine_sft_grpo", "label"} <= set(found.latents.columns)
    pairs = set(found.kl.select("p", "q").iter_rows())
    assert len(pairs) == 6
    for table, value in ((found.kl, "kl"), (found.loss, "loss")):
        some = table.filter(pl.col("n") > 0, pl.col("low").is_not_nan())
        assert ((some["low"] <= some[value]) & (some[value] <= some["high"])).all()
        assert {"all", "prose", "world", "chat", "rollout:base", "rollout:sft"} <= set(table["domain"])
    assert (found.kl["kl"] > 0).all()


def test_splicing_the_stream_itself_changes_nothing(lab, tokens):
    model = lab.checkpoint("base").model()
    windows = tokens.sample_windows(800, seed=0)
    variants = {"zero": lambda x, rows: torch.zeros_like(x), "same": lambda x, rows: x.clone()}
    seen: list[int] = []
    found = spliced_nats(model, 1, tokens, windows, variants, seen.append)
    assert found.score("same") == 1.0
    assert found.score("zero") == 0.0
    assert found.mean_kl("same") == 0.0
    assert found.mean_kl("zero") > 0
    assert sum(seen) == found.n_tokens.sum() == (tokens.stops - tokens.starts)[windows].sum()


def test_a_replacement_is_given_the_rows_of_its_tokens(lab, tokens):
    """What a crosscoder reads of the other models stands in the rows it is told."""
    model = lab.checkpoint("base").model()
    stored = ActivationArrays([lab.find("activations", "base").path / "heldout.npy"])

    def check(stream, rows):
        torch.testing.assert_close(stored[rows][:, 0], stream, atol=1e-5, rtol=0)
        return stream

    spliced_nats(model, 1, tokens, tokens.sample_windows(500, seed=3), {"check": check})


@pytest.mark.parametrize("name", ["crosscoder", "sae-sft"])
def test_fvu_by_document_adds_up_to_the_library_s(lab, tokens, name):
    table = FeatureTable.of(lab, name)
    sums = heldout_sums(table.dictionary, table.activations, np.asarray(tokens.document))
    expected = evaluate(table.dictionary, table.activations)
    for m, checkpoint in enumerate(table.checkpoints):
        fvu, shrinkage = sums.fvu(m), sums.shrinkage(m).value
        assert fvu.value == pytest.approx(expected.fvu[checkpoint], rel=1e-5)
        assert shrinkage == pytest.approx(expected.shrinkage[checkpoint], rel=1e-5)
        low, high = ratio_interval(*fvu)
        assert low < fvu.value < high
    assert sums.l0().value == pytest.approx(expected.l0)
    assert sums.dead_share == pytest.approx(expected.dead_share)
    figures = lab.find("dictionary", name).figures
    wanted = {"l0", "fvu", "dead_share", "ce_score", "pca_fvu", "pca_ce_score"}
    assert wanted <= set(figures)
    assert all(isinstance(figures[w], dict) == (name == "crosscoder") for w in wanted)


def test_an_interval_covers_what_it_should():
    """Documents drawn from one distribution: about 95 in 100 intervals hold its mean."""
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(60):
        n = rng.integers(5, 50, size=80).astype(float)
        sums = n * rng.normal(3.0, 1.0, size=80)
        low, high = ratio_interval(sums, n, seed)
        hits += low <= 3.0 <= high
    assert 50 <= hits <= 60
    assert np.isnan(ratio_interval(np.ones(1), np.ones(1)).low)


def test_a_killed_training_ends_with_the_same_weights(lab, tmp_path, monkeypatch):
    """Stopped at step 25 and grown again: the dictionary of a run that was never stopped, bit for bit."""
    from saes.folder import load

    monkeypatch.setattr(dictionaries, "STATE_EVERY", 10)
    other = make_lab(tmp_path)
    advance = Progress.advance

    class Killed(BaseException):
        pass

    def killed(self, n=1, **figures):
        advance(self, n, **figures)
        if self._status["label"] == "train sae-base" and self._status["done"] >= 25:
            raise Killed

    monkeypatch.setattr(Progress, "advance", killed)
    with pytest.raises(Killed):
        build(other, "dictionary/sae-base")
    monkeypatch.setattr(Progress, "advance", advance)
    build(other, "dictionary/sae-base")
    again = build(shared_lab(), "dictionary/sae-base").find("dictionary", "sae-base")
    assert again.id == other.find("dictionary", "sae-base").id
    one, two = load(other.find("dictionary", "sae-base").path), load(again.path)
    assert torch.equal(one.W_enc, two.W_enc)
    assert torch.equal(one.threshold, two.threshold)


def test_compare_adds_what_is_missing_once(tmp_path):
    recipe = tiny_recipe()
    lab = make_lab(tmp_path, "tiny", dataclasses.replace(recipe, comparisons=(), dictionaries=()))
    assert compare(lab, ["base", "grpo"]) == "base-grpo"
    after = read_recipe(lab.path / "recipe.toml")
    assert [d.checkpoints for d in after.dictionaries] == [("base", "grpo")]
    assert compare(lab, ["base", "grpo"]) == "base-grpo"
    assert read_recipe(lab.path / "recipe.toml") == after
    changed, name = with_comparison(recipe, ("base", "sft"))
    added = changed.dictionary(f"crosscoder-{name}")
    assert (added.d_sae, added.k) == (96, 6)


def test_what_cannot_be_compared_is_refused(tmp_path):
    added = AddedCheckpoint("stranger", "somewhere", "base")
    lab = make_lab(tmp_path, "tiny", dataclasses.replace(tiny_recipe(), added=(added,)))
    for names, sentence in (
        (["base"], "two or more"),
        (["base", "base"], "two or more"),
        (["base", "sfd"], "did you mean 'sft'"),
        (["base", "stranger"], "different roots: .*descend from one"),
    ):
        with pytest.raises(Misuse, match=sentence):
            compare(lab, names)
