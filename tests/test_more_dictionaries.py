"""Dictionaries that read more than one finished checkpoint: crosscoders of snapshots, L1 and dedicated ones, SAEs
of differences; and comparisons through them."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

from saes.arrays import ActivationArrays
from saes.pca import PCA
from tests.test_lives import with_snapshots
from tests.tiny_lab import begun_lab, tiny_recipe
from workbench import points
from workbench.cli import main
from workbench.comparison import Comparison
from workbench.comparison_account import account
from workbench.comparison_requests import finished_comparison, request_comparisons
from workbench.dictionary_requests import request_crosscoder, request_saes
from workbench.dictionary_scores import ZERO, differences
from workbench.errors import Misuse
from workbench.evaluation_requests import request_evaluation
from workbench.features import FeatureTable
from workbench.gains import accuracies
from workbench.grow import grow
from workbench.lab import Lab
from workbench.lives import Lives
from workbench.plan import Plan, plan
from workbench.recipe import AddedCheckpoint, DictionaryConfig, read_recipe, write_recipe
from workbench.site import read_sites
from workbench.status import status
from workbench.steering import Site
from workbench.verdict import sheet

SMALL = {"steps": 60, "batch_size": 256}
NAMES = ("base@8", "base", "sft@8")
NAME = "base.8-base-sft.8"


def smaller(lab: Lab, name: str) -> str:
    """The recipe's dictionary, trained for the tiny lab's few steps."""
    path = lab.path / "recipe.toml"
    recipe = read_recipe(path)
    made = tuple(dataclasses.replace(d, **SMALL) if d.name == name else d for d in recipe.dictionaries)
    write_recipe(path, dataclasses.replace(recipe, dictionaries=made))
    return name


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    recipe = tiny_recipe()
    crosscoder = tuple(d for d in recipe.dictionaries if d.kind == "crosscoder")
    home = tmp_path_factory.mktemp("more")
    lab = begun_lab(home, dataclasses.replace(recipe, dictionaries=crosscoder), "evaluation/*")
    for name in ("base", "sft"):
        with_snapshots(lab, name)
    return lab


def test_snapshots_are_compared_like_checkpoints(lab: Lab) -> None:
    wanted = request_comparisons(lab, NAMES)
    assert wanted.asked == NAME
    grow(lab, [f"comparison/{wanted.asked}", *Plan.of(lab).parts_of(wanted.asked)], quiet=True)
    found = Comparison.of(lab, wanted.asked)
    assert found.checkpoints == NAMES
    assert {f"w_{name}" for name in NAMES} <= set(found.latents.columns)
    told = account(lab, wanted.asked).describe()
    for pair in ("base@8 → base", "base → sft@8"):
        assert f"{pair}: weights moved" in told
    lives = Lives.of(lab, wanted.asked)
    assert set(lives.births["own"]) <= set(NAMES)
    assert lives.figures["beside"] == []
    assert accuracies(lab, "sft@8") == {}  # those of the finished stage are not the snapshot's
    assert [stage.stage for stage in sheet(lab, wanted.asked).stages] == ["sft@8"]


def test_a_snapshot_s_activations_are_its_own_model_s(lab: Lab) -> None:
    name = smaller(lab, request_crosscoder(lab, ["sft@8", "sft"], None, 96, 6))
    grow(lab, [f"features/{name}"], quiet=True)
    stored = ActivationArrays([lab.find("activations", "sft.8").path / "heldout.npy"])
    tokens = FeatureTable.of(lab, name).token_set
    first = np.arange(tokens.starts[0], tokens.stops[0])
    ids = torch.tensor([[tokens.settings["bos"], *np.asarray(tokens.tokens)[first].tolist()]])
    site = points.Site(lab.checkpoint("sft").default_layer)
    here, other = (
        read_sites(lab.checkpoint(each).model(), [site], ids)[site][0, 1:] for each in ("sft@8", "sft")
    )
    torch.testing.assert_close(stored[first][:, 0], here, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(stored[first][:, 0], other, rtol=1e-2, atol=1e-2)


def test_a_checkpoint_called_like_a_snapshot_is_refused(lab: Lab) -> None:
    recipe = read_recipe(lab.path / "recipe.toml")
    twin = AddedCheckpoint("sft.8", "/nowhere", "sft", "base")
    both = (DictionaryConfig("one", ("sft.8", "base")), DictionaryConfig("other", ("sft@8", "base")))
    with pytest.raises(Misuse, match="called like the snapshot 'sft@8'"):
        plan(dataclasses.replace(recipe, added=(twin,), dictionaries=both, comparisons=(), compared=()))


def test_a_difference_dictionary_reads_the_difference(lab: Lab) -> None:
    (name,) = request_saes(lab, "sft", [None], [96], [6], minus="base")
    assert name == "difference-sft-base-96-k6"
    grow(lab, [f"features/{smaller(lab, name)}"], quiet=True)
    sft, base, less = (
        ActivationArrays([lab.find("activations", each).path / "heldout.npy"])
        for each in ("sft", "base", "sft-minus-base")
    )
    rows = np.arange(len(less))
    torch.testing.assert_close(less[rows], sft[rows] - base[rows])
    told = status(lab)["dictionaries"][name]
    assert (told["kind"], told["checkpoints"]) == ("difference", ["sft"])
    assert 0 < told["metrics"]["fvu"] < 1
    assert told["metrics"]["ce_score"] <= 1


def test_zero_of_a_difference_is_the_earlier_checkpoint_s_stream(lab: Lab) -> None:
    """CE_zero of a difference dictionary is the later model on the earlier one's stream."""
    table = FeatureTable.of(lab, "difference-sft-base-96-k6")
    rows = np.arange(50)
    sft, base = (
        ActivationArrays([lab.find("activations", each).path / "heldout.npy"])[rows][:, 0]
        for each in ("sft", "base")
    )
    none = PCA(torch.zeros(1, 32), torch.zeros(1, 32, 1), torch.zeros(1, 32))
    put = differences(table.dictionary, none, table.activations)
    torch.testing.assert_close(put[ZERO](sft, rows), base, rtol=1e-4, atol=1e-4)
    left = put["spliced"](sft, rows) - base
    torch.testing.assert_close(
        left, table.dictionary.reconstruct((sft - base)[:, None])[:, 0], rtol=1e-3, atol=1e-3
    )


def test_text_is_read_by_both_checkpoints_of_a_difference(lab: Lab) -> None:
    table = FeatureTable.of(lab, "difference-sft-base-96-k6")
    text = "between the green river"
    models, _, site = table._readers
    ids = torch.tensor([[table.token_set.settings["bos"], *table._ids(text, False)]])
    sft, base = (read_sites(model, [site], ids)[site][0, 1:] for model in models)
    code = table.dictionary.encode((sft - base)[:, None])
    assert set(table.fires_on(text)["latent"]) == set(np.flatnonzero((code != 0).any(dim=0).numpy()))
    steered = Site(table.dictionary, 0, site.layer, "sft", table.point, table.minus)
    with pytest.raises(Misuse, match="what sft has more than base"):
        steered.activation(sft)


def test_a_difference_is_not_judged_as_one_model_s(lab: Lab) -> None:
    with pytest.raises(Misuse, match="more than base"):
        request_evaluation(lab, ["difference-sft-base-96-k6"])


def test_the_l1_form_stands_beside_the_usual_one(lab: Lab) -> None:
    wanted = request_comparisons(lab, NAMES, l1=True)
    assert (wanted.asked, wanted.contrast) == (NAME, f"{NAME}-l1")
    keys = [key for each in wanted.all for key in (f"comparison/{each}", *Plan.of(lab).parts_of(each))]
    assert [k for k in keys if "l1" in k] == [f"comparison/{NAME}-l1", f"evaluation/scaling-{NAME}-l1"]
    grow(lab, keys, quiet=True)
    told = account(lab, wanted.asked, contrast=wanted.contrast)
    assert set(told.figures["exclusive_l1"]) == set(NAMES)
    assert told.describe().count("an L1 crosscoder, for contrast") == len(NAMES)
    assert finished_comparison(lab, NAMES[::-1]) == NAME
    again = request_comparisons(lab, NAMES, l1=True)
    assert again == wanted  # nothing is entered twice, and the usual one stays the usual one


def test_a_comparison_through_a_dictionary_that_is_asked_for(lab: Lab) -> None:
    name = smaller(lab, request_crosscoder(lab, ["base", "sft"], None, 96, 6, dedicated=0.2))
    wanted = request_comparisons(lab, ["base", "sft"], dictionary=name)
    assert wanted.asked == f"base-sft-{name}"
    grow(lab, [f"comparison/{wanted.asked}"], quiet=True)
    w = Comparison.of(lab, wanted.asked).latents
    own = w.filter((pl.col("w_base") == 1.0) | (pl.col("w_sft") == 1.0)).height
    assert own >= 2 * int(0.2 * 96)  # each checkpoint has a fifth of the latents to itself
    usual = request_comparisons(lab, ["base", "sft"]).asked
    assert read_recipe(lab.path / "recipe.toml").comparison(usual).dictionary != name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["crosscoder", "tiny", "sft"], "two or more different"),
        (["crosscoder", "tiny", "sft", "sft"], "two or more different"),
        (["crosscoder", "tiny", "sft", "bas"], "'bas'"),
        (["crosscoder", "tiny", "sft@7", "base"], "no snapshot '7'"),
        (["crosscoder", "tiny", "sft", "base", "--arch", "gated"], "gated"),
        (["crosscoder", "tiny", "sft", "base", "--dedicated", "0.6"], "at most 0.5"),
        (["crosscoder", "tiny", "sft", "base", "--site", "0,1"], "one site"),
        (["crosscoder", "tiny", "sft", "base", "--site", "9"], "9"),
        (["sae", "tiny", "--checkpoint", "sft", "--minus", "sft"], "less itself"),
        (["sae", "tiny", "--checkpoint", "sft", "--minus", "nobody"], "nobody"),
        (["compare", "tiny", "base", "sft@7"], "no snapshot '7'"),
        (["compare", "tiny", "base", "sft@8", "--paths"], "finished checkpoints"),
        (["compare", "tiny", "base", "sft", "--dictionary", "none"], "none"),
        (["compare", "tiny", "base", "grpo", "--dictionary", "crosscoder"], "base, sft, grpo"),
    ],
)
def test_misuse_is_one_sentence(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setattr("sys.argv", ["workbench", *arguments])
    before = (lab.path / "recipe.toml").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr()
    assert (stopped.value.code, told.out) == (2, "")
    assert said in told.err
    assert told.err.count("\n") == 1
    assert (lab.path / "recipe.toml").read_bytes() == before
