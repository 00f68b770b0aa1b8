"""Separately trained SAEs of a tiny lab, matched: which are chosen, what the tables hold, what is said of them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

from pages.components import matched as matched_view
from pages.components import transferred
from tests.test_pages import errors, opened, sentences
from tests.tiny_lab import begun_lab, build, make_lab, shared_lab, tiny_recipe
from workbench.comparison_account import account
from workbench.comparison_requests import compare
from workbench.features import FeatureTable
from workbench.lab import Lab
from workbench.matched_saes import chosen, other_seed
from workbench.matching import BOUNDS, FLOOR, OTHER, SAME, Matched
from workbench.matching_requests import request_seeds
from workbench.matching_tables import unmatched
from workbench.plan import Plan
from workbench.recipe import read_recipe

NAME = "base-sft"
NAMES = ("base", "sft")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """base and sft with SAEs of two seeds each."""
    lab = begun_lab(tmp_path_factory.mktemp("matching"), dataclasses.replace(tiny_recipe(), comparisons=()))
    assert compare(lab, NAMES) == NAME
    request_seeds(lab, NAMES)
    request_seeds(lab, NAMES)  # once is enough
    return build(lab, NAME, f"evaluation/matching-{NAME}")


@pytest.fixture(scope="module")
def found(lab: Lab) -> Matched:
    return Matched.of(lab, NAME)


def test_the_saes_that_lack_the_fewest_are_chosen_and_a_seed_is_one_trained_alike() -> None:
    recipe = tiny_recipe()
    assert [d.name for d in chosen(recipe, ("base", "grpo")).saes] == ["sae-base", "sae-grpo"]
    (base,) = chosen(recipe, ("base",)).saes
    longer = dataclasses.replace(other_seed(base), name="longer", steps=999)
    wide = dataclasses.replace(base, name="wide", d_sae=200)
    imported = dataclasses.replace(base, name="imported", source="x", seed=3)
    more = dataclasses.replace(
        recipe, dictionaries=(wide, longer, imported, *recipe.dictionaries, other_seed(base))
    )
    own = chosen(more, ("base", "sft"))
    assert own.names == {"saes": ["sae-base", "sae-sft"], "seeds": ["sae-base-s1"]}


def test_a_checkpoint_without_an_sae_is_said_with_the_command() -> None:
    recipe = tiny_recipe()
    own = chosen(recipe, ("base", "mine"))
    assert not own.complete
    like = "--width 96 --k 6"
    assert f"`python -m workbench sae demo --checkpoint mine {like}` trains it" in own.sentence("demo")
    nothing = chosen(dataclasses.replace(recipe, dictionaries=()), ("base", "mine"))
    assert nothing.command("demo") == "python -m workbench sae demo --checkpoint base"
    deep = tuple(dataclasses.replace(d, layer=2, point="mlp_out", seed=4) for d in recipe.dictionaries)
    said = chosen(dataclasses.replace(recipe, dictionaries=deep), ("base", "mine")).command("demo")
    assert said.endswith(f"mine --site 2.mlp_out {like} --seed 4")


def test_a_comparison_without_saes_is_taken_apart_all_the_same(tmp_path) -> None:
    crosscoder = tuple(d for d in tiny_recipe().dictionaries if d.kind == "crosscoder")
    recipe = dataclasses.replace(tiny_recipe(), dictionaries=crosscoder, compared=("base-sft-grpo",))
    keys = Plan.of(make_lab(tmp_path, "tiny", recipe)).parts_of("base-sft-grpo")
    assert "evaluation/drift-base-sft-grpo" in keys
    assert "evaluation/matching-base-sft-grpo" not in keys


def test_every_pair_of_a_seed_is_matched_and_the_other_seeds_beside_it(found: Matched) -> None:
    assert found.couples(SAME) == [("sae-base", "sae-sft")]
    assert found.couples(FLOOR) == [("sae-base", "sae-base-s1"), ("sae-sft", "sae-sft-s1")]
    assert found.couples(OTHER) == [("sae-base", "sae-sft-s1")]
    for _, rows in found.pairs.group_by("a", "b", "by"):
        assert rows["latent_a"].n_unique() == rows["latent_b"].n_unique() == rows.height
    assert set(found.nulls.select("a", "b").unique().iter_rows()) == set(found.couples(SAME))
    assert found.nulls["by"].unique(maintain_order=True).to_list() == ["cosine", "correlation", "mean"]
    assert found.nulls.filter(by="correlation")["correlation"].mean() < 0.1


def test_pairs_hold_the_cosine_and_the_correlation_of_the_two_latents(lab: Lab, found: Matched) -> None:
    """By plain arithmetic on the dense codes, markers left out."""
    tables = {name: FeatureTable.of(lab, name) for name in ("sae-base", "sae-sft")}
    counted = ~np.asarray(tables["sae-base"].token_set.special)
    row = found.pairs.filter(a="sae-base", b="sae-sft", by="mean").sort("correlation").row(-1, named=True)
    codes, decoders = [], []
    for (name, table), latent in zip(tables.items(), (row["latent_a"], row["latent_b"]), strict=True):
        dense = np.zeros(table.index.n_tokens)
        at, values = table.index.entries(latent)
        dense[at] = values
        codes.append(dense[counted])
        decoders.append(table.dictionary.W_dec[latent, 0].numpy())
        assert found.best.filter(own=name, latent=latent)["fires"][0] == (codes[-1] > 0).sum()
    assert row["correlation"] == pytest.approx(np.corrcoef(*codes)[0, 1], abs=1e-6)
    lengths = np.linalg.norm(decoders[0]) * np.linalg.norm(decoders[1])
    assert row["cosine"] == pytest.approx(decoders[0] @ decoders[1] / lengths, abs=1e-6)


def test_every_figure_lies_in_its_interval_and_the_pairs_above_chance(found: Matched) -> None:
    assert found.shares.filter(
        (pl.col("low") > pl.col("value")) | (pl.col("high") < pl.col("value"))
    ).is_empty()
    for figure in BOUNDS:
        row = found.share("sae-base", "sae-sft", figure)
        assert row["low"] > row["null"]
    for by in ("cosine", "correlation", "mean"):
        table = found.distributions("sae-base", "sae-sft", by)
        assert set(table["series"]) == {"matched", "chance", FLOOR, OTHER}
        assert (table.filter(edge=table["edge"].min())["share"] == 1.0).all()
        above = table.filter(figure="correlation", series="matched", edge=0.5)["share"].item()
        pairs = found.pairs.filter(a="sae-base", b="sae-sft", by=by)
        assert above == pytest.approx((pairs["correlation"] >= 0.5).mean())


def test_transfer_to_itself_is_what_the_sae_s_own_manifest_says(lab: Lab, found: Matched) -> None:
    """All held-out tokens of the tiny lab fit the sample."""
    for name, sae in found.saes.items():
        own = lab.find("dictionary", sae).figures
        for figure in ("fvu", "l0", "dead_share"):
            assert found.cell(name, name, figure)["value"] == pytest.approx(own[figure], rel=1e-5)
        assert found.cell(name, name, "scale")["value"] == 1.0
        assert found.cell(name, name, "fvu")["value"] < found.cell(name, _other(name), "fvu")["value"]
        assert found.cell(name, name, "kl")["n"] > 0
    there, back = (found.cell(name, _other(name), "scale")["value"] for name in NAMES)
    assert there * back == pytest.approx(1)
    assert found.transfer.filter(pl.col("value").is_null()).is_empty()


def _other(name: str) -> str:
    return NAMES[1 - NAMES.index(name)]


def test_without_counterpart_is_under_both_bounds_and_another_seed_tells(found: Matched) -> None:
    for own, other in (("sae-sft", "sae-base"), ("sae-base", "sae-sft")):
        best = found.best.filter(own=own, other=other)
        slow = {
            row["latent"]
            for row in best.iter_rows(named=True)
            if row["cosine"] < BOUNDS["cosine"] and row["correlation"] < BOUNDS["correlation"]
        }
        rows = found.unmatched.filter(own=own, other=other)
        assert set(rows["latent"]) == slow
        told = found.without(own, other)
        assert (told.hits, told.n) == (len(slow), best.height)
        assert told.in_another_seed == (rows["seed_correlation"] >= BOUNDS["correlation"]).sum()
        assert found.floor_without(own).n == best.height


def test_a_latent_that_only_another_seed_has_comes_first() -> None:
    """Three of b's latents: a has the first, another seed of b the second, nobody the third."""
    best = pl.DataFrame(
        {
            "own": ["b"] * 6, "other": ["a"] * 3 + ["b1"] * 3, "latent": [0, 1, 2] * 2, "fires": [9, 9, 90] * 2,
            "cosine": [0.9, 0.1, 0.2, 0.1, 0.1, 0.2], "correlation": [0.9, 0.1, 0.1, 0.2, 0.8, 0.1],
        }
    )  # fmt: skip
    rows = unmatched(best, {("b", "a"): "b1"})
    assert rows["latent"].to_list() == [1, 2]
    assert rows["seed_correlation"].to_list() == [0.8, 0.1]
    assert unmatched(best, {("b", "a"): None})["latent"].to_list() == [2, 1]  # then the one that fires more


def test_the_shell_says_floor_transfer_and_what_a_floor_would_tell(lab: Lab, found: Matched) -> None:
    text = "\n".join(found.sentences("tiny"))
    assert "sae-base and sae-sft (same seed)" in text
    assert "sae-sft and sae-sft-s1 (one checkpoint, two seeds)" in text
    assert "have no counterpart in sae-base" in text
    assert "another seed of the same checkpoint lacks" in text
    assert "the SAE of base, thresholds and scale as trained: at home FVU" in text
    json.dumps(found.summary(), allow_nan=False)
    alone = Matched.of(shared_lab(), "base-sft-grpo")
    assert alone.floor_without("sae-sft") is None
    assert "compare tiny base sft grpo --controls` trains another seed" in alone.seed_sentence("tiny")
    told = account(shared_lab(), "base-sft-grpo")
    assert "matching: sae-base and sae-sft (same seed)" in told.describe()
    assert {row["figure"] for row in told.figures["matching"]["transfer"]} == set(transferred.FIGURES)


@pytest.fixture
def served(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    return lab


def test_the_page_shows_the_matching(served: Lab, found: Matched) -> None:
    app = opened("compare", view="Matching")
    assert not app.exception
    assert errors(app) == []
    assert "SAEs trained apart, matched" in [header.value for header in app.header]
    assert [box.value for box in app.subheader][:2] == [
        "What an SAE is worth on another checkpoint",
        "Which latent is which",
    ]
    assert any("have no counterpart in sae-base" in text for text in sentences(app))
    pair = found.pairs.filter(a="sae-base", b="sae-sft", by="cosine").row(0, named=True)
    again = opened("compare", view="Matching", matched_by="cosine", matched_latent=str(pair["latent_a"]))
    assert not again.exception
    called = [box.value for box in again.subheader]
    assert any(f"Latent {pair['latent_a']}:" in text for text in called)
    assert any(f"Latent {pair['latent_b']}:" in text for text in called)


def test_pictures_hold_the_tables(found: Matched) -> None:
    rows = found.transfer.filter(figure="fvu")
    (drawn,) = transferred.drawn(rows).data
    assert drawn.z[0][1] == found.cell("base", "sft", "fvu")["value"]
    pairs = found.pairs.filter(a="sae-base", b="sae-sft", by="mean")
    points, ring = matched_view.scatter(pairs, pairs["latent_a"][0]).data
    assert len(points.x) == pairs.height
    assert list(ring.x) == [pairs["cosine"][0]]
    table = found.distributions("sae-base", "sae-sft")
    assert len(matched_view.distributions(table).data) == 8  # matched, chance and both other seeds, twice


def test_the_page_says_which_sae_is_missing(lab: Lab, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe(lab.path / "recipe.toml")
    rest = tuple(d for d in recipe.dictionaries if not (d.kind == "sae" and d.checkpoints == ("sft",)))
    own = chosen(dataclasses.replace(recipe, dictionaries=rest), NAMES)
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    monkeypatch.setattr("workbench.matched_saes.chosen", lambda *_: own)
    app = opened("compare", view="Matching")
    assert not app.exception
    assert any("the lab has none of sft like the others" in text for text in sentences(app))
