"""Someone's own checkpoints of another family, through the whole way: add, trace, harvest, SAE, compare."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_models import save_tiny
from workbench.comparison import Comparison
from workbench.comparison_requests import compare
from workbench.dictionary_requests import request_sae
from workbench.external import add
from workbench.features import FeatureTable
from workbench.grow import grow
from workbench.lab import Lab
from workbench.prompt import read_prompt
from workbench.trace import trace


@pytest.fixture
def lab(tiny_lab: Lab, tmp_path: Path) -> Lab:
    """A copy of the tiny lab that a test may write to."""
    shutil.copytree(tiny_lab.path, tmp_path / "mine")
    return Lab.open("mine", tmp_path)


@pytest.mark.parametrize("family", ["qwen2", "gpt_neox"])
def test_two_checkpoints_of_another_family_are_opened_and_compared(
    family: str, lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(lab, "theirs", str(save_tiny(tmp_path / "base", family, seed=0)), "base")
    add(lab, "tuned", str(save_tiny(tmp_path / "sft", family, seed=1)), "sft", "theirs")
    grow(lab, ["checkpoint/tuned"], quiet=True)
    tuned = lab.checkpoint("tuned")
    assert tuned.lineage() == ("theirs", "tuned")

    prompt = read_prompt(tuned.tokenizer(), "a test of marbles", tuned.n_ctx)
    traced = trace(tuned.model(), tuned.tokenizer(), prompt)
    assert np.allclose(traced.attention.sum(-1), 1.0, atol=1e-5)

    dictionary = request_sae(lab, "tuned", layer=1, width=64, k=4, arch="batchtopk", name="mine")
    built = {f"{a.kind}/{a.name}" for a in grow(lab, [f"features/{dictionary}"], quiet=True)}
    assert {"activations/tokens-theirs", "activations/tuned-layer1", "dictionary/mine"} <= built
    figures = lab.find("dictionary", dictionary).figures
    assert 0.0 < figures["fvu"] < 1.0
    assert figures["site"] == "blocks.1.hook_resid_post"
    assert FeatureTable.of(lab, dictionary).table.height == 64

    comparison = compare(lab, ["theirs", "tuned"])
    grow(lab, [f"comparison/{comparison}"], quiet=True)
    found = Comparison.of(lab, comparison)
    assert found.checkpoints == ("theirs", "tuned")
    assert {"w_theirs", "w_tuned"} <= set(found.latents.columns)
    assert capsys.readouterr().out == ""
