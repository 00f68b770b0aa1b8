"""Beside its controls: what a stage changed is told from what going on, or another seed, changes too."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from pages.components import beside_controls
from tests.test_pages import errors, opened, sentences
from tests.tiny_lab import begun_lab, build, draft, moved, tiny_recipe
from workbench.branches import request_controls
from workbench.comparison_account import account
from workbench.comparison_requests import compare, compare_beside_controls
from workbench.controls import DOMAINS, Controls, Pair, pairs_of
from workbench.difference_controls import CHANCE, readouts
from workbench.differences import Differences
from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.plan import Plan

HARDLY = 0.02  # how far a control moves from what it is compared with; the tiny stages move by 0.2
READ = ("drift", "scaling", "differences")  # what is read of the comparisons with controls


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Stage sft moved far from base; its sham hardly from base and its sibling hardly from sft."""
    recipe = dataclasses.replace(tiny_recipe(), comparisons=(), dictionaries=tiny_recipe().dictionaries[-1:])
    lab = begun_lab(tmp_path_factory.mktemp("controls"), recipe)
    request_controls(lab)
    for name, parent in (("sft-sham", "base"), ("sft-sibling", "sft")):
        torch.manual_seed(1)
        folder = draft(lab, "checkpoint", name)
        moved(lab.checkpoint(parent).model(), HARDLY).save_pretrained(folder.path)
        lab.checkpoint(parent).tokenizer().save_pretrained(folder.path)
        folder.commit({})
    names = compare_beside_controls(lab, ("base", "sft"))
    parts = (f"evaluation/{part}-{name}" for name in names for part in READ)
    return build(lab, *(f"comparison/{name}" for name in names), *parts, *Plan.of(lab).parts_of("base-sft"))


def test_pairs_by_hand() -> None:
    assert pairs_of(("base", "sft")) == [
        Pair("sft", "stage", "base", "sft"),
        Pair("sft", "sham", "base", "sft-sham"),
        Pair("sft", "sibling", "sft", "sft-sibling"),
    ]
    assert len(pairs_of(("base", "sft", "grpo"))) == 6
    with pytest.raises(Misuse, match="only sft and grpo have controls; found mine, yours"):
        pairs_of(("mine", "yours"))


def test_checkpoints_without_controls_are_refused_before_anything_is_written(lab: Lab) -> None:
    before = (lab.path / "recipe.toml").read_text()
    with pytest.raises(Misuse, match="have controls"):
        compare_beside_controls(lab, ("base", "mine"))
    assert (lab.path / "recipe.toml").read_text() == before


def test_a_stage_that_moved_is_beyond_its_controls(lab: Lab) -> None:
    verdicts = {v["figure"]: v for v in Controls.of(lab, ("base", "sft")).verdicts()}
    for figure in ("weights moved", "activations moved", "1 − CKA", "KL from the parent"):
        found = verdicts[figure]
        assert found["credible"], figure
        assert found["value"] > found["floor"] == max(found["sham"], found["sibling"])
        assert found["sham"] > 0
    assert verdicts["weights moved"]["value"] == pytest.approx(10 * verdicts["weights moved"]["sham"], rel=0.05)


def test_a_stage_that_did_no_more_than_its_controls_is_not(lab: Lab) -> None:
    """The sham in the stage's place: nothing is beyond the floor."""
    controls = Controls.of(lab, ("base", "sft"))
    stage, sham, sibling = controls.comparisons
    swapped = {
        stage: controls.comparisons[sham],
        sham: controls.comparisons[sham],
        sibling: controls.comparisons[sham],
    }
    as_sham = {Pair("sft", pair.kind, "base", "sft-sham"): name for pair, name in swapped.items()}
    assert not any(v["credible"] for v in dataclasses.replace(controls, comparisons=as_sham).verdicts())


def test_every_figure_has_three_rows_and_its_n(lab: Lab) -> None:
    table = Controls.of(lab, ("base", "sft")).table
    assert set(table.group_by("figure").len()["len"]) == {3}
    assert (table["n"] > 0).all()
    known = table.drop_nulls()
    assert ((known["low"] <= known["value"]) & (known["value"] <= known["high"])).all()


def test_words_of_a_stage_stand_beside_those_of_its_sham_and_its_sibling(lab: Lab) -> None:
    table = readouts(lab, Differences.of(lab, "base-sft"), "base", "sft")
    assert table["series"].unique(maintain_order=True).to_list() == [
        "base → sft", CHANCE, "sham: base → sft-sham", "sibling: sft → sft-sibling",
    ]  # fmt: skip
    sham = Differences.of(lab, "base-sft-sham").readout.filter(
        head="sft-sham", reading="plain", token="<|end|>"
    )
    told = table.filter(series="sham: base → sft-sham", token="<|end|>")
    assert told["rank"].item() == sham["rank"][0]


def test_the_account_tells_controls_and_is_json(lab: Lab) -> None:
    name = compare(lab, ("base", "sft"))
    told = account(lab, name, controls=True)
    assert "sft: weights moved" in told.describe()
    assert "beyond both" in told.describe()
    assert len(json.loads(json.dumps(told.figures))["controls"]) == 6 + len(DOMAINS)


def test_controls_that_were_not_compared_say_what_to_do(lab: Lab) -> None:
    with pytest.raises(Misuse, match=r"compare tiny base sft grpo --controls"):
        Controls.of(lab, ("base", "sft", "grpo"))


def test_the_drift_page_names_what_is_beyond_both(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    app = opened("drift", view="Controls", comparison="base-sft")
    assert not app.exception
    assert errors(app) == []
    assert any("beyond both controls: weights moved" in text for text in sentences(app))


def test_the_picture_has_a_mark_for_every_row(lab: Lab) -> None:
    table = Controls.of(lab, ("base", "sft")).table
    assert sum(len(trace.x) for trace in beside_controls.drawn(table).data) == table.height
