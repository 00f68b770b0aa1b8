"""The Superposition page without a browser: its settings are the address's, and its figures the model's."""

from __future__ import annotations

import polars as pl
import pytest
import streamlit as st
import torch

from pages.components import show, toy_figures
from saes import toy_model
from saes.phase_diagram import PHASES, PhaseDiagram
from tests.test_pages import SMALL, errors, opened, sentences
from tests.test_superposition import lab as studied  # noqa: F401
from workbench.lab import Lab
from workbench.superposition import Study

HEADERS = [
    "A toy model",
    "What a dictionary finds in it",
    "Sparsity and shape",
    "When a feature is worth a place",
    "This model",
]


@pytest.fixture(autouse=True)
def _tables_are_unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture's table is sent when its expander is opened, which AppTest cannot click."""
    monkeypatch.setattr(show, "twin", lambda table, key, label="": st.dataframe(table, key=f"{key}-table"))


@pytest.fixture(autouse=True)
def _default_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARBLE_LAB", "tiny")


def test_toy_of_the_address_is_trained_and_drawn(tiny_lab: Lab) -> None:
    app = opened("superposition", **SMALL["superposition"])
    assert not app.exception
    assert errors(app) == []
    assert [header.value for header in app.header] == HEADERS
    assert any("2 of 2" in text for text in sentences(app))
    features = next(t.value for t in app.dataframe if "nearest shape" in t.value.columns)
    assert list(features["nearest shape"]) == ["antipodal pair"] * 2
    assert list(features["dimensionality"]) == pytest.approx([0.5, 0.5], abs=0.02)
    app.number_input(key="m").set_value(2).run()
    features = next(t.value for t in app.dataframe if "nearest shape" in t.value.columns)
    assert list(features["nearest shape"]) == ["alone"] * 2


def test_a_toy_that_holds_nothing_costs_no_other_section(
    tiny_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many dense features in one dimension end so on some machines; here no length counts as held."""
    monkeypatch.setattr(toy_model, "REPRESENTED", 2.0)
    app = opened("superposition", n="3", m="1", density="1.0", seeds="1")
    assert not app.exception
    [sentence] = errors(app)
    assert "represents no feature" in sentence
    assert [header.value for header in app.header] == HEADERS
    assert any("0 of 3" in text for text in sentences(app))
    assert any("features per dimension" in t.value.columns for t in app.dataframe)
    assert any("relative importance" in t.value.columns for t in app.dataframe)


def test_a_sweep_is_drawn_against_one_over_the_density(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real sweep of (5, 2): one feature a dimension where all are on, a pentagon where they are rare."""
    from pages.components import theme, toy_tables
    from saes.toy_model import ToyConfig, fit

    monkeypatch.setattr(theme, "palette", lambda: theme.LIGHT)
    toys = fit(ToyConfig(n=5, m=2, n_seeds=4), (1.0, 0.05))
    table = toy_tables.per_dimension(toys)
    made = toy_figures.per_dimension(table)
    assert made.data[0].x == pytest.approx((1, 20))
    for value, toy in zip(made.data[0].y, toys, strict=True):
        assert value == pytest.approx(float(toy.W.square().sum()) / 2)
    assert made.data[0].y[0] < 1.3 < 2 < made.data[0].y[1]
    shapes = toy_figures.sweep(toy_tables.shapes(toys))
    rare = [y for x, y in zip(shapes.data[0].x, shapes.data[0].y, strict=True) if x == pytest.approx(20)]
    assert rare == pytest.approx([2 / 5] * 5, abs=0.02)
    lines = {round(shape.y0, 4) for shape in shapes.layout.shapes}
    assert {0.5, 0.6667, 0.4, 0.75} <= lines
    assert toy_tables.shapes(()).schema["dimensionality"] == toy_tables.SHAPES["dimensionality"]


def test_arrows_end_where_the_features_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    from pages.components import theme

    monkeypatch.setattr(theme, "palette", lambda: theme.LIGHT)
    W = torch.tensor([[1.0, 0.0, -0.6], [0.0, 0.5, -0.8]])
    arrows = toy_figures.geometry(W).layout.annotations
    assert [(a.x, a.y) for a in arrows] == [tuple(column) for column in W.T.tolist()]
    assert all((a.ax, a.ay) == (0, 0) for a in arrows)
    line = toy_figures.geometry(W[:1]).layout.annotations
    assert [(a.x, a.y) for a in line] == [(v, 0) for v in W[0].tolist()]
    space = toy_figures.geometry(torch.eye(3)).data[1]
    assert (space.x, space.y, space.z) == tuple(map(tuple, torch.eye(3).tolist()))
    [heat] = toy_figures.geometry(torch.eye(4)).data
    assert [list(row) for row in heat.z] == torch.eye(4).tolist()


def test_every_phase_has_its_own_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    from pages.components import theme

    for palette in (theme.LIGHT, theme.DARK):
        monkeypatch.setattr(theme, "palette", lambda palette=palette: palette)
        phase = torch.tensor([[0, 1], [2, 2]])
        found = PhaseDiagram(torch.tensor([0.1, 1.0]), torch.tensor([0.1, 1.0]), torch.zeros(2, 2, 2), phase)
        [heat] = toy_figures.phases(found).data
        assert len({colour for _, colour in heat.colorscale}) == len(PHASES)
        assert [list(row) for row in heat.customdata] == [[PHASES[0], PHASES[1]], [PHASES[2], PHASES[2]]]


def test_a_finished_study_is_drawn(monkeypatch: pytest.MonkeyPatch, studied: Lab) -> None:  # noqa: F811
    monkeypatch.setenv("MARBLE_HOME", str(studied.path.parent))
    app = opened("superposition", crowded="grpo", **SMALL["superposition"])
    assert not app.exception
    assert errors(app) == []
    assert not any("not been studied yet" in text for text in sentences(app))
    figures = Study.of(studied).figures
    table = next(t.value for t in app.dataframe if "alive latents per dimension" in t.value.columns)
    assert list(table["activations"]) == [f"{c}{of}" for c in figures for of in ("", ", Gaussian")]
    assert list(table["FVU"])[::2] == [found["fvu"] for found in figures.values()]
    following = next(t.value for t in app.dataframe if "follow a factor" in t.value.columns)
    assert list(following["how many"]) == [64, 96] * 3
    changed = next(t.value for t in app.dataframe if "noise floor" in t.value.columns)
    assert list(changed["difference"]) == ["sft − base", "grpo − sft"] * 5
    assert list(changed["change"].dropna()) == Study.of(studied).changes["change"].drop_nulls().to_list()


def test_a_change_is_filled_only_beyond_zero_and_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    from pages.components import stage_changes, theme
    from workbench.stage_changes import SCHEMA

    monkeypatch.setattr(theme, "palette", lambda: theme.LIGHT)
    rows = [
        ("fvu", "base", "sft", 0.1, 0.3, 0.2, 0.1, 0.3, 0.05, True, "documents", 9),
        ("fvu", "sft", "grpo", 0.3, 0.2, -0.1, -0.2, 0.1, 0.15, False, "documents", 9),
        ("nearest_cosine", "base", "sft", 0.3, None, None, None, None, None, False, "latents", 0),
    ]
    table = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    made = stage_changes.drawn(table.with_columns(difference=pl.format("{} − {}", "later", "earlier")))
    floor, marks, no_floor, _ = made.data
    assert list(floor.error_x.array) == [0.05, 0.15]
    assert list(floor.x) == [0.0, 0.0]
    assert list(marks.x) == [0.2, -0.1]
    assert list(marks.error_x.array) == pytest.approx([0.1, 0.2])
    assert list(marks.error_x.arrayminus) == pytest.approx([0.1, 0.1])
    assert [symbol.endswith("-open") for symbol in marks.marker.symbol] == [False, True]
    assert list(no_floor.error_x.array) == [0.0]
    assert made.layout.annotations[-1].text == "no figure: too few latents"
    assert all(made.layout[axis].zeroline for axis in ("xaxis", "xaxis2"))
