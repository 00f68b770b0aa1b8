"""The Drift and Compare pages of a lab whose comparison was taken apart."""

from __future__ import annotations

import polars as pl
import pytest

from pages.components import (
    compared,
    difference_effects,
    difference_words,
    differences,
    drift_layers,
    drift_weights,
    specific,
)
from tests.test_pages import errors, opened, sentences
from tests.tiny_lab import shared_lab
from workbench.differences import Differences
from workbench.drift import Drift
from workbench.lab import Lab
from workbench.specificity import Specificity

NAME = "base-sft-grpo"
PAIRS = [("base", "sft"), ("base", "grpo"), ("sft", "grpo")]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    lab = shared_lab()
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    return lab


def test_drift_shows_weights_activations_and_what_was_forgotten(lab: Lab) -> None:
    app = opened("drift")
    assert not app.exception
    assert errors(app) == []
    headers = ["Weights", "Activations", "What was forgotten", "Beside sham and sibling"]
    assert [header.value for header in app.header] == headers
    assert any("base → sft" in text for text in sentences(app))
    assert any("base sft grpo --controls" in text for text in sentences(app))


@pytest.mark.parametrize("title", list(drift_weights.READINGS))
def test_every_figure_of_the_weights_can_be_drawn(lab: Lab, title: str) -> None:
    app = opened("drift", weights=title)
    assert not app.exception
    assert errors(app) == []
    assert any(drift_weights.READINGS[title].says in text for text in sentences(app))


def test_an_address_of_no_comparison_says_so(lab: Lab) -> None:
    app = opened("drift", comparison="base-sfd-grpo")
    assert not app.exception
    assert "did you mean 'base-sft-grpo'" in errors(app)[0]


def test_maps_hold_the_table_cell_by_cell(lab: Lab) -> None:
    drift = Drift.of(lab, NAME)
    made = drift_weights.drawn(drift.weights, PAIRS, drift_weights.READINGS["moved"])
    assert len(made.data) == len(PAIRS)
    for trace, (before, after) in zip(made.data, PAIRS, strict=True):
        rows = drift.weights.filter(pl.col("before") == before, pl.col("after") == after)
        drawn = {
            (kind, layer): value
            for kind, line in zip(trace.y, trace.z, strict=True)
            for layer, value in zip(trace.x, line, strict=True)
            if value is not None
        }
        assert len(drawn) == rows.height
        for row in rows.iter_rows(named=True):
            place = drift_weights.OUTSIDE if row["layer"] is None else f"layer {row['layer']}"
            assert drawn[row["kind"], place] == row["moved"]


def test_curves_and_matrices_have_a_trace_for_every_pair(lab: Lab) -> None:
    drift = Drift.of(lab, NAME)
    assert len(drift_layers.curves(drift.layers).data) == 2 * len(PAIRS)
    squares = drift_layers.matrices(drift.cka, PAIRS).data
    assert [len(square.z) for square in squares] == [lab.checkpoint("base").n_layers] * len(PAIRS)


def test_compare_says_what_scaling_leaves_of_the_norms(lab: Lab) -> None:
    app = opened("compare")
    assert not app.exception
    assert errors(app) == []
    assert any("random shared latents" in text for text in sentences(app))


def test_a_latent_that_never_fires_has_nothing_to_scale(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    without_5 = Specificity.of(lab, NAME).table.filter(pl.col("latent") != 5)
    monkeypatch.setattr(Specificity, "table", property(lambda self: without_5))
    app = opened("compare", joint="5")
    assert any("Latent 5 fires on no held-out token" in text for text in sentences(app))


def test_ratios_of_a_latent_stay_within_the_picture(lab: Lab) -> None:
    found = Specificity.of(lab, NAME)
    latent = found.table["latent"][0]
    rows = found.table.filter(pl.col("latent") == latent)
    made = specific.ratios(rows)
    for trace in made.data:
        assert len(trace.x) == 6
        assert all(value is None or 0 <= value <= specific.LARGEST for value in trace.x)


def test_compare_says_what_the_difference_is(lab: Lab) -> None:
    app = opened("compare")
    assert not app.exception
    assert errors(app) == []
    assert "What the difference says" in [header.value for header in app.header]
    assert any("base → sft: mean difference at blocks.1.hook_resid_post" in text for text in sentences(app))
    chosen = {box.label: box for box in app.selectbox}
    assert chosen["Difference of"].options == [f"{a} → {b}" for a, b in PAIRS]
    assert chosen["Mean over"].options[0] == "prose, first 5"


def test_a_pair_a_site_and_a_group_can_be_named_in_the_address(lab: Lab) -> None:
    wanted = {
        "difference": "sft → grpo",
        "difference_site": "blocks.3.hook_resid_post",
        "difference_of": "digits",
    }
    app = opened("compare", **wanted, steered_on="prose", difference_component="2")
    assert not app.exception
    assert errors(app) == []
    assert any("sft → grpo: mean difference" in text for text in sentences(app))
    assert any("the model's own head reads it" in text for text in sentences(app))
    wrong = opened("compare", difference="grpo → sft")
    assert "there is no pair 'grpo → sft'" in errors(wrong)[0]


def test_pictures_of_differences_hold_their_tables(lab: Lab) -> None:
    found = Differences.of(lab, NAME)
    means = found.means.filter(before="base", after="sft", site=found.figures["site"])
    noise, dots = differences.sizes(means, "#000000").data
    assert dict(zip(dots.y, dots.x, strict=True))["position 1"] == means.filter(group="1")["size"].item()
    assert list(noise.y) == list(dots.y)
    lens = found.lens.filter(
        before="base", after="sft", site=found.figures["site"], group="all", reading="plain"
    )
    for trace, head in zip(difference_words.tokens(lens, ("base", "sft")).data, ("base", "sft"), strict=True):
        assert len(trace.x) == 20
        assert list(trace.x) == sorted(trace.x, reverse=True)
        assert trace.x[0] == lens.filter(head=head, end="promoted", place=1)["by"].item()
    rows = found.steering.filter(before="base", after="sft", domain="all")
    assert [len(trace.x) for trace in difference_effects.doses(rows, "#000000").data] == [5] * 4


def test_a_pair_without_a_difference_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    same = Differences.of(lab, NAME).means.with_columns(size=pl.lit(0.0))
    monkeypatch.setattr(Differences, "means", property(lambda self: same))
    app = opened("compare")
    assert errors(app) == []
    assert any("base → sft: no difference at" in text for text in sentences(app))
    assert "Mean over" not in {box.label for box in app.selectbox}


def test_a_comparison_without_differences_says_how_to_take_them(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compared, "taken_apart", lambda lab, *parts: [])
    app = opened("compare")
    assert any("base sft grpo</code> takes it" in text for text in sentences(app))
