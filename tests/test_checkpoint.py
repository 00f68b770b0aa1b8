"""A checkpoint by name, by snapshot, while it grows; damaged weights and wrong names are one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tests.tiny_models import FAMILIES, save_tiny, trained_bpe
from workbench.checkpoint import Checkpoint
from workbench.errors import Failure, Misuse
from workbench.lab import Draft, Lab
from workbench.loading import Unreadable, load_model, load_tokenizer, read_shape
from workbench.plan import Plan
from workbench.recipe import load_preset, write_recipe

IDS = [1, 70, 80, 90]


@pytest.fixture
def lab(tmp_path) -> Lab:
    write_recipe(tmp_path / "demo" / "recipe.toml", load_preset("quick"))
    return Lab.open("demo", tmp_path)


def begin(lab: Lab, name: str = "base") -> Draft:
    step = Plan.of(lab).step("checkpoint", name)
    return lab.begin("checkpoint", name, step.config, step.parents, step.builder.version)


def grown(lab: Lab, name: str = "base", steps: tuple[int, ...] = (0, 1, 8)) -> Checkpoint:
    """A finished checkpoint as a stage leaves it: the tokenizer is beside the final weights only."""
    draft = begin(lab, name)
    for step in steps:
        save_tiny(draft.path / "snapshots" / f"step-{step:06d}", seed=step, tokenizer=False)
    save_tiny(draft.path, seed=99)
    draft.commit({"stage": name, "steps": 8})
    return lab.checkpoint(name)


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    with torch.no_grad():
        return checkpoint.model()(torch.tensor([IDS])).logits


def test_a_finished_checkpoint(lab):
    base = grown(lab)
    assert (base.name, base.stage, base.step, base.parent, base.growing) == ("base", "base", None, None, False)
    assert (base.n_layers, base.d_model, base.n_ctx, base.default_layer) == (3, 32, 64, 1)
    assert base.snapshots() == [0, 1, 8]
    assert base.figures["steps"] == 8
    model = base.model()
    assert model.config._attn_implementation == "eager"
    assert not model.training
    assert model.dtype == torch.float32
    assert base.tokenizer().bos_token_id == 1
    assert lab.checkpoint("base@latest") == base


def test_snapshots_are_checkpoints(lab):
    base = grown(lab)
    first = lab.checkpoint("base@1")
    assert first.step == 1
    assert first.address == "base@1"
    assert first.snapshots() == [0, 1, 8]
    assert base.at(1) == first
    assert first.tokenizer().get_vocab() == base.tokenizer().get_vocab()
    assert not torch.equal(logits(first), logits(base))
    assert not torch.equal(logits(first), logits(base.at(8)))


def test_a_growing_stage_shows_its_snapshots(lab):
    draft = begin(lab)
    with pytest.raises(Misuse, match="not been grown yet"):
        lab.checkpoint("base@latest")
    save_tiny(draft.path / "snapshots" / "step-000000")
    save_tiny(draft.path / "snapshots" / "step-000002", seed=2)
    save_tiny(draft.path / "snapshots" / ".step-000004.tmp")
    latest = lab.checkpoint("base@latest")
    assert (latest.step, latest.growing, latest.figures) == (2, True, {})
    assert latest.tokenizer().bos_token_id == 1
    with pytest.raises(Misuse, match=r"not been grown yet.*base@2"):
        lab.checkpoint("base")
    before = logits(latest)
    save_tiny(draft.path)
    draft.commit({"stage": "base"})  # the folder is renamed under the open checkpoint
    assert not latest.path.exists()
    assert torch.equal(logits(latest), before)


def test_parents_and_lineage(lab):
    grown(lab)
    assert grown(lab, "sft").parent == "base"
    assert lab.checkpoint("sft").lineage() == ("base", "sft")


def test_the_bridge_is_the_model(lab):
    base = grown(lab)
    with torch.no_grad():
        bridged = base.bridge()(torch.tensor([IDS]))
    torch.testing.assert_close(bridged, logits(base), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("bass", "did you mean 'base'"),
        ("base@7", "there are 0, 1, 8, and 'latest'"),
        ("base@", "no snapshot ''"),
        ("base@-1", "no snapshot '-1'"),
        ("base@../..", "no snapshot"),
        ("../base", "there is no checkpoint"),
        ("grpo", "has not been grown yet"),
        ("grpo@4", "has not been grown yet"),
    ],
)
def test_wrong_names(lab, address, sentence):
    grown(lab)
    with pytest.raises(Misuse, match=sentence):
        lab.checkpoint(address)


def test_no_snapshots(lab):
    grown(lab, steps=())
    with pytest.raises(Misuse, match="has no snapshots"):
        lab.checkpoint("base@4")


def test_truncated_weights(lab):
    path = grown(lab).path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Failure, match=r"model\.safetensors has \d+ bytes instead of \d+.*grow demo"):
        lab.checkpoint("base")


@pytest.mark.parametrize("where", [9, -9], ids=["header", "weights"])
def test_altered_weights(lab, where):
    base = grown(lab)
    path = base.at(1).path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[where] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(Failure, match=r"model\.safetensors .*remove the folder base-.*grow demo"):
        base.at(1).model()
    base.model()  # the other files are whole


def test_truncated_weights_of_a_growing_stage(lab):
    folder = save_tiny(begin(lab).path / "snapshots" / "step-000000")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(Failure, match="cut short or altered"):
        lab.checkpoint("base@0").model()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read(tmp_path, family):
    shape = read_shape(save_tiny(tmp_path, family))
    assert (shape.model_type, shape.n_layers, shape.d_model) == (family, 3, 32)
    assert (shape.n_ctx, shape.vocab_size) == (64, 300)
    assert sum(p.numel() for p in load_model(tmp_path).parameters()) > 0
    ours, theirs = load_tokenizer(tmp_path), Tokenizer.from_str(trained_bpe())
    assert ours("hello  wörld 12").input_ids == theirs.encode("hello  wörld 12").ids


def lacks_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def has_another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))


def is_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def has_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def has_an_unknown_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mystery"}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lacks_a_tensor, r"lack model\.layers\.1\.mlp\.up_proj\.weight"),
        (has_another_shape, "cannot be opened"),
        (is_pickled, "pickle.*save_pretrained"),
        (has_no_config, r"no config\.json"),
        (has_an_unknown_family, "cannot be opened"),
    ],
)
def test_folders_that_are_no_model(tmp_path, damage, sentence):
    damage(save_tiny(tmp_path))
    with pytest.raises(Unreadable, match=sentence) as told:
        load_model(tmp_path)
    assert "\n" not in str(told.value)


def test_a_folder_without_tokenizer(tmp_path):
    shutil.rmtree(tmp_path)
    save_tiny(tmp_path, tokenizer=False)
    with pytest.raises(Unreadable, match=r"no tokenizer.*tokenizer\.save_pretrained"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(Unreadable, match="tokenizer cannot be opened"):
        load_tokenizer(tmp_path)
