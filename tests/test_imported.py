"""Dictionaries from outside: the same latents as in SAELens, scored and tabled like our own; the rest refused."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import saes
from saes.arrays import ActivationArrays, Part
from saes.errors import DictionaryError
from saes.foreign import digest, load_foreign
from saes.pca import fit_pca
from tests.tiny_lab import shared_lab
from workbench.dictionaries import split_rows, trainable
from workbench.errors import Failure, Misuse
from workbench.evaluation_requests import request_evaluation
from workbench.features import FeatureTable
from workbench.grow import grow
from workbench.imported import open_source, request
from workbench.lab import Lab
from workbench.plan import Plan
from workbench.quality import Quality, artefact_name
from workbench.recipe import read_recipe
from workbench.status import status
from workbench.tokens import TokenSet

with warnings.catch_warnings():  # it imports a module of TransformerLens by its old name
    warnings.simplefilter("ignore")
    import sae_lens

D, F = 32, 48
OWN = {
    "topk": {"k": 5},
    "abstopk": {"k": 5},
    "matching_pursuit": {"max_iterations": 3, "residual_threshold": 0.0},
}


def save_sae(folder: Path, arch: str, hook: str = "blocks.1.hook_resid_post", d: int = D, **settings) -> Path:
    """A random SAE as SAELens saves it."""
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    made, configured = get_sae_class(arch)
    config = configured(d_in=d, d_sae=F, metadata=SAEMetadata(hook_name=hook), **(OWN.get(arch, {}) | settings))
    sae = made(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            scale = 1.0 if name == "W_dec" else 0.4
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            if name == "threshold":
                parameter.abs_()
    sae.save_model(folder)
    return folder


@pytest.mark.parametrize("apply", [True, False])
@pytest.mark.parametrize("arch", ["standard", "gated", "jumprelu", "topk"])
def test_latents_are_those_of_sae_lens(tmp_path, arch, apply):
    save_sae(tmp_path / "sae", arch, apply_b_dec_to_input=apply)
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "sae")
    ours, named = load_foreign(tmp_path / "sae")
    assert named == arch
    x = torch.randn(300, D, generator=torch.Generator().manual_seed(1))
    expected = theirs.encode(x).detach()
    found = ours.encode(x[:, None])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert 0.01 < float((expected > 0).float().mean()) < 0.9
    torch.testing.assert_close(ours.decode(found)[:, 0], theirs.decode(expected).detach(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("arch", ["standard", "gated", "jumprelu", "topk", "abstopk", "matching_pursuit"])
def test_half_precision_is_read_in_full(tmp_path, arch, dtype):
    """As many releases are stored; the latents are those of the same weights in float32."""
    source = save_sae(tmp_path / "sae", arch, dtype=dtype)
    theirs = sae_lens.SAE.load_from_disk(source).to(torch.float32)
    ours, _ = load_foreign(source)
    assert ours.W_enc.dtype == ours.W_dec.dtype == torch.float32
    assert len(digest(ours)) == 64
    x = torch.randn(200, D, generator=torch.Generator().manual_seed(2))
    expected = theirs.encode(x).detach()
    assert expected.dtype == torch.float32
    torch.testing.assert_close(ours.encode(x[:, None]), expected, rtol=1e-4, atol=1e-4)
    assert saes.save(ours, tmp_path / "again")
    torch.testing.assert_close(saes.load(tmp_path / "again").encode(x[:, None]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "temporal"}, "cannot be written as ours"),
        ({"normalize_activations": "layer_norm"}, "normalises its input"),
        ({"reshape_activations": "hook_z"}, "reshapes its activations"),
    ],
)
def test_what_would_not_be_the_same_is_refused(tmp_path, change, words):
    save_sae(tmp_path / "sae", "standard")
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config | change))
    with pytest.raises(DictionaryError, match=words):
        load_foreign(tmp_path / "sae")


def test_broken_weights_are_refused(tmp_path):
    save_sae(tmp_path / "sae", "standard")
    path = tmp_path / "sae" / "sae_weights.safetensors"
    save_file({k: v * float("nan") if k == "W_dec" else v for k, v in load_file(path).items()}, path)
    with pytest.raises(Misuse, match="NaN"):
        open_source(str(tmp_path / "sae"))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    shutil.copytree(shared_lab().path, tmp_path / "labs" / "tiny")
    return Lab(tmp_path / "labs" / "tiny")


def test_an_imported_sae_is_scored_and_tabled_like_ours(lab, tmp_path):
    before = lab.find("dictionary", "sae-sft").id
    source = save_sae(tmp_path / "sae", "gated")
    assert request(lab, "mine", str(source), "sft") == "mine"
    grow(lab, ["features/mine"], quiet=True)
    entry = status(lab)["dictionaries"]["mine"]
    assert entry["arch"] == "gated"
    assert entry["site"] == "blocks.1.hook_resid_post"
    assert {"l0", "fvu", "ce_score", "pca_fvu", "dead_share"} <= set(entry["metrics"])
    assert entry["k"] == round(entry["metrics"]["l0"]) > 1  # a gated SAE states none
    arrays = {n: lab.find("activations", "sft").path / f"{n}.npy" for n in ("dictionary", "heldout")}
    tokens = TokenSet(lab.find("activations", "tokens-base").path, "dictionary")
    fitted = Part(ActivationArrays([arrays["dictionary"]]), split_rows(tokens)[0])
    counted = ~np.asarray(TokenSet(tokens.folder, "heldout").special)  # chat markers are in no figure
    heldout = Part(ActivationArrays([arrays["heldout"]]), np.flatnonzero(counted))
    pca = fit_pca(fitted, entry["k"]).evaluate(heldout)
    assert entry["metrics"]["pca_fvu"] == pytest.approx(float(pca[0]))
    table = FeatureTable.of(lab, "mine")
    assert table.table.height == F
    x = table.activations[torch.arange(50).numpy()]
    torch.testing.assert_close(table.dictionary.encode(x), load_foreign(source)[0].encode(x))
    assert lab.find("dictionary", "sae-sft").id == before  # nothing that was there is made anew


def test_an_imported_sae_is_evaluated_beside_controls(lab, tmp_path):
    """It was trained nobody knows how: what is trained beside it is trained as the lab's own are."""
    request(lab, "mine", str(save_sae(tmp_path / "sae", "standard")), "sft")
    request_evaluation(lab, ["mine"])
    grow(lab, [f"evaluation/{artefact_name('mine')}"], quiet=True)
    found = Quality.of(lab, "mine")
    assert {"dictionary", "pca", "random", "gaussian", "seed-1", "seed-2"} <= set(found.controls["control"])
    assert found.value("seed-1", "fvu") < found.value("dictionary", "fvu")  # random weights, and trained ones
    config = trainable(read_recipe(lab.path / "recipe.toml").dictionary("mine"), Plan.of(lab).recipe, 7)
    assert (config.steps, config.batch_size, config.k) == (60, 256, 7)


def test_a_source_that_changed_before_it_was_grown_is_a_failure(lab, tmp_path):
    source = save_sae(tmp_path / "sae", "standard")
    request(lab, "mine", str(source), "sft")
    path = source / "sae_weights.safetensors"
    save_file({name: t * 1.01 for name, t in load_file(path).items()}, path)
    with pytest.raises(Failure, match="have changed"):
        grow(lab, ["dictionary/mine"], quiet=True)
    shutil.rmtree(source)
    with pytest.raises(Failure, match="nothing at"):
        grow(lab, ["dictionary/mine"], quiet=True)


def test_bad_requests_are_sentences_and_leave_the_recipe_alone(lab, tmp_path):
    recipe = read_recipe(lab.path / "recipe.toml")
    good = str(save_sae(tmp_path / "good", "standard"))
    wide = str(save_sae(tmp_path / "wide", "standard", d=64))
    inner = str(save_sae(tmp_path / "inner", "standard", hook="blocks.1.attn.hook_z"))
    first = str(save_sae(tmp_path / "first", "standard", hook="blocks.0.hook_resid_pre"))
    for arguments, words in [
        (("mine", wide, "sft"), "width 64 but 'sft' has d_model 32"),
        (("mine", inner, "sft"), "no site 'blocks.1.attn.hook_z': the model's sites are"),
        (("mine", first, "sft"), "the embeddings"),
        (("mine", good, "sfft"), "did you mean 'sft'"),
        (("sae-sft", good, "sft"), "already"),
        (("../mine", good, "sft"), "cannot be a dictionary name"),
        (("mine", str(tmp_path / "nowhere"), "sft"), "there is nothing at"),
        (("mine", good, "sft", "9"), "no site '9'"),
        (("mine", "no-such-release:x", "sft"), "no release"),
        (("mine", "gpt2-small-res-jb:x", "sft"), "no SAE in release"),
    ]:
        with pytest.raises(Misuse, match=words):
            request(lab, *arguments)
    assert read_recipe(lab.path / "recipe.toml") == recipe


def test_a_release_without_a_network_is_one_sentence():
    with pytest.raises(Failure, match="could not be fetched") as caught:
        open_source("gpt2-small-res-jb:blocks.8.hook_resid_pre")
    assert "\n" not in str(caught.value)


def test_the_stream_before_a_layer_is_that_after_the_one_below(lab, tmp_path):
    source = save_sae(tmp_path / "sae", "standard", hook="blocks.3.hook_resid_pre")
    request(lab, "mine", str(source), "sft")
    assert read_recipe(lab.path / "recipe.toml").dictionary("mine").layer == 2
    assert len(digest(load_foreign(source)[0])) == 64


def test_an_mlps_output_is_a_site_too(lab, tmp_path):
    source = save_sae(tmp_path / "sae", "standard", hook="blocks.2.hook_mlp_out")
    request(lab, "mine", str(source), "sft")
    grow(lab, ["dictionary/mine"], quiet=True)
    assert status(lab)["dictionaries"]["mine"]["site"] == "blocks.2.hook_mlp_out"
