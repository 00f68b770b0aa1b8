"""Harvesting: shards, several sites in one pass, going on after an interruption; sites of four families."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from saes.arrays import ActivationArrays
from saes.shards import pieces_of
from tests.tiny_lab import build, make_lab, shared_lab, tiny_llama, tiny_recipe
from workbench import harvest as harvesting
from workbench.errors import Failure, Misuse
from workbench.harvest import Target, harvest, shards_of
from workbench.plan import Plan
from workbench.points import MLP_IN, MLP_OUT, RESID_POST, Site, parse_site
from workbench.recipe import DictionaryConfig, read_recipe, write_recipe
from workbench.site import decoder_layers, read_sites, replaced, site_module, with_fast_attention
from workbench.tokens import TokenSet, token_set

SITES = [Site(layer, point) for layer in (0, 2) for point in (MLP_IN, MLP_OUT, RESID_POST)]


@pytest.fixture(scope="module")
def lab():
    return shared_lab()


@pytest.fixture(scope="module")
def tokens(lab):
    return token_set(lab, "base")


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(harvesting, "TOKENS_PER_BATCH", 400)
    monkeypatch.setattr(harvesting, "NOTE_SECONDS", 0.0)


def target(folder, site, name="x"):
    return Target(site, folder / f"{name}.npy", folder / f"{name}.json")


def rows_of(path):
    array = ActivationArrays([path])
    return array[np.arange(len(array))]


def models():
    small = {"vocab_size": 50, "num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 2}
    kinds = {
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**small, num_key_value_heads=1, intermediate_size=32)),
        "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**small, intermediate_size=32)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_layer=3, n_embd=16, n_head=2)),
        "llama": lambda: tiny_llama(tiny_recipe()),
    }
    return [pytest.param(make, id=name) for name, make in kinds.items()]


@pytest.mark.parametrize("make", models())
def test_several_sites_in_one_pass_are_each_read_alone(make):
    torch.manual_seed(0)
    model = make().eval()
    ids = torch.randint(0, 50, (3, 9))
    together = read_sites(model, SITES, ids)
    for site in SITES:
        alone = read_sites(model, [site], ids)
        assert list(alone) == [site]
        assert torch.equal(together[site], alone[site])
    mlp = site_module(model, Site(2, MLP_IN))
    with torch.inference_mode():
        torch.testing.assert_close(mlp(together[Site(2, MLP_IN)]), together[Site(2, MLP_OUT)])


@pytest.mark.parametrize("make", models())
def test_putting_back_what_was_there_changes_nothing(make):
    torch.manual_seed(0)
    model = make().eval()
    ids = torch.randint(0, 50, (2, 7))
    with torch.no_grad():
        whole = model(ids).logits
        for site in SITES:
            with replaced(model, site, lambda read, written: written.clone()):
                assert torch.equal(model(ids).logits, whole)
            with replaced(model, site, lambda read, written: 0 * written):
                assert not torch.allclose(model(ids).logits, whole)
        mlp = site_module(model, Site(1, MLP_OUT))
        with replaced(model, Site(1, MLP_OUT), lambda read, written: mlp.forward(read)):
            assert torch.equal(model(ids).logits, whole)
        assert torch.equal(model(ids).logits, whole)  # no hook is left behind


def test_sites_are_those_of_transformer_lens(tmp_path):
    """The rival as oracle: the same names stand for the same activations."""
    pytest.importorskip("transformer_lens")
    from tests.benchmarks.harvest import _save_tokenizer

    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(sys, "argv", ["x"])
        import warnings

        from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from transformer_lens.model_bridge import TransformerBridge

            tiny_llama(tiny_recipe()).save_pretrained(tmp_path)
            _save_tokenizer(400, str(tmp_path))
            bridge = TransformerBridge.boot_transformers(
                str(tmp_path),
                hf_model=AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager"),
                tokenizer=PreTrainedTokenizerFast.from_pretrained(tmp_path),
            )
            ids = torch.randint(0, 400, (2, 9))
            with torch.no_grad():
                _, cache = bridge.run_with_cache(ids)
    own = AutoModelForCausalLM.from_pretrained(tmp_path)
    for site, value in read_sites(own, SITES, ids).items():
        torch.testing.assert_close(cache[site.name], value, atol=1e-4, rtol=1e-4)


def test_sites_by_name():
    assert parse_site("2", 4) == parse_site("blocks.2.hook_resid_post", 4) == Site(2)
    assert parse_site("1.mlp_out", 4) == parse_site("blocks.1.hook_mlp_out", 4) == Site(1, MLP_OUT)
    assert parse_site("blocks.0.mlp.hook_in", 4) == Site(0, MLP_IN)
    for wrong in ("4", "-1", "blocks.1.hook_resid_pre", "1.mlp", "x", ""):
        with pytest.raises(
            Misuse, match=r"blocks\.0\.hook_resid_post to blocks\.3\.hook_resid_post, .*mlp\.hook_in"
        ):
            parse_site(wrong, 4)


def test_a_family_without_an_mlp_module_is_told():
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=2,
            ffn_dim=16,
            num_attention_heads=2,
            word_embed_proj_dim=8,
        )
    )
    assert len(decoder_layers(model)) == 2
    with pytest.raises(Misuse, match=r"only blocks\.L\.hook_resid_post"):
        site_module(model, Site(0, MLP_OUT))


def test_shards_hold_the_rows_of_the_single_file(lab, tokens, tmp_path, small_batches, monkeypatch):
    """Sharded equals unsharded up to the rounding that another padding makes; no shard is over its bound."""
    model = lab.checkpoint("sft").model()
    list(harvest(model, [target(tmp_path, Site(1), "one")], tokens, "float32"))
    assert pieces_of(tmp_path / "one.npy") == [tmp_path / "one.npy"]
    monkeypatch.setattr(harvesting, "SHARD_ROWS", 1500)
    yielded = sum(harvest(model, [target(tmp_path, Site(1), "many")], tokens, "float32"))
    assert yielded == len(tokens.starts)
    pieces = pieces_of(tmp_path / "many.npy")
    assert len(pieces) == len(shards_of(tokens)) > 3
    sizes = [np.load(p, mmap_mode="r").shape[0] for p in pieces]
    assert max(sizes) <= 1500
    assert sum(sizes) == len(tokens)
    one, many = rows_of(tmp_path / "one.npy"), rows_of(tmp_path / "many.npy")
    torch.testing.assert_close(many, one, atol=2e-5, rtol=1e-5)
    shuffled = np.random.default_rng(0).permutation(len(tokens))
    assert torch.equal(ActivationArrays([tmp_path / "many.npy"])[shuffled], many[shuffled])


def test_several_sites_are_written_in_one_pass_as_they_are_alone(lab, tokens, tmp_path, small_batches):
    model = lab.checkpoint("sft").model()
    runs = []
    counter = model.register_forward_pre_hook(lambda *_: runs.append(1))
    together = [target(tmp_path, site, f"all-{site.name}") for site in SITES]
    list(harvest(model, together, tokens, "bfloat16"))
    passes = len(runs)
    for site in SITES:
        list(harvest(model, [target(tmp_path, site, "alone")], tokens, "bfloat16"))
        assert (tmp_path / "alone.npy").read_bytes() == (tmp_path / f"all-{site.name}.npy").read_bytes()
        (tmp_path / "alone.json").unlink()
    counter.remove()
    assert len(runs) == passes * (1 + len(SITES))


@pytest.mark.parametrize("killed_at", [1, 5, 12])
def test_an_interrupted_harvest_goes_on(lab, tokens, tmp_path, small_batches, monkeypatch, killed_at):
    """Wherever it was stopped: nothing finished is run again, and a new site waits for the others."""
    monkeypatch.setattr(harvesting, "SHARD_ROWS", 3000)
    model = lab.checkpoint("sft").model()
    whole = [target(tmp_path, Site(1), "whole"), target(tmp_path, Site(2, MLP_OUT), "other")]
    n_batches = len(list(harvest(model, whole, tokens, "bfloat16")))
    parts = target(tmp_path, Site(1), "parts")
    run = harvest(model, [parts], tokens, "bfloat16")
    for _ in range(killed_at):
        next(run)
    run.close()
    runs = []
    counter = model.register_forward_pre_hook(lambda *_: runs.append(1))
    assert sum(harvest(model, [parts], tokens, "bfloat16")) == len(tokens.starts)
    assert len(runs) == n_batches - killed_at
    late = target(tmp_path, Site(2, MLP_OUT), "late")
    list(harvest(model, [parts, late], tokens, "bfloat16"))
    counter.remove()
    for piece, made in [("whole", "parts"), ("other", "late")]:
        for a, b in zip(*(pieces_of(tmp_path / f"{name}.npy") for name in (piece, made)), strict=True):
            assert a.read_bytes() == b.read_bytes()
    assert json.loads(parts.note.read_text())["shard"] == len(shards_of(tokens))


def test_other_settings_begin_anew(lab, tokens, tmp_path, small_batches):
    model = lab.checkpoint("sft").model()
    run = harvest(model, [target(tmp_path, Site(1))], tokens, "float16")
    for _ in range(4):
        next(run)
    run.close()
    list(harvest(model, [target(tmp_path, Site(1))], tokens, "float32"))
    exact = rows_of(lab.find("activations", "sft").path / "heldout.npy")
    torch.testing.assert_close(rows_of(tmp_path / "x.npy"), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "rtol"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_half_precision_is_the_rounded_float(lab, tokens, tmp_path, dtype, rtol):
    list(harvest(lab.checkpoint("sft").model(), [target(tmp_path, Site(1))], tokens, dtype))
    exact = rows_of(lab.find("activations", "sft").path / "heldout.npy")
    torch.testing.assert_close(rows_of(tmp_path / "x.npy"), exact, rtol=rtol, atol=1e-5)


def test_broken_weights_are_told_with_the_document(lab, tokens, tmp_path):
    model = lab.checkpoint("sft").model()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(Failure, match="not finite already in float32 at position 1 of document"):
        list(harvest(model, [target(tmp_path, Site(1))], tokens, "float32"))


def test_steps_that_want_sites_of_one_checkpoint_share_a_pass(tmp_path, monkeypatch):
    """Three dictionaries on three sites: the first activations step does the work of all."""
    lab = make_lab(tmp_path)
    recipe = read_recipe(lab.path / "recipe.toml")
    wanted = [("a", 0, RESID_POST), ("b", 2, RESID_POST), ("c", 2, MLP_OUT)]
    made = tuple(
        DictionaryConfig(name, ("grpo",), 96, 6, layer=layer, point=point, steps=5)
        for name, layer, point in wanted
    )
    write_recipe(
        lab.path / "recipe.toml",
        recipe.__class__(**{**recipe.__dict__, "dictionaries": made, "comparisons": ()}),
    )
    passes = []
    read = harvesting.read_sites
    monkeypatch.setattr(
        harvesting, "read_sites", lambda m, sites, ids: passes.append(len(sites)) or read(m, sites, ids)
    )
    names = ["grpo-layer0", "grpo-layer2", "grpo-layer2-mlp_out"]
    build(lab, *(f"activations/{name}" for name in names))
    assert set(passes) == {3}
    sets = [TokenSet(lab.find("activations", "tokens-base").path, name) for name in ("dictionary", "heldout")]
    n_batches = sum(len(list(s.batches(harvesting.TOKENS_PER_BATCH))) for s in sets)
    assert len(passes) == n_batches
    for name, site in zip(names, [Site(0), Site(2), Site(2, MLP_OUT)], strict=True):
        artefact = lab.find("activations", name)
        assert artefact.figures["site"] == site.name
        model = with_fast_attention(lab.checkpoint("grpo").model())
        list(harvest(model, [target(tmp_path, site)], sets[1], "float32"))
        assert (tmp_path / "x.npy").read_bytes() == (artefact.path / "heldout.npy").read_bytes()
        (tmp_path / "x.json").unlink()
        assert not (artefact.path / "resume").exists()
    assert Plan.of(lab).step("activations", "grpo-layer2-mlp_out").config["point"] == MLP_OUT
