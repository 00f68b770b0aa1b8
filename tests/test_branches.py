"""Laws of the checkpoints beside the lineage: what a control shares with its stage, and what it does not."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import tiny_recipe
from workbench.branches import controls, request_controls, with_controls
from workbench.errors import Misuse
from workbench.grow import grow
from workbench.lab import Lab
from workbench.plan import Plan, plan
from workbench.recipe import AddedCheckpoint, BranchConfig, read_recipe, write_recipe

NAMES = ("sft-sham", "sft-sibling", "grpo-sham", "grpo-sibling", "grpo-from-base")


@pytest.fixture(scope="module")
def branched(tiny_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The tiny lab's text and stages in a lab of their own, with every control grown."""
    home = tmp_path_factory.mktemp("branched")
    for kind in ("corpus", "tokenizer", "checkpoint"):
        shutil.copytree(tiny_lab.path / kind, home / "tiny" / kind)
    write_recipe(home / "tiny" / "recipe.toml", tiny_recipe())
    lab = Lab.open("tiny", home)
    grow(lab, [f"checkpoint/{name}" for name in request_controls(lab)], quiet=True)
    return lab


def weights(lab: Lab, name: str) -> dict[str, torch.Tensor]:
    return load_file(lab.find("checkpoint", name).path / "model.safetensors")


def distance(lab: Lab, a: str, b: str) -> float:
    one, other = weights(lab, a), weights(lab, b)
    return sum(float((one[n] - other[n]).square().sum()) for n in one) ** 0.5


def test_controls_are_requested_once_and_leave_the_lineage_as_it_was(branched: Lab) -> None:
    before = plan(tiny_recipe())
    after = Plan.of(branched)
    assert tuple(c.name for c in controls(after.recipe)) == NAMES
    assert {k: s.id for k, s in before.steps.items()}.items() <= {
        k: s.id for k, s in after.steps.items()
    }.items()
    recipe = read_recipe(branched.path / "recipe.toml")
    assert with_controls(recipe) == recipe
    assert request_controls(branched) == NAMES


def test_controls_descend_from_the_parent_of_their_stage(branched: Lab) -> None:
    parents = {name: branched.checkpoint(name).parent for name in NAMES}
    assert parents == dict(zip(NAMES, ("base", "base", "sft", "sft", "base"), strict=True))
    assert {Plan.of(branched).family(name) for name in NAMES} == {"base"}
    assert branched.checkpoint("grpo-sham").lineage() == ("base", "sft", "grpo-sham")


def test_a_sham_takes_its_stages_steps_and_stays_what_its_parent_is(branched: Lab) -> None:
    figures = {name: branched.find("checkpoint", name).figures for name in ("sft", "grpo", *NAMES)}
    for stage in ("sft", "grpo"):
        assert (
            figures[f"{stage}-sham"]["steps"] == figures[f"{stage}-sibling"]["steps"] == figures[stage]["steps"]
        )
    assert figures["sft-sham"]["stage"] == "base"
    assert figures["grpo-sham"]["stage"] == "sft"
    assert figures["sft-sibling"]["stage"] == "sft"
    # Its own data is text: it goes on learning that, where the chats of sft cost some of it.
    losses = {name: figures[name]["metrics"]["prose_loss"] for name in ("sft-sham", "sft")}
    assert losses["sft-sham"] < losses["sft"]


def test_controls_move_and_none_is_its_stage(branched: Lab) -> None:
    """(No sum is right in so small a lab: without a reward GRPO leaves its parent as it was.)"""
    for name, parent in (("sft-sham", "base"), ("sft-sibling", "base"), ("grpo-sham", "sft")):
        assert distance(branched, name, parent) > 0.01
        assert distance(branched, name, name.split("-")[0]) > 0.01


def test_a_sibling_sees_its_stages_data_in_another_order(branched: Lab) -> None:
    folders = [branched.find("checkpoint", name).path for name in ("sft", "sft-sibling")]
    tables = [pl.read_parquet(folder / "metrics.parquet") for folder in folders]
    first, second = (table.filter(pl.col("name") == "loss")["value"].to_list() for table in tables)
    assert len(first) == len(second)
    assert first != second


def test_snapshots_of_a_control_can_be_opened(branched: Lab) -> None:
    start = branched.checkpoint("sft-sham@0")
    assert torch.equal(
        load_file(start.path / "model.safetensors")["model.norm.weight"],
        weights(branched, "base")["model.norm.weight"],
    )


@pytest.mark.parametrize(
    ("branch", "said"),
    [
        (BranchConfig("x", "shame", "sft", "base"), r"kind of branch.*shame.*sham"),
        (BranchConfig("x", "sibling", "base", "base"), r"stage to grow again.*base"),
        (BranchConfig("x", "sibling", "sft", "bass"), r"bass.*base"),
        (BranchConfig("x", "sham", "grpo", "grpo"), r"give it the parent base or sft, not 'grpo'"),
    ],
)
def test_branches_that_cannot_be_are_refused(branch: BranchConfig, said: str) -> None:
    with pytest.raises(Misuse, match=said):
        plan(dataclasses.replace(tiny_recipe(), branches=(branch,)))


def test_a_checkpoint_that_bears_a_controls_name_is_kept(tmp_path: Path) -> None:
    taken = AddedCheckpoint("sft-sham", source="/nowhere", stage="sft", parent="base")
    recipe = dataclasses.replace(tiny_recipe(), added=(taken,))
    write_recipe(tmp_path / "own" / "recipe.toml", recipe)
    with pytest.raises(Misuse, match="another checkpoint called 'sft-sham'"):
        request_controls(Lab.open("own", tmp_path))
    assert read_recipe(tmp_path / "own" / "recipe.toml") == recipe
