"""A lab's transcoders: trained on what an MLP reads and writes, spliced in its place, with a feature table."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pages.components import steered
from saes import folder
from saes.arrays import ActivationArrays
from saes.transcoder import Transcoder
from tests.tiny_lab import build, shared_lab
from workbench import cli, dictionary_requests, steering
from workbench.circuits.site_dictionaries import (
    layer_transcoder_names,
    open_layer_transcoders,
    request_layer_transcoders,
    site_sae_names,
)
from workbench.dictionary_requests import request_sae, request_transcoder
from workbench.errors import Misuse
from workbench.features import FeatureTable
from workbench.lab import Lab
from workbench.points import MLP_OUT, Site
from workbench.recipe import DictionaryConfig
from workbench.site import read_sites, with_fast_attention
from workbench.splice import spliced_nats
from workbench.status import status
from workbench.tokens import token_set

NAME = "transcoder-sft-layer1-96-k6"
ON_OUTPUT = "sae-sft-layer1-mlp_out-96-k6"
SHORT = functools.partial(DictionaryConfig, steps=250, batch_size=256)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A copy of the shared lab with a transcoder, its table, and an SAE on the MLP's output."""
    lab = Lab(Path(shutil.copytree(shared_lab().path, tmp_path_factory.mktemp("home") / "tiny")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dictionary_requests, "DictionaryConfig", SHORT)
        for _ in range(2):  # the second asks for what is there
            assert request_transcoder(lab, "sft", 1, 96, 6, "batchtopk", None, skip=False) == NAME
        request_transcoder(lab, "sft", 1, 96, 6, "topk", "skipping", skip=True)
        on_output = request_sae(lab, "sft", 1, 96, 6, "batchtopk", None, MLP_OUT)
    assert on_output == ON_OUTPUT
    return build(lab, f"features/{NAME}", "dictionary/skipping", f"features/{on_output}")


def test_it_is_trained_on_what_the_mlp_reads_and_writes(lab):
    mlp = lab.checkpoint("sft").model().model.layers[1].mlp
    stored = {
        point: ActivationArrays([lab.find("activations", f"sft-layer1-{point}").path / "heldout.npy"])
        for point in ("mlp_in", "mlp_out")
    }
    rows = np.arange(300)
    with torch.no_grad():
        torch.testing.assert_close(mlp(stored["mlp_in"][rows]), stored["mlp_out"][rows], atol=1e-4, rtol=1e-4)
    figures = lab.find("dictionary", NAME).figures
    assert (figures["site"], figures["target_site"]) == ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    made = folder.load(lab.find("dictionary", NAME).path)
    x, y = stored["mlp_in"], stored["mlp_out"]
    everything = np.flatnonzero(~np.asarray(token_set(lab, "base").special))
    with torch.no_grad():
        apart = (y[everything] - made.reconstruct(x[everything])).double().square().sum()
    total = (y[everything].double() - y[everything].double().mean(dim=0)).square().sum()
    assert figures["fvu"] == pytest.approx(float(apart / total), rel=1e-5)
    assert figures["fvu"] < 0.9
    assert figures["l0"] == pytest.approx(6, rel=0.2)
    assert figures["fvu_low"] < figures["fvu"] < figures["fvu_high"]


def test_status_says_what_it_is(lab):
    found = status(lab)["dictionaries"][NAME]
    assert found["kind"] == "transcoder"
    assert found["target_site"] == "blocks.1.hook_mlp_out"
    assert set(found["metrics"]) >= {"fvu", "l0", "dead_share", "ce_score"}
    assert status(lab)["dictionaries"]["sae-sft"]["kind"] == "sae"


def test_a_skip_is_part_of_the_folder(lab):
    made = folder.load(lab.find("dictionary", "skipping").path)
    assert isinstance(made, Transcoder)
    assert made.W_skip is not None
    assert lab.find("dictionary", "skipping").figures["skip"] is True


def test_the_true_mlp_in_its_own_place_costs_nothing(lab):
    """Splicing the MLP's own function, made from what it reads, leaves the loss as it is; zero does not."""
    model, tokens = lab.checkpoint("sft").model(), token_set(lab, "base")
    mlp = model.model.layers[1].mlp
    variants = {"own": lambda x, rows: mlp.forward(x), "zero": lambda x, rows: 0 * x}
    windows = tokens.sample_windows(600, seed=0)
    found = spliced_nats(model, Site(1, MLP_OUT), tokens, windows, variants, from_input=True)
    assert found.loss("own") == pytest.approx(found.loss("clean"), rel=1e-5)
    assert abs(found.loss("zero") - found.loss("clean")) > 1e-3


def test_its_table_reads_what_the_mlp_reads(lab):
    """The encoder on a text's MLP inputs is what `fires_on` shows; every stage has a density."""
    table = FeatureTable.of(lab, NAME)
    assert {"density_base", "density_sft", "density_grpo"} <= set(table.table.columns)
    found = table.fires_on("banana river")
    model, tokenizer = with_fast_attention(lab.checkpoint("sft").model()), lab.checkpoint("sft").tokenizer()
    ids = tokenizer("banana river", add_special_tokens=False)["input_ids"]
    batch = torch.tensor([[table.token_set.settings["bos"], *ids]])
    x = read_sites(model, [Site(1, "mlp_in")], batch)[Site(1, "mlp_in")][0, 1:]
    latents = table.dictionary.encode(x[:, None])
    assert set(found["latent"]) == set(torch.nonzero((latents > 0).any(dim=0)).flatten().tolist())
    assert table.dashboard(int(found["latent"][0])).examples


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["transcoder", "tiny", "--checkpoint", "sft", "--layer", "9"],
            "blocks.0.mlp.hook_in to blocks.3.mlp.hook_in",
        ),
        (["transcoder", "tiny", "--checkpoint", "sftt"], "did you mean 'sft'"),
        (["transcoder", "tiny", "--checkpoint", "sft", "--arch", "gated"], "architecture of a transcoder"),
        (["transcoder", "tiny", "--checkpoint", "sft", "--k", "0"], "k must be at least 1"),
        (["sae", "tiny", "--checkpoint", "sft", "--site", "1.mlp_in"], "`transcoder` reads there"),
        (
            ["sae", "tiny", "--checkpoint", "sft", "--site", "blocks.1.hook_q"],
            "there is no site 'blocks.1.hook_q'",
        ),
    ],
)
def test_misuse(lab, monkeypatch, capsys, arguments, sentence):
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setattr(sys, "argv", ["marble", *arguments])
    before = (lab.path / "recipe.toml").read_bytes()
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err
    assert (lab.path / "recipe.toml").read_bytes() == before


def test_the_command_prints_one_document(lab, monkeypatch, capsys):
    """The dictionary is there already, so nothing is trained."""
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setattr(dictionary_requests, "DictionaryConfig", SHORT)
    command = [
        "transcoder",
        "tiny",
        "--checkpoint",
        "sft",
        "--layer",
        "1",
        "--width",
        "96",
        "--k",
        "6",
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", ["marble", *command])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["dictionary"], answer["kind"]) == (NAME, "transcoder")


def test_names_of_sites_that_cannot_be_asked_for(lab):
    with pytest.raises(Misuse, match="there is no site '7'"):
        request_transcoder(lab, "sft", 7, 96, 6, "batchtopk", None, skip=False)


@pytest.mark.parametrize("name", [ON_OUTPUT, NAME])
@pytest.mark.parametrize("edit", ["ablate", "add"])
def test_a_latent_of_an_mlp_is_steered_where_it_writes(lab, name, edit):
    """Logits are those of a hook on the MLP by hand: f_j of what the dictionary reads, taken off what it writes."""
    table, model = FeatureTable.of(lab, name), lab.checkpoint("sft").model()
    latent = int(table.table.sort("density", descending=True)["latent"][0])
    site = steered._site(lab, name, latent, "sft")
    made, d_j = table.dictionary, table.dictionary.W_dec[latent, 0]
    ids = torch.tensor([[table.token_set.settings["bos"], *table.token_set.tokens[:40].tolist()]])
    taken = []

    def by_hand(module, inputs, output):
        x = inputs[0] if name == NAME else output
        f = made.encode(x[0, 1:, None])[:, latent]
        taken.append(f)
        change = 2.0 * d_j if edit == "add" else -f[:, None] * d_j
        return torch.cat([output[:, :1], output[:, 1:] + change], dim=1)

    handle = model.model.layers[1].mlp.register_forward_hook(by_hand)
    with torch.inference_mode():
        theirs = model(input_ids=ids, use_cache=False).logits
        handle.remove()
        plain = model(input_ids=ids, use_cache=False).logits
    assert (taken[0] > 0).any()
    change = steering.added(2.0 * d_j[None]) if edit == "add" else steering.ablated(site)
    ours = steering.next_logits(model, site, change, ids, bos=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, plain, atol=1e-3)


def test_a_transcoder_of_every_layer_is_asked_for(tmp_path):
    """The middle one is taken where it was asked for without a number; what lacks is named."""
    lab = Lab(Path(shutil.copytree(shared_lab().path, tmp_path / "tiny")))
    with pytest.raises(Misuse, match="layers 0,1,2,3 have none"):
        layer_transcoder_names(lab, "sft")
    middle = request_transcoder(lab, "sft", None, 96, 6, "batchtopk", None, skip=False)
    with pytest.raises(Misuse, match="layers 0,2,3 have none"):
        layer_transcoder_names(lab, "sft")
    names = [request_layer_transcoders(lab, "sft", 96, 6) for _ in range(2)]
    assert names[0] == names[1] == layer_transcoder_names(lab, "sft")
    assert names[0][1] == middle
    assert len(set(names[0])) == 4
    with pytest.raises(Misuse, match="has not been grown"):
        open_layer_transcoders(lab, names[0])


def test_saes_are_named_by_site(lab):
    """The middle stream's and the MLP's output; a transcoder or another checkpoint's is none."""
    found = site_sae_names(lab, "sft")
    assert {Site(1, MLP_OUT)} <= set(found) <= {Site(1), Site(1, MLP_OUT)}
    assert list(site_sae_names(lab, "sft", [ON_OUTPUT])) == [Site(1, MLP_OUT)]
    for name in (NAME, "sae-nothing"):
        with pytest.raises(Misuse, match="SAE of sft"):
            site_sae_names(lab, "sft", [name])
