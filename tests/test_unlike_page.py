"""Compare, Drift and Verdict of a lab whose only comparison is of unlike checkpoints."""

from __future__ import annotations

import pytest

from pages.components import unlike_view
from tests.test_pages import errors, opened, sentences
from tests.test_unlike import NAME, unlike_lab
from workbench.lab import Lab
from workbench.unlike import Unlike


@pytest.fixture(autouse=True)
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    lab = unlike_lab()
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    return lab


def test_compare_says_what_cannot_be_compared_and_shows_the_rest() -> None:
    app = opened("compare", comparison=NAME)
    assert not app.exception
    assert errors(app) == []
    assert app.selectbox(key="comparison").options == [NAME]
    assert any("sft, foreign and wide have different tokenizers" in text for text in sentences(app))
    assert [header.value for header in app.header] == [
        "Bits per byte on the same text",
        "Answers",
        "CKA where words end",
        "Predictions on the same tokens",
        "Weights",
    ]
    charts = app.get("plotly_chart")
    assert len(charts) == 4
    assert {chart.proto.alt for chart in charts} >= {"bits per byte of every checkpoint, by domain"}


@pytest.mark.parametrize(("page", "what"), [("drift", "Drift"), ("verdict", "A verdict")])
def test_pages_of_one_family_say_that_they_are(page: str, what: str) -> None:
    app = opened(page, comparison=NAME)
    assert not app.exception
    assert errors(app) == []
    assert any(
        f"{what} needs checkpoints of one family: {NAME} stands on the Compare" in t for t in sentences(app)
    )


def test_the_maps_hold_the_table(lab: Lab) -> None:
    table = Unlike.of(lab, NAME).cka
    made = unlike_view.maps(table, [("sft", "foreign"), ("foreign", "wide")])
    assert [len(trace.y) for trace in made.data] == [4, 2]
    drawn = [value for trace in made.data for line in trace.z for value in line]
    rows = [
        table.filter(before=a, after=b)["cka"].to_list() for a, b in (("sft", "foreign"), ("foreign", "wide"))
    ]
    assert drawn == [value for part in rows for value in part]
