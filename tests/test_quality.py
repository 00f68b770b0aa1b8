"""Quality of a lab's dictionary beside its controls: what was stored agrees with what stands elsewhere."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from saes import folder
from saes.arrays import ActivationArrays
from saes.metrics import nearest_cosine
from tests.test_pages import opened
from tests.tiny_lab import begun_lab, build, draft, tiny_llama, tiny_recipe
from workbench import judging, quality, quality_build
from workbench.dictionary_scores import MEAN, ZERO
from workbench.errors import Failure, Misuse
from workbench.features import FeatureTable
from workbench.intervals import median_interval, ratio_interval, wilson
from workbench.plan import STUDY
from workbench.quality import FIGURES, Quality, artefact_name
from workbench.splice import spliced_nats
from workbench.status import describe, status
from workbench.superposition import Study
from workbench.tokens import token_set

NAMES = ("sae-base", "crosscoder")
ALL = {"dictionary", "pca", "neurons", "random", "untrained", "gaussian", "seed-1", "seed-2"}


def with_a_snapshot_of_step_0(lab):
    """The base checkpoint again, with the model it began as (the real stage keeps it so)."""
    before = lab.find("checkpoint", "base")
    again = draft(lab, "checkpoint", "base")
    shutil.copytree(before.path, again.path, dirs_exist_ok=True)
    torch.manual_seed(99)
    tiny_llama(tiny_recipe()).save_pretrained(again.path / "snapshots" / "step-000000")
    again.commit({})
    return lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    asked = {"evaluations": NAMES, "superposition": ("sae-base",)}
    recipe = dataclasses.replace(tiny_recipe(), comparisons=(), **asked)
    lab = with_a_snapshot_of_step_0(begun_lab(tmp_path_factory.mktemp("quality"), recipe))
    return build(lab, *(f"evaluation/{artefact_name(name)}" for name in NAMES), f"evaluation/{STUDY}")


@pytest.fixture(scope="module")
def found(lab):
    return Quality.of(lab, "sae-base")


def test_every_control_has_every_figure_and_intervals_hold_their_points(found):
    controls = found.controls
    assert set(controls["control"]) == ALL
    assert found.missing == {}
    spliced = {"dictionary", "pca", "neurons", "random"}
    for control in ALL:
        have = set(controls.filter(pl.col("control") == control)["figure"])
        lacks = set() if control in spliced else {"ce_score", "ce_score_mean", "kl"}
        assert have == set(FIGURES) - lacks
    bounded = controls.drop_nulls("low")
    assert bounded.height > controls.height / 2
    assert (bounded["low"] <= bounded["value"] + 1e-9).all()
    assert (bounded["value"] <= bounded["high"] + 1e-9).all()
    assert controls["value"].is_finite().all()


def test_figures_agree_with_the_dictionary_s_own_and_with_the_feature_table(lab, found):
    """Without chat markers: every figure of the manifest. How often latents fire: the feature index."""
    figures = lab.find("dictionary", "sae-base").figures
    for figure in ("fvu", "l0", "dead_share", "ce_score", "ce_score_mean"):
        assert found.value("dictionary", figure) == pytest.approx(figures[figure], rel=1e-6)
    assert found.value("dictionary", "fvu_all") != pytest.approx(figures["fvu"], rel=1e-3)
    assert figures["heldout_tokens"] == found.figures["tokens"]
    assert found.value("pca", "l0") == found.figures["k"] == round(found.value("dictionary", "l0"))
    table, tokens = FeatureTable.of(lab, "sae-base"), token_set(lab, "base")
    special = np.asarray(tokens.special)
    assert special.any()
    expected = [int((~special[table.index.entries(j).tokens]).sum()) for j in range(table.index.n_latents)]
    assert found.fires().tolist() == expected
    alive = np.array(expected) > 0
    assert found.value("dictionary", "alive") == alive.sum()
    assert found.value("dictionary", "dead_share") == pytest.approx(1 - alive.mean())
    assert found.value("dictionary", "alive_per_dimension") == alive.sum() / 32
    dictionary = folder.load(lab.find("dictionary", "sae-base").path)
    np.testing.assert_allclose(found.nearest(), nearest_cosine(dictionary, alive).numpy(), rtol=1e-6)
    assert np.nanmedian(found.nearest()) == pytest.approx(found.value("dictionary", "nearest_cosine"))


def test_the_study_of_superposition_says_the_same_of_the_sae_and_of_its_gaussian(lab, found):
    told = Study.of(lab).figures["base"]
    for prefix, control in (("", "dictionary"), ("gaussian_", "gaussian")):
        for figure in ("alive", "alive_per_dimension", "fvu", "l0"):
            assert told[f"{prefix}{figure}"] == pytest.approx(found.value(control, figure), rel=1e-6)
        near = found.value(control, "nearest_cosine")
        assert told[f"{control}_cosine"] == pytest.approx(near, rel=1e-5)
    assert told["tokens"] == found.figures["tokens"]


def test_shares_and_medians_of_latents_have_intervals_over_latents(found):
    """Wilson by hand for none of 96; a median's interval lies inside its values and narrows with their number."""
    z = 1.959963985
    assert wilson(0, 96) == pytest.approx((0.0, z**2 / (96 + z**2)))
    values = np.random.default_rng(0).normal(size=400)
    wide, narrow = median_interval(values[:40]), median_interval(values)
    assert wide.low < np.median(values[:40]) < wide.high
    assert narrow.high - narrow.low < 0.6 * (wide.high - wide.low)
    assert np.isnan(median_interval(values[:1]).low)
    rows = {r["figure"]: r for r in found.controls.filter(pl.col("control") == "dictionary").to_dicts()}
    silent = round(rows["dead_share"]["value"] * 96)
    assert (rows["dead_share"]["low"], rows["dead_share"]["high"]) == pytest.approx(wilson(silent, 96))
    assert rows["nearest_cosine"]["low"] < rows["nearest_cosine"]["value"] < rows["nearest_cosine"]["high"]


def test_a_dead_share_on_few_tokens_says_so(lab, found):
    tokens = found.figures["tokens"]
    assert tokens < quality.DEAD_TOKENS
    assert f"counted on {tokens:,} held-out tokens" in found.describe()
    told = status(lab)
    assert told["dictionaries"]["sae-base"]["heldout_tokens"] == tokens
    assert describe(told).count("counted on") == 1
    told["dictionaries"] = {n: e | {"heldout_tokens": 200_000} for n, e in told["dictionaries"].items()}
    assert "counted on" not in describe(told)
    assert quality.dead_on_few(200_000) == ""


def test_controls_are_beaten_where_they_must_be(found):
    assert found.value("random", "fvu") > found.value("dictionary", "fvu")
    assert found.value("random", "l0") == pytest.approx(found.figures["k"], rel=0.3)
    # Not the CE score: the tiny model knows no language, and any change of its predictions may be for the better.
    assert found.value("dictionary", "kl") < found.value("random", "kl")
    assert found.value("pca", "dead_share") == 0
    assert found.value("pca", "nearest_cosine") == pytest.approx(0, abs=1e-5)


def test_stability_is_of_the_latents_that_fire(found):
    alive, matched = found.fires() > 0, found.matched()
    by = {(r["subject"], r["figure"]): r for r in found.stability.iter_rows(named=True)}
    assert by["seeds", "cosine"]["value"] == pytest.approx(matched[alive].mean())
    assert by["random", "cosine"]["value"] == pytest.approx(found.matched(by_chance=True)[alive].mean())
    assert by["seeds", "cosine"]["n"] == alive.sum()
    assert (matched[~alive] == 0).all()
    assert by["random", "share_0.9"]["value"] == 0
    assert by["seeds", "share_0.7"]["value"] >= by["seeds", "share_0.9"]["value"]
    assert all(r["low"] <= r["value"] <= r["high"] for r in by.values())


def test_a_crosscoder_is_judged_for_each_model_and_says_what_it_lacks(lab):
    found = Quality.of(lab, "crosscoder")
    assert found.controls["checkpoint"].unique().sort().to_list() == ["base", "grpo", "sft"]
    assert "one model" in found.missing["untrained"]
    assert set(found.controls["control"]) == ALL - {"untrained"}
    figures = lab.find("dictionary", "crosscoder").figures
    for checkpoint, value in figures["fvu"].items():
        assert found.value("dictionary", "fvu", checkpoint) == pytest.approx(value, rel=1e-6)


def test_predictions_that_do_not_count_are_left_out_of_every_sum(lab):
    """Counted + not counted = all; a stream put back as it was: score 1, KL 0, whatever counts."""
    tokens, model = token_set(lab, "base"), lab.checkpoint("base").model()
    windows, special = tokens.sample_windows(1500, seed=2), np.asarray(tokens.special)
    variants = {
        ZERO: lambda stream, rows: torch.zeros_like(stream),
        MEAN: lambda stream, rows: stream.mean(dim=0).expand_as(stream),
        "same": lambda stream, rows: stream,
    }
    everything, plain, rest = (
        spliced_nats(model, 1, tokens, windows, variants, counted=counted)
        for counted in (None, ~special, special)
    )
    np.testing.assert_allclose(plain.nats + rest.nats, everything.nats, rtol=1e-9)
    assert plain.n_tokens.sum() + rest.n_tokens.sum() == everything.n_tokens.sum()
    assert plain.score("same") == plain.score("same", MEAN) == 1
    assert plain.mean_kl("same") == 0
    low, high = plain.kl_interval(ZERO)
    assert low < plain.mean_kl(ZERO) < high
    assert ratio_interval(plain.kl[1], plain.n_tokens) == (low, high)


def test_an_interrupted_build_trains_nothing_twice(tmp_path, monkeypatch):
    """Stopped before the last control: grown again it reads the seeds it has, and finds the same."""
    recipe = dataclasses.replace(tiny_recipe(), comparisons=(), evaluations=("sae-base",))
    other = begun_lab(tmp_path, recipe)  # without snapshots
    trained = []
    real, gaussian = judging.train_together, quality_build.GaussianLike

    def counted(build, label, *arguments, **about):
        trained.append(label.split(" ")[0])
        return real(build, label, *arguments, **about)

    class Stopped(BaseException):
        pass

    def stop(*arguments):
        raise Stopped

    monkeypatch.setattr(judging, "train_together", counted)
    monkeypatch.setattr(quality_build, "GaussianLike", stop)
    with pytest.raises(Stopped):
        build(other, "quality-sae-base")
    monkeypatch.setattr(quality_build, "GaussianLike", gaussian)
    build(other, "quality-sae-base")
    assert trained == ["seeds", "gaussian"]
    found = Quality.of(other, "sae-base")
    assert "no snapshot" in found.missing["untrained"]
    assert sorted(p.name for p in found.path.iterdir() if p.is_dir()) == []


def test_the_untrained_control_reads_the_model_before_its_first_step(lab, tmp_path, monkeypatch):
    """Its activations are those of base@0, not of base."""
    kept = {}
    real = quality_build.untrained_activations

    def keep(*arguments):
        found = real(*arguments)
        kept.update({name: array[np.arange(len(array))] for name, array in found.items()})
        kept["address"] = arguments[1]
        return found

    monkeypatch.setattr(quality_build, "untrained_activations", keep)
    shutil.copytree(lab.path, tmp_path / "tiny")
    [old] = (tmp_path / "tiny" / "evaluation").glob("quality-sae-base-*")
    shutil.rmtree(old)
    build(type(lab)(tmp_path / "tiny"), "quality-sae-base")
    assert kept["address"] == "base@0"
    stored = ActivationArrays([lab.find("activations", "base").path / "heldout.npy"])
    trained = stored[np.arange(len(stored))]
    assert kept["heldout"].shape == trained.shape
    assert not torch.allclose(kept["heldout"], trained, atol=0.1)


def test_the_page_draws_each_judged_dictionary(lab, monkeypatch):
    """A crosscoder has a choice of checkpoint; what is missing is said with its reason."""
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    app = opened("dictionaries")
    assert not app.exception
    assert [box.label for box in app.selectbox] == ["Lab", "Dictionary"]
    said = " ".join(block.proto.body for block in app.get("html"))
    assert 'role="alert"' not in said
    assert "python -m workbench sweep" in said
    app.selectbox(key="dictionary").select("crosscoder").run()
    assert not app.exception
    assert "checkpoint" in [box.key for box in app.selectbox]
    said = " ".join(block.proto.body for block in app.get("html"))
    assert "one model" in said
    assert "is counted on" in said
    app.switch_page("lab_page.py").run()
    assert "is counted on" in " ".join(block.proto.body for block in app.get("html"))
    told = Quality.of(lab, "crosscoder").describe()
    assert "between seeds" in told
    assert "gaussian" in told


def test_shares_of_cosines_add_up(found):
    for table in (found.nearest_shares(), found.matched_shares()):
        sums = table.group_by("control").agg(pl.col("share").sum())
        assert sums["share"].to_list() == pytest.approx([1.0] * sums.height)
    assert found.nearest_shares(bins=7).filter(pl.col("control") == "gaussian").height == 7


def test_bad_requests_are_sentences(lab, found, tmp_path):
    with pytest.raises(Misuse, match="quality-sae-sft"):
        Quality.of(lab, "sae-sft")
    with pytest.raises(Misuse, match="did you mean 'pca fvu'"):
        found.value("pca", "fvuu")
    broken = dataclasses.replace(found, path=tmp_path)
    with pytest.raises(Failure, match="evaluate 'sae-base' again"):
        broken.controls  # noqa: B018
    with pytest.raises(Failure, match="evaluate 'sae-base' again"):
        broken.nearest()
    found.controls.drop("low").write_parquet(tmp_path / "controls.parquet")
    with pytest.raises(Failure, match="lacks the column 'low'"):
        dataclasses.replace(found, path=tmp_path).controls  # noqa: B018
    assert quality.artefact_name("x") == "quality-x"
