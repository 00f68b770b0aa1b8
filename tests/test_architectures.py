"""Every architecture goes the whole way in a lab: trained, scored, indexed, opened by SAELens."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from saes.config import ARCHITECTURES
from workbench.features import FeatureTable
from workbench.grow import grow
from workbench.lab import Lab
from workbench.recipe import DictionaryConfig, read_recipe, write_recipe


@pytest.fixture(scope="module")
def lab(tiny_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The tiny lab with one more SAE an architecture, all of them grown."""
    path = tmp_path_factory.mktemp("architectures") / "tiny"
    shutil.copytree(tiny_lab.path, path)
    recipe = read_recipe(path / "recipe.toml")
    more = [
        DictionaryConfig(arch, ("sft",), d_sae=96, k=6, arch=arch, steps=60, batch_size=512)
        for arch in ARCHITECTURES
    ]
    write_recipe(path / "recipe.toml", dataclasses.replace(recipe, dictionaries=(*recipe.dictionaries, *more)))
    lab = Lab(path)
    grow(lab, [f"features/{arch}" for arch in ARCHITECTURES], quiet=True)
    return lab


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore")
def test_it_goes_the_whole_way(lab: Lab, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sae_lens

    monkeypatch.setenv("MARBLE_HOME", str(Path(lab.path).parent))
    made = lab.find("dictionary", arch)
    assert made.figures["arch"] == arch
    assert 0 < made.figures["l0"] < 60
    assert 0 < made.figures["fvu"] < 1.5
    assert np.isfinite(made.figures["ce_score"])
    table = FeatureTable.of(lab, arch)
    assert table.table.height == 96
    strongest = int(table.table.sort("max_activation", descending=True)["latent"][0])
    assert table.dashboard(strongest).examples
    assert sae_lens.SAE.load_from_disk(made.path).cfg.d_sae == 96
