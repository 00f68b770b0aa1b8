"""Laws of the store: equal settings give equal ids, a name is never half an artefact, one writer."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest

from workbench.builders import Builder
from workbench.care import prune
from workbench.disk import plain_disk_errors
from workbench.errors import Failure, Misuse
from workbench.grow import prepare
from workbench.lab import MANIFEST, Lab, artefact_id, read_artefact
from workbench.plan import Plan, plan
from workbench.rebuilt import why_again
from workbench.recipe import load_preset, read_recipe, write_recipe
from workbench.steps import Step


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    write_recipe(tmp_path / "here" / "recipe.toml", load_preset("quick"))
    return Lab.open("here", tmp_path)


def test_same_configuration_same_id_and_another_for_any_change() -> None:
    one = artefact_id("corpus", {"a": 1, "b": [1, 2]}, ["p"], 1)
    assert one == artefact_id("corpus", {"b": [1, 2], "a": 1}, ["p"], 1)
    others = [
        artefact_id("features", {"a": 1, "b": [1, 2]}, ["p"], 1),
        artefact_id("corpus", {"a": 2, "b": [1, 2]}, ["p"], 1),
        artefact_id("corpus", {"a": 1, "b": [2, 1]}, ["p"], 1),
        artefact_id("corpus", {"a": 1, "b": [1, 2]}, ["q"], 1),
        artefact_id("corpus", {"a": 1, "b": [1, 2]}, ["p"], 2),
    ]
    assert len({one, *others}) == 6


def test_a_changed_setting_changes_everything_downstream_and_nothing_upstream() -> None:
    recipe = load_preset("quick")
    changed = dataclasses.replace(recipe, sft=dataclasses.replace(recipe.sft, lr=5e-4))
    before, after = plan(recipe).steps, plan(changed).steps
    same = {key for key in before if before[key].id == after[key].id}
    assert {"corpus/text", "tokenizer/bpe", "checkpoint/base"} == same


def test_recipe_survives_its_file(tmp_path: Path) -> None:
    recipe = load_preset("quick")
    write_recipe(tmp_path / "recipe.toml", recipe)
    assert read_recipe(tmp_path / "recipe.toml") == recipe


def test_commit_is_all_or_nothing(lab: Lab) -> None:
    draft = lab.begin("corpus", "text", {"x": 1}, {}, 1)
    (draft.path / "data.txt").write_text("hello")
    (draft.path / "resume").mkdir()
    (draft.path / "resume" / "state").write_text("working state")
    assert lab.artefact("corpus", "text", draft.id) is None
    made = draft.commit({"figure": 1.5})
    assert not draft.path.exists()
    assert list(made.manifest["files"]) == ["data.txt"]
    assert lab.artefact("corpus", "text", draft.id) == made
    assert made.check_hashes() == []
    (made.path / "data.txt").write_text("hallo")
    assert made.check_hashes() == ["data.txt"]
    (made.path / "data.txt").write_text("short by one")
    with pytest.raises(Failure, match="has 12 bytes instead of 5"):
        lab.artefact("corpus", "text", draft.id)


def test_damaged_manifest_is_one_sentence(lab: Lab) -> None:
    made = lab.begin("corpus", "text", {}, {}, 1).commit({})
    (made.path / MANIFEST).write_text(json.dumps(made.manifest)[:40])
    with pytest.raises(Failure, match=r"manifest\.json is missing or damaged"):
        read_artefact(made.path)


def test_second_writer_is_told_who_holds_the_lab(lab: Lab) -> None:
    """By the command that was asked for. It is no misuse: the same words do later."""
    held = pytest.raises(Failure, match=rf"is being written by the command `circuit` \(process {os.getpid()}\)")
    with lab.writing("circuit"), held, lab.writing("add"):
        pass
    with lab.writing("add"):  # and is free again afterwards
        pass


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a..b", "x" * 200, "a\\b"])
def test_names_that_could_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="cannot be a lab"):
        Lab.open(name, tmp_path)


def test_unknown_names_offer_the_nearest(lab: Lab) -> None:
    with pytest.raises(Misuse, match="did you mean 'here'"):
        Lab.open("heer", lab.path.parent)
    with pytest.raises(Misuse, match="did you mean 'quick'"):
        load_preset("quik")
    with pytest.raises(Misuse, match="did you mean 'base'"):
        Plan.of(lab).step("checkpoint", "bse")
    with pytest.raises(Misuse, match="did you mean 'sae-sft'"):
        Plan.of(lab).needed_for("sae-stf")


def test_an_existing_lab_keeps_its_recipe(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    assert prepare("here", None, None).path == lab.path
    with pytest.raises(Misuse, match="was begun with preset 'quick'"):
        prepare("here", "standard", None)


def test_recipe_slips_are_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    write_recipe(path, load_preset("quick"))
    good = path.read_text()
    path.write_text(good.replace("beta = ", "betta = "))
    with pytest.raises(Misuse, match=r"no setting in .*'betta': did you mean 'beta'"):
        read_recipe(path)
    path.write_text(good.replace("group_size = 8", 'group_size = "many"'))
    with pytest.raises(Misuse, match="group_size should be int, found 'many'"):
        read_recipe(path)
    path.write_text("[[[")
    with pytest.raises(Misuse, match="is not valid TOML"):
        read_recipe(path)


def test_prune_removes_only_what_no_recipe_names(lab: Lab) -> None:
    step = Plan.of(lab).step("corpus", "text")
    kept = lab.begin("corpus", "text", step.config, step.parents, step.builder.version).commit({})
    stray = lab.begin("corpus", "text", {"old": True}, {}, 1).commit({})
    assert prune(lab, dry_run=True).folders == [f"corpus/{stray.path.name}"]
    assert stray.path.exists()
    prune(lab, dry_run=False)
    assert kept.path.exists()
    assert not stray.path.exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no space left on the disk"), plain_disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")


def step_like(lab: Lab, version: int, config: dict, parents: dict) -> Step:
    """A step of circuit `c`, as a plan would make it."""
    id_ = artefact_id("circuit", config, list(parents.values()), version)
    return Step("circuit", "c", id_, config, parents, Builder("nowhere:build", version))


@pytest.mark.parametrize(
    ("version", "config", "parents", "words"),
    [
        (3, {"n": 1}, {"checkpoint/sft": "a"}, "the code of this step has changed since (version 2, now 3)"),
        (2, {"n": 2, "other": "x"}, {"checkpoint/sft": "a"}, "settings differ (n, other)"),
        (2, {"n": 1}, {"checkpoint/sft": "b", "corpus/text": "c"}, "what it stands on is another"),
        (3, {}, {"checkpoint/sft": "a"}, "now 3); settings differ (n)"),
    ],
)
def test_why_a_step_is_built_again(lab: Lab, version: int, config: dict, parents: dict, words: str) -> None:
    step = step_like(lab, version, config, parents)
    assert why_again(lab, step) == ""
    lab.begin("circuit", "c-other", {"n": 1}, {}, 1).commit({})  # another name that begins alike
    assert why_again(lab, step) == ""
    lab.begin("circuit", "c", {"n": 1}, {"checkpoint/sft": "a"}, 2).commit({})
    assert why_again(lab, step).startswith("circuit/c was built before and is built again: ")
    assert words in why_again(lab, step)


def test_a_step_that_is_the_one_on_the_disk_needs_no_reason(lab: Lab) -> None:
    made = lab.begin("circuit", "c", {"n": (1, 2)}, {"checkpoint/sft": "a"}, 2).commit({})
    same = step_like(lab, 2, {"n": (1, 2)}, {"checkpoint/sft": "a"})
    assert (made.id, why_again(lab, same)) == (same.id, "")
    (made.path / MANIFEST).write_text("{")  # damaged: it can give no reason
    assert why_again(lab, step_like(lab, 3, {}, {})) == ""
