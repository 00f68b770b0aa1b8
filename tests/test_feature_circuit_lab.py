"""The command `feature-circuit` on a tiny lab: what is stored adds up and is told, what cannot be is refused; its
view on the Circuits page."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.command_line import assert_one_sentence, run
from tests.test_circuit_pages import DONE, UNDONE, circuit_lab
from tests.test_pages import errors, opened, sentences
from tests.tiny_lab import build
from workbench.circuits.feature_picture import LOGITS, node_id, picture
from workbench.circuits.feature_study import FOREMOST, pearson
from workbench.circuits.feature_words import (
    ALL_SITES,
    ERROR,
    MATCHED,
    WITH_ERRORS,
    WITHOUT_ERRORS,
    curve_sentences,
    fewest,
)
from workbench.circuits.found_feature_circuits import COLUMNS, FoundFeatureCircuit
from workbench.lab import Lab
from workbench.plan import Plan, latents_name
from workbench.recipe import DictionaryConfig, read_recipe, write_recipe

EARLY, LATE = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
ASK = ("feature-circuit", "tiny", "--checkpoints", "base")
NAME = latents_name("planted", "base")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The lab of the circuits' pages with SAEs of base at both sites, one of them with a feature table, and a
    second one at the later."""
    lab = Lab(Path(shutil.copytree(circuit_lab().path, tmp_path_factory.mktemp("latents") / "tiny")))
    recipe = read_recipe(lab.path / "recipe.toml")
    early = DictionaryConfig("sae-early", ("base",), 64, 6, layer=0, steps=30, batch_size=256)
    late = dataclasses.replace(early, name="sae-late", layer=1)
    again = dataclasses.replace(late, name="sae-again", seed=1)
    known = dataclasses.replace(recipe, comparisons=(), dictionaries=(early, late, again))
    write_recipe(lab.path / "recipe.toml", known)
    return build(lab, "features/sae-late", "dictionary/sae-early")


@pytest.fixture
def home(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    return lab.path.parent


@pytest.fixture(scope="module")
def own_task(lab: Lab) -> str:
    """The file of the task that base does."""
    return next(each.source for each in read_recipe(lab.path / "recipe.toml").circuits if each.name == DONE)


@pytest.fixture(scope="module")
def told(lab: Lab, own_task: str) -> dict:
    done = run(lab.path.parent, *ASK, "--task", own_task, "--pairs", "12", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["feature_circuits"][NAME]


@pytest.fixture
def found(lab: Lab, told: dict) -> FoundFeatureCircuit:
    return FoundFeatureCircuit.of(lab, NAME)


def test_scores_of_all_nodes_are_the_site(found: FoundFeatureCircuit) -> None:
    """What is stored, node by node, sums to m with the whole site corrupt less m, within what `residual` says."""
    sites = {(r["site"], r["method"], r["figure"]): r for r in found.table("sites").to_dicts()}
    assert found.sites == [EARLY, LATE]
    for site in found.sites:
        for method in ("IG", "AtP"):
            nodes = found.table("nodes").filter(site=site, method=method)
            whole, total = (sites[site, method, figure]["value"] for figure in ("whole", "nodes"))
            assert nodes["score"].sum() == pytest.approx(total, abs=1e-6)
            residual = found.figures["sites"][site]["residual"][method]
            assert abs(total - whole) == pytest.approx(residual * abs(whole), rel=1e-6)
            error = nodes.filter(node=ERROR)["score"].item()
            assert sites[site, method, "error share"]["value"] == pytest.approx(error / total, rel=1e-6)
        assert found.figures["sites"][site]["residual"]["IG"] < 0.02
        assert sites[site, "IG", "whole"]["high"] < 0  # the task is done: corrupt, m is less


def test_every_estimate_has_its_interval_and_n(found: FoundFeatureCircuit) -> None:
    for name, value in (
        ("competence", "value"), ("nodes", "score"), ("exact", "effect"), ("curve", "f"), ("writers", "delta"),
        ("writes", "direct"), ("edges", "weight"),
    ):  # fmt: skip
        table = found.table(name)
        assert len(table), name
        inside = table.select(
            ((pl.col("low") <= pl.col(value)) & (pl.col(value) <= pl.col("high"))).mean()
        ).item()
        assert inside > 0.99, name
        assert set(table["n"]) == {12}, name


def test_all_latents_and_the_errors_do_the_whole_task(found: FoundFeatureCircuit) -> None:
    curve = found.table("curve")
    assert set(curve["site"]) == {EARLY, LATE, ALL_SITES}
    for site in (EARLY, LATE, ALL_SITES):
        rows = curve.filter(site=site)
        first, *_, last = rows.filter(kind=WITH_ERRORS).sort("size").to_dicts()
        assert last["f"] == pytest.approx(1, abs=1e-4)
        assert last["reach"] == pytest.approx(1, abs=1e-4)
        assert first["size"] == first["reach"] == 0
        without = rows.filter(kind=WITHOUT_ERRORS, size=0)["f"].item()
        assert without == pytest.approx(0, abs=1e-4)
        assert len(curve_sentences(rows)) == 2
        matched = rows.filter(kind=MATCHED)
        assert set(matched["size"]) < set(rows["size"])


def test_the_foremost_are_looked_into(found: FoundFeatureCircuit, told: dict) -> None:
    for site in found.sites:
        chosen = found.foremost(site)
        assert 0 < len(chosen) <= FOREMOST
        scores = found.table("nodes").filter(pl.col("node") != ERROR, site=site, method="IG")
        best = scores.sort(pl.col("score").abs(), descending=True)["node"].head(len(chosen)).to_list()
        assert chosen == best
        for name in ("exact", "writes", "tokens", "writers"):
            assert set(found.table(name).filter(site=site)["node"]) <= set(chosen)
        assert set(found.table("writes").filter(site=site)["node"]) == set(chosen)
        foremost = told["foremost"][site]
        assert {row["node"] for row in foremost} == {*chosen, ERROR}
        assert all(bool(row["label"]) == (site == LATE and row["node"] != ERROR) for row in foremost)


def test_edges_join_nodes_of_two_sites_and_miss_nothing(found: FoundFeatureCircuit) -> None:
    (told,) = found.figures["edges"]
    assert (told["early"], told["late"]) == (EARLY, LATE)
    assert told["residual"] < 1e-3
    drawn = picture(found)
    assert set(drawn.edges["source"]) | set(drawn.edges["target"]) == set(drawn.nodes["id"])
    straight = drawn.edges.filter(target=LOGITS)
    scores = {
        node_id(LATE, node): score
        for node, score in found.nodes(LATE, "AtP").select("node", "score").iter_rows()
    }
    assert len(straight)
    for source, weight in straight.select("source", "weight").iter_rows():
        assert weight == scores[source]
    assert drawn.nodes.filter(site=LATE)["y"].min() > drawn.nodes.filter(site=EARLY)["y"].max()


def test_it_is_told_and_asked_for_once(found: FoundFeatureCircuit, told: dict, lab: Lab, own_task: str) -> None:
    assert set(told["tables"]) < set(COLUMNS)
    said = found.describe()
    for site in found.sites:
        assert all(sentence in said for sentence in found.sentences(site))
    assert "The error node" in said
    assert "misses the AtP scores" in said
    before = (found.path / "manifest.json").stat().st_mtime_ns
    again = run(lab.path.parent, *ASK, "--task", own_task, "--pairs", "12")
    assert again.returncode == 0, again.stderr
    assert said in again.stdout
    assert (found.path / "manifest.json").stat().st_mtime_ns == before


def test_of_who_does_not_do_the_task_nothing_is_claimed(lab: Lab, home: Path) -> None:
    done = run(home, *ASK, "--task", "previous_token", "--pairs", "8", "--dictionaries", "sae-late")
    assert done.returncode == 0, done.stderr
    assert "base does not do" not in done.stdout  # it is named once, in front
    assert "does not do the task, so no feature circuit is claimed" in done.stdout
    undone = FoundFeatureCircuit.of(lab, latents_name("previous_token", "base"))
    assert not undone.sites
    assert all(not len(undone.table(name)) for name in COLUMNS if name != "competence")
    app = opened("circuits", circuit=UNDONE, view="Latents", checkpoint="base")
    assert not app.exception
    assert any("no feature circuit is claimed" in text for text in sentences(app))
    assert not app.get("plotly_chart")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("--checkpoints", "sft"), ["has no SAE of 'sft'", "sae tiny --checkpoint sft"]),
        (("--dictionaries", "sae-lat"), ["sae-lat", "sae-late"]),
        (("--dictionaries", "sae-late,sae-again"), ["sae-late", "sae-again", "both read", LATE]),
        (("--checkpoints", "base,sft", "--dictionaries", "sae-late"), ["names none of 'sft'"]),
        (("--checkpoints", "sft", "--dictionaries", "sae-late"), ["reads base", "sft"]),
        (("--checkpoints", "basee"), ["basee", "base"]),
        (("--checkpoints", "base,base"), ["once"]),
        (("--task", "previous_tokens"), ["previous_tokens", "previous_token"]),
        (("--pairs", "3"), ["--pairs is 3"]),
    ],
)
def test_misuse_is_one_sentence(lab: Lab, home: Path, changes: tuple[str, ...], words: list[str]) -> None:
    before = (lab.path / "recipe.toml").read_text()
    asked = {"--task": "previous_token", "--checkpoints": "base"}
    asked |= dict(zip(changes[::2], changes[1::2], strict=True))
    done = run(home, "feature-circuit", "tiny", *(part for option in asked.items() for part in option))
    assert_one_sentence(done, 2, *words)
    assert (lab.path / "recipe.toml").read_text() == before


def test_the_view_draws_what_is_stored(found: FoundFeatureCircuit, home: Path) -> None:
    latent = found.foremost(LATE)[1]
    app = opened("circuits", circuit=DONE, view="Latents", checkpoint="base", node=f"{LATE}/{latent}")
    assert not app.exception
    assert errors(app) == []
    drawn = " ".join(chart.proto.id for chart in app.get("plotly_chart"))
    for site in (EARLY, LATE):
        assert f"latents-{site.replace('.', '-')}" in drawn
        assert f"latent-curve-{site.replace('.', '-')}" in drawn
    assert "latent-graph" in drawn
    assert "latent-writers" in drawn
    assert f"Latent {latent} of {LATE}" in [each.value for each in app.subheader]
    said = " ".join(sentences(app))
    assert f"features?lab=tiny&amp;dictionary=sae-late&amp;latent={latent}" in said
    assert "The error node, what the dictionary leaves over, has" in said


def test_the_error_and_a_dictionary_without_texts(found: FoundFeatureCircuit, home: Path) -> None:
    app = opened("circuits", circuit=DONE, view="Latents", checkpoint="base", node=f"{LATE}/error")
    assert errors(app) == []
    assert any("it has no tokens" in text for text in sentences(app))
    app = opened(
        "circuits",
        circuit=DONE,
        view="Latents",
        checkpoint="base",
        node=node_id(EARLY, found.foremost(EARLY)[0]),
    )
    assert errors(app) == []
    assert any("sae-early has no feature table" in text for text in sentences(app))
    app = opened("circuits", circuit=DONE, view="Latents", checkpoint="base", node=f"{LATE}/nothing")
    assert not app.exception
    assert len(errors(app)) == 1


def test_where_nothing_is_stored_the_command_is_there(found: FoundFeatureCircuit, home: Path, lab: Lab) -> None:
    """Of sft there is no SAE: that is said instead of a command that would be refused."""
    app = opened("circuits", circuit=DONE, view="Latents", checkpoint="sft")
    assert errors(app) == []
    assert any("has no SAE of" in text for text in sentences(app))
    recipe = read_recipe(lab.path / "recipe.toml")
    try:
        write_recipe(lab.path / "recipe.toml", dataclasses.replace(recipe, feature_circuits=()))
        app = opened("circuits", circuit=DONE, view="Latents", checkpoint="base")
        assert errors(app) == []
        file = next(each.source for each in recipe.circuits if each.name == DONE)
        command = f"python -m workbench feature-circuit tiny --task {file} --checkpoints base"
        assert command in [each.value for each in app.code]
    finally:
        write_recipe(lab.path / "recipe.toml", recipe)
    assert f"evaluation/{NAME}" in Plan.of(lab).steps


def test_correlation_by_hand() -> None:
    a = np.array([[1.0, 2.0, 4.0], [3.0, 4.0, 6.0]])  # means 2, 3, 5
    b = np.array([[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]])
    assert pearson(a, a).value == pytest.approx(1)
    assert pearson(a, -a) == pytest.approx((-1, -1, -1))
    # deviations (−4, −1, 5) / 3 and (1, −1, 0): −3 / √(42 · 2)
    assert pearson(a, b).value == pytest.approx(-3 / math.sqrt(84))
    assert math.isnan(pearson(a, np.ones_like(a)).value)


def test_the_fewest_are_those_from_which_all_do() -> None:
    rows = [{"size": size, "f": f} for size, f in ((0, 0.9), (1, 0.3), (2, 0.8), (4, 0.95))]
    assert fewest(rows) == 2
    assert fewest(rows[:2]) is None
