"""The lives of a comparison's latents in a lab with snapshots, and in one without."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from streamlit.testing.v1 import AppTest

from pages.components import life_lines, life_words
from tests.test_pages import errors, opened, sentences
from tests.tiny_lab import begun_lab, build, draft, make_lab, moved, shared_lab, tiny_recipe
from workbench.comparison_account import account
from workbench.errors import Failure, Misuse
from workbench.lab import Lab
from workbench.lives import COLUMNS, Lives
from workbench.lives_build import sampled, stream
from workbench.lives_tables import FEWEST
from workbench.plan import Plan
from workbench.points import Site
from workbench.step_axis import Moment
from workbench.tokens import token_set

NAME = "base-sft-grpo"
SNAPSHOTS = {"base": (0, 8), "sft": (0, 8), "grpo": ()}  # grpo's are gone
READ = ("evaluation/lives-*", "evaluation/gains-*")  # what a checkpoint's snapshots and metrics change
METRICS = {"base": ("loss",), "sft": ("loss",), "grpo": ("loss", "reward", "kl")}


def with_snapshots(lab: Lab, name: str) -> None:
    """The checkpoint again, with snapshots (noise takes the place of its training) and metrics."""
    before, again = lab.find("checkpoint", name), draft(lab, "checkpoint", name)
    shutil.copytree(before.path, again.path, dirs_exist_ok=True)
    torch.manual_seed(5)
    for step in SNAPSHOTS[name]:
        model = moved(lab.checkpoint(name).model(), 10.0 if name == "base" else 0.1)
        model.save_pretrained(again.path / "snapshots" / f"step-{step:06d}")
    rows = [(step, metric, 1.0 / step) for metric in METRICS[name] for step in (10, 20)]
    table = pl.DataFrame(rows, schema=["step", "name", "value"], orient="row")
    table.write_parquet(again.path / "metrics.parquet")
    again.commit({})


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """No SAEs: the crosscoder and what the comparison is taken apart into."""
    recipe = tiny_recipe()
    crosscoder = tuple(d for d in recipe.dictionaries if d.kind == "crosscoder")
    recipe = dataclasses.replace(recipe, dictionaries=crosscoder, compared=(NAME,))
    lab = begun_lab(tmp_path_factory.mktemp("lives"), recipe, *READ)
    for name in SNAPSHOTS:
        with_snapshots(lab, name)
    return build(lab, NAME, *Plan.of(lab).parts_of(NAME))


@pytest.fixture(scope="module")
def found(lab: Lab) -> Lives:
    return Lives.of(lab, NAME)


def test_the_axis_holds_every_model_once(found: Lives) -> None:
    told = found.moments.select("stage", "step", "end").rows()
    steps = tiny_recipe().base.steps, tiny_recipe().sft.steps, tiny_recipe().grpo.steps
    assert told == [
        ("base", 0, False),
        ("base", 8, False),
        ("base", steps[0], True),
        ("sft", 8, False),
        ("sft", steps[1], True),
        ("grpo", steps[2], True),
    ]
    assert found.moments["axis"].to_list()[-1] == sum(steps)
    assert found.moments["place"].is_sorted()
    assert found.figures["gone"] == ["grpo"]
    assert found.figures["beside"] == []


def test_curves_hold_their_intervals_and_end_at_their_own(found: Lives) -> None:
    lives, births = found.lives, found.births
    assert lives.height == lives["latent"].n_unique() * found.moments.height
    assert (lives["low"] <= lives["strength"]).all()
    assert (lives["strength"] <= lives["high"]).all()
    assert lives["cosine"].drop_nulls().is_between(-1, 1).all()
    assert (births["n"] >= FEWEST).all()
    for row in births.iter_rows(named=True):
        life = found.life(row["latent"])
        assert life is not None
        last = life.curve.filter(pl.col("stage") == row["own"]).row(-1, named=True)
        assert last["strength"] == row["final"]
        assert last["length"] is None or last["length"] == 1
        assert life.half == row["final"] / 2


def test_counts_are_of_the_births(found: Lives) -> None:
    told = found.born_in()
    n = found.births.height
    assert n > 0
    assert told.start.hits + told.unclear.hits + sum(share.hits for share in told.born.values()) == n
    assert all(told.sure[stage] <= share.hits for stage, share in told.born.items())
    assert sum(found.moments["born"]) == n - told.unclear.hits
    assert sum(found.moments["died"]) == sum(share.hits for share in told.died.values())
    assert (found.moments["low"] <= found.moments["there"]).all()
    assert (found.moments["there"] <= found.moments["high"]).all()
    # base began as noise: what the crosscoder found in the finished stages was not there, or not by its direction
    assert told.start.hits < n / 2


def test_training_curves_stand_on_the_same_axis(found: Lives) -> None:
    curves = found.curves
    assert set(curves.select("stage", "name").iter_rows()) == {
        ("base", "loss"),
        ("sft", "loss"),
        ("grpo", "reward"),  # its loss is a surrogate
        ("grpo", "kl"),
    }
    first = curves.filter(pl.col("stage") == "sft").row(0, named=True)
    assert first["axis"] == tiny_recipe().base.steps + 10
    assert 1 < first["place"] < 2


def test_a_model_read_anew_gives_what_was_stored(lab: Lab) -> None:
    tokens = token_set(lab, "base")
    sample = sampled(tokens, 500)
    assert not np.asarray(tokens.special)[sample.rows].any()
    assert (np.diff(sample.block) >= 0).all()
    stored = lab.find("activations", "sft")
    moment = Moment("sft", 180, 0, 0.0, True)
    read = stream(lab, moment, Site(stored.figures["layer"]), tokens, sample)
    assert read == pytest.approx(np.load(stored.path / "heldout.npy")[sample.rows], abs=1e-4)


def test_picks_are_latents_with_a_birth(found: Lives) -> None:
    picks = found.picks()
    assert picks["born last"]
    born = dict(found.births.select("latent", "born").iter_rows())
    assert born[picks["born last"][0]] == max(at for at in born.values() if at is not None)
    assert {latent for latents in picks.values() for latent in latents} <= set(born)


def test_the_account_says_it_and_what_is_gone(lab: Lab) -> None:
    told = account(lab, NAME)
    text = told.describe()
    assert "were there at base's step 0; born in base" in text
    assert "lives: of grpo only the end is known (imported, or snapshots gone)" in text
    json.dumps(told.figures, allow_nan=False)
    assert set(told.figures["lives"]["born"]) == {"base", "sft", "grpo"}


def test_without_snapshots_nothing_is_dated_and_all_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = shared_lab()
    found = Lives.of(lab, NAME)
    assert not found.known
    assert all(getattr(found, name).is_empty() for name in COLUMNS)
    assert "no snapshots of base, sft, grpo" in account(lab, NAME).describe()
    assert account(lab, NAME).figures["lives"]["gone"] == ["base", "sft", "grpo"]
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    assert any("No snapshots of base, sft, grpo" in text for text in sentences(opened("compare", view="Lives")))


def page(lab: Lab, monkeypatch: pytest.MonkeyPatch, latent: int) -> AppTest:
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    return opened("compare", view="Lives", joint=str(latent))


def test_the_page_shows_a_life_and_a_pick_opens_another(
    lab: Lab, found: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    latent, *_, pick = found.picks()["born last"]
    app = page(lab, monkeypatch, latent)
    assert not app.exception
    assert errors(app) == []
    assert "Life lines" in [header.value for header in app.header]
    assert f"The life of latent {latent}" in [each.value for each in app.subheader]
    app.button(key=f"pick-born last-{pick}").click().run()
    assert f"The life of latent {pick}" in [each.value for each in app.subheader]
    assert app.query_params["joint"] == str(pick)


def test_a_latent_without_tokens_has_no_life(lab: Lab, found: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    without_5 = found.lives.filter(pl.col("latent") != 5)
    monkeypatch.setattr(Lives, "lives", property(lambda self: without_5))
    app = page(lab, monkeypatch, 5)
    assert any("Latent 5 fires on no sampled token" in text for text in sentences(app))


def test_pictures_hold_the_tables(found: Lives) -> None:
    made = life_lines.overview(found.moments, found.curves)
    there = next(trace for trace in made.data if trace.name == "there")
    assert list(there.y) == found.moments["there"].to_list()
    born = next(trace for trace in made.data if trace.name == "born")
    assert sum(born.y) == sum(found.moments["born"])
    life = found.life(found.births["latent"][0])
    assert life is not None
    drawn = {trace.name: list(trace.y) for trace in life_lines.one(life, found.moments).data if trace.name}
    assert drawn["strength"] == life.curve["strength"].to_list()


def test_words_of_births() -> None:
    assert "too few sampled tokens" in life_words.told(None)
    assert life_words.facts(None) == []
    assert "nothing is claimed" in life_words.told({"arrival": None})
    died = {"arrival": "new", "departure": "gone", "born_stage": "base", "died_stage": "sft", "own": "base"}
    assert "In base its direction was new; in sft it went" in life_words.told(died)


def test_a_comparison_not_taken_apart_and_a_damaged_table_say_so(found: Lives, tmp_path) -> None:
    lab = make_lab(tmp_path, "other", tiny_recipe())
    with pytest.raises(Misuse):
        Lives.of(lab, NAME)
    (tmp_path / "births.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(Failure, match=r"births.parquet cannot be read .*compare again"):
        _ = dataclasses.replace(found, path=tmp_path).births
