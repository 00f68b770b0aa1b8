"""Paths from a parent to its child on a tiny lab: texts, shams, what is told, and a build that was cut off."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

from pages.components import stage_paths as page
from saes.stage_paths import LEGS, MODEL_STEPS, QUANTILE, TURNED_BY
from tests.test_pages import errors, opened, sentences
from tests.tiny_lab import begun_lab, build, shared_lab, tiny_recipe
from workbench import paths_build
from workbench.branches import with_controls
from workbench.comparison_requests import compare
from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.matching_requests import request_paths
from workbench.part_steps import sham_of, text_of
from workbench.paths import LEAST, Paths, walked
from workbench.plan import Plan
from workbench.recipe import AddedCheckpoint, PathsConfig
from workbench.tokens import token_set

NAME = "paths-base-sft"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    recipe = dataclasses.replace(tiny_recipe(), comparisons=())
    lab = begun_lab(tmp_path_factory.mktemp("paths"), recipe)
    compare(lab, ("base", "sft"))
    assert request_paths(lab, ("base", "sft")) == request_paths(lab, ("sft", "base")) == [NAME]
    return build(lab, "base-sft", f"evaluation/{NAME}")


@pytest.fixture(scope="module")
def found(lab: Lab) -> Paths:
    return Paths.of(lab, NAME)


def test_what_each_stage_trains_on_by_hand() -> None:
    mine = (AddedCheckpoint("mine", "x", "dpo", "sft"), AddedCheckpoint("tuned", "x", "sft", "base"))
    recipe = dataclasses.replace(with_controls(tiny_recipe()), added=mine)
    assert text_of(recipe, "base") == text_of(recipe, "sft-sham") == ("prose", "world")
    assert text_of(recipe, "sft") == text_of(recipe, "sft-sibling") == text_of(recipe, "tuned")
    assert text_of(recipe, "sft") == ("prose", "world", "chat")
    assert text_of(recipe, "grpo") == text_of(recipe, "mine") == ("prose", "world", "chat", "rollout")


def test_the_sham_is_of_the_same_parent() -> None:
    recipe = with_controls(tiny_recipe())
    assert sham_of(recipe, PathsConfig("base", "sft", "sae-base")) == "sft-sham"
    assert sham_of(recipe, PathsConfig("base", "grpo", "sae-base")) is None
    assert sham_of(tiny_recipe(), PathsConfig("base", "sft", "sae-base")) is None


def test_rows_of_a_text_are_of_its_domains(lab: Lab) -> None:
    tokens = token_set(lab, "base")
    rows = np.arange(0, len(tokens), 3)
    kept = paths_build._of_text(rows, tokens, ("world", "rollout"))
    domain = tokens.domain[np.asarray(tokens.document)[kept]]
    assert {name.partition(":")[0] for name in domain} == {"world", "rollout"}
    assert any(name.startswith("rollout:") for name in domain)
    assert set(kept) < set(rows)


def test_checkpoints_that_do_not_descend_from_one_another_have_no_path(lab: Lab) -> None:
    before = (lab.path / "recipe.toml").read_text()
    with pytest.raises(Misuse, match="none of base, grpo was trained from another of them"):
        request_paths(lab, ("base", "grpo"))
    assert (lab.path / "recipe.toml").read_text() == before


def test_latents_are_counted_once_and_chance_turns_as_many_as_it_should(found: Paths) -> None:
    shares = found.shares()
    assert sum(shares[by].hits for by in TURNED_BY) == found.known.height > 20
    assert "sham" not in shares
    bounds = found.figures["bounds"]
    for step, bound in (("null, first", bounds["first"]), ("null, second", bounds["second"])):
        assert (found.known[step] < bound).mean() == pytest.approx(QUANTILE, abs=1.5 / found.known.height)
    slow = found.known.filter(
        pl.col(MODEL_STEPS[0]) < bounds["second"], pl.col(MODEL_STEPS[1]) < bounds["first"]
    )
    assert set(slow["turned_by"]) <= {"model", "both"}
    assert slow.height == shares["model"].hits + shares["both"].hits
    assert (found.known["fires_before"] >= LEAST).all()
    assert found.figures["texts"] == {"own": ["prose", "world"], "all": ["prose", "world", "chat"]}
    assert found.figures["fvu"]["F_D"] < 1


def test_the_shell_tells_the_paths_and_their_null(lab: Lab, found: Paths) -> None:
    assert [each.name for each in walked(lab, ("base", "sft"))] == [NAME]
    assert walked(lab, ("sft", "grpo")) == []
    said = found.sentences()[0]
    assert "base → sft: of" in said
    assert "on its own text (prose, world) the child turned" in said
    assert "the new text (chat)" in said
    assert "trained on as it was" in said
    json.dumps(found.summary(), allow_nan=False)


def test_a_build_that_was_cut_off_goes_on_from_its_legs(
    lab: Lab, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in the fourth leg; begun again it trains only what is missing and ends the same."""
    recipe = Plan.of(lab).recipe
    again = begun_lab(tmp_path, recipe)
    done: list[str] = []
    own = paths_build.save_whole

    def saved(dictionary, path) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(path.name)
        own(dictionary, path)

    monkeypatch.setattr(paths_build, "save_whole", saved)
    with pytest.raises(KeyboardInterrupt):
        build(again, f"evaluation/{NAME}")
    assert done == list(LEGS)[:3]
    later: list[str] = []
    monkeypatch.setattr(paths_build, "save_whole", lambda d, path: (later.append(path.name), own(d, path)))
    build(again, f"evaluation/{NAME}")
    assert later == list(LEGS)[3:]
    assert Paths.of(again, NAME).table.equals(Paths.of(lab, NAME).table)


def test_the_page_shows_the_paths_and_says_how_to_walk_them(
    lab: Lab, found: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    app = opened("compare", view="Matching", turned="by both")
    assert not app.exception
    assert errors(app) == []
    assert any("base → sft: of" in text for text in sentences(app))
    points = page.drawn(found).data
    assert sum(len(trace.x) for trace in points) == found.known.height
    monkeypatch.setenv("MARBLE_HOME", str(shared_lab().path.parent))
    without = opened("compare", view="Matching")
    assert any("base sft grpo --paths</code>" in text for text in sentences(without))
