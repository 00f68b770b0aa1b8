"""Files damaged after they were written: one sentence in the terminal and on a page, never a bare exception."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from saes.errors import DictionaryError
from saes.index import FILES, FeatureIndex
from tests.test_pages import errors, opened
from tests.tiny_lab import shared_lab
from workbench import cli
from workbench.errors import Failure
from workbench.features import FeatureTable
from workbench.grow import grow
from workbench.lab import Lab
from workbench.recipe import read_recipe, write_recipe


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A copy of the shared lab that may be hurt."""
    shutil.copytree(shared_lab().path, tmp_path / "labs" / "hurt")
    monkeypatch.setenv("MARBLE_HOME", str(tmp_path / "labs"))
    monkeypatch.setenv("MARBLE_LAB", "hurt")
    return Lab(tmp_path / "labs" / "hurt")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    """A crash that left the size and lost the pages: sizes agree with the manifest, so only reading finds it."""
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("hurt", [truncated, emptied])
@pytest.mark.parametrize(
    ("kind", "file", "command"),
    [
        ("features", "index/tokens.npy", ["export", "hurt", "sae-sft", "--out", "OUT"]),
        ("dictionary", "sae_weights.safetensors", ["evaluate", "hurt", "sae-sft"]),
    ],
)
def test_the_command_line_says_one_sentence(
    lab: Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hurt: Callable[[Path], None],
    kind: str,
    file: str,
    command: list[str],
) -> None:
    hurt(lab.find(kind, "sae-sft").path / file)
    monkeypatch.setattr(sys, "argv", ["marble", *(str(tmp_path) if c == "OUT" else c for c in command)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "marble: " in line]
    assert len(said) == 1
    assert "unexpected trouble" not in said[0]
    assert file.split("/")[0] in said[0]


@pytest.mark.parametrize("hurt", [truncated, emptied])
def test_the_features_page_says_one_sentence(lab: Lab, hurt: Callable[[Path], None]) -> None:
    hurt(lab.find("features", "sae-sft").path / "index" / "values.npy")
    app = opened("features", dictionary="sae-sft", latent="5")
    assert not app.exception
    assert any("index" in text for text in errors(app))


def test_a_dictionary_damaged_under_an_open_table_is_a_failure(lab: Lab) -> None:
    """The table was opened before; its parts are read when they are asked for."""
    table = FeatureTable.of(lab, "sae-sft")
    emptied(lab.find("dictionary", "sae-sft").path / "sae_weights.safetensors")
    with pytest.raises(Failure, match=r"dictionary 'sae-sft'.*truncated or not safetensors"):
        table.dictionary  # noqa: B018
    emptied(table.path / "examples.parquet")
    with pytest.raises(Failure, match="grow the features again"):
        table.excerpts  # noqa: B018
    truncated(table.path / "logits-sft-ids.npy")
    with pytest.raises(Failure, match="grow the features again"):
        table.logit_arrays("sft")
    emptied(lab.find("activations", "sft").path / "heldout.npy")
    with pytest.raises(Failure, match="'sae-sft'"):
        table.activations  # noqa: B018


@pytest.mark.parametrize("name", [*FILES, "n_tokens"])
@pytest.mark.parametrize("hurt", [truncated, emptied])
def test_an_index_is_whole_or_refused(lab: Lab, name: str, hurt: Callable[[Path], None]) -> None:
    index = lab.find("features", "sae-sft").path / "index"
    hurt(index / f"{name}.npy")
    with pytest.raises(DictionaryError, match="build it again"):
        FeatureIndex.load(index)


@pytest.mark.parametrize("step", ["features/sae-sft", "evaluation/truth-sae-sft"])
def test_a_build_on_a_damaged_dictionary_is_a_failure(lab: Lab, step: str) -> None:
    recipe = read_recipe(lab.path / "recipe.toml")
    write_recipe(lab.path / "recipe.toml", dataclasses.replace(recipe, evaluations=("sae-sft",)))
    shutil.rmtree(lab.find("features", "sae-sft").path)
    emptied(lab.find("dictionary", "sae-sft").path / "sae_weights.safetensors")
    with pytest.raises(Failure, match="dictionary 'sae-sft'"):
        grow(lab, [step], quiet=True)
