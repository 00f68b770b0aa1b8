"""The verdict sheet: how lines are sorted and said, what a lab's sheet holds, and its export."""

from __future__ import annotations

import json
import re
from html import unescape
from urllib.parse import parse_qsl

import pytest
from typer.testing import CliRunner

from tests.test_pages import errors, opened, sentences
from workbench.cli import app as commands
from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.verdict import sheet
from workbench.verdict_file import write_sheet
from workbench.verdict_html import block, document, picture
from workbench.verdict_sheet import (
    ADDED,
    ALONE,
    CHANGED,
    FORGOT,
    RULE,
    RULES,
    SILENCED,
    SILENT,
    SORTS,
    STRENGTHENED,
    UNCHANGED,
    Line,
    Sheet,
    StageSheet,
    sentence,
    sorted_by,
    verdict_of,
)  # fmt: skip

NAME = "base-sft-grpo"


def row(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def line(**changed: object) -> Line:
    made = Line("sft", ADDED, "right on sums", 0.6, 0.5, 0.7, 100, 0.01, 0.02, 0.0, True, "drift?lab=x&a=b")
    return made._replace(**changed)


def test_lines_are_sorted_by_whether_intervals_part() -> None:
    nothing, little, much = row(0.01, 0.0, 0.03), row(0.2, 0.15, 0.25), row(0.6, 0.5, 0.7)
    assert sorted_by(nothing, much) == ADDED
    assert sorted_by(little, much) == STRENGTHENED
    assert sorted_by(much, little) == SILENCED
    assert sorted_by(little, row(0.26, 0.2, 0.3)) == ALONE


def test_a_verdict_of_itself_is_unchanged() -> None:
    assert verdict_of(0.0, 0.0, 0.0, 1e-4) == UNCHANGED
    assert verdict_of(1.7, 1e-9, 1e-6, 1e-4) == SILENT
    assert verdict_of(0.01, 0.1, 2.0, 1e-4) == CHANGED


def test_a_line_is_said_with_its_figures() -> None:
    assert sentence(line()) == (
        "right on sums: 0.01 → 0.6 [0.5, 0.7], n = 100; sham 0.02, sibling 0: beyond both"
    )
    assert sentence(line(before=None, sham=None, sibling=None, credible=None, low=None)) == (
        "right on sums: 0.6, n = 100"
    )


def test_a_line_about_latents_is_beyond_matched_latents_and_no_stage_s_control() -> None:
    few = line(sham=None, sibling=None, matched=0.02)
    assert sentence(few).endswith("matched latents 0.02: beyond matched latents")
    assert sentence(few._replace(credible=False)).endswith("matched latents 0.02: not beyond matched latents")
    assert 'class="square"' in picture(few)
    assert 'class="square"' not in picture(line())


def test_every_heading_has_its_rule_and_the_sheet_tells_them() -> None:
    assert set(RULES) == set(SORTS)
    made = Sheet("demo", "a-b", [StageSheet("sft", "base", CHANGED, [], [line(sort=s) for s in SORTS])], [])
    for text in (made.describe(), unescape(document(made).split("<script")[0])):
        assert RULE in text
        assert all(said in text for said in RULES.values())
    assert made.as_json()["rule"] == RULE
    assert made.as_json()["rules"] == RULES


def test_marks_stand_where_their_figures_are() -> None:
    drawn = picture(line())
    places = dict(re.findall(r'class="(\w+)" style="left:([\d.]+)%', drawn))
    assert float(places["zero"]) == 0
    assert float(places["dot"]) == pytest.approx(100 * 0.6 / 0.7, abs=0.1)
    assert float(places["cross"]) == pytest.approx(100 * 0.02 / 0.7, abs=0.1)


def test_html_is_escaped_and_self_contained() -> None:
    wild = line(said="<script>alert(1)</script>", page='drift?a="b"&c=<d>')
    made = Sheet("demo", "a-b", [StageSheet("sft", "base", CHANGED, ["after <b>: x"], [wild])], ["</script>"])
    text = document(made)
    body, data = text.split('<script type="application/json" id="sheet">')
    assert "<script" not in body
    assert "after &lt;b&gt;: x" in body
    assert json.loads(data.split("</script>")[0])["stages"][0]["lines"][0]["said"] == wild.said
    assert "http" not in body.replace("http://127.0.0.1:8501/", "")


def test_the_sheet_of_a_lab_has_every_stage_and_evidence(lab: Lab) -> None:
    found = sheet(lab, NAME)
    assert [(stage.stage, stage.parent) for stage in found.stages] == [("sft", "base"), ("grpo", "sft")]
    for stage in found.stages:
        assert stage.verdict == CHANGED
        assert stage.notes
        for each in stage.lines:
            assert each.sort in SORTS
            assert each.n > 0
            assert each.page.split("?")[0] in ("compare", "drift")
            assert each.low is None or each.low <= each.value + 1e-9
    losses = [each for stage in found.stages for each in stage.lines if each.said.startswith("loss on")]
    assert losses
    for each in losses:
        assert each.low is not None
        assert (each.sort == FORGOT) == (each.low > 0)
        assert each.sort != SILENCED
    assert any("without controls" in said for said in found.missing)
    json.dumps(found.as_json(), allow_nan=False)
    assert "sft, from base: changed" in found.describe()


def test_every_line_leads_to_a_view_that_is_there(lab: Lab) -> None:
    for address in {each.page for stage in sheet(lab, NAME).stages for each in stage.lines}:
        page, _, query = address.partition("?")
        asked = dict(parse_qsl(query))
        app = opened(page, **asked)
        assert not app.exception
        assert errors(app) == []
        assert app.get("button_group")[0].value == asked["view"]
        assert app.selectbox(key="comparison").value == asked["comparison"]


def test_a_sheet_is_written_whole(lab: Lab, tmp_path) -> None:
    paths = write_sheet(sheet(lab, NAME), tmp_path / "new")
    assert [p.name for p in paths] == [f"{NAME}.html", f"{NAME}.json"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [p.name for p in paths]
    assert json.loads(paths[1].read_text())["comparison"] == NAME


def test_the_command_writes_it_and_refuses_what_was_not_compared(lab: Lab, tmp_path) -> None:
    made = CliRunner().invoke(
        commands, ["sheet", lab.path.name, "base,sft,grpo", "--out", str(tmp_path), "--json"]
    )
    assert made.exit_code == 0
    assert [p.rsplit(".", 1)[1] for p in json.loads(made.stdout)["written"]] == ["html", "json"]
    wrong = CliRunner().invoke(commands, ["sheet", lab.path.name, "base", "grpo"])
    assert isinstance(wrong.exception, Misuse)
    assert "have not been compared" in str(wrong.exception)


def test_the_page_shows_the_sheet(lab: Lab) -> None:
    app = opened("verdict")
    assert not app.exception
    assert errors(app) == []
    assert any("grpo, from sft: changed" in text for text in sentences(app))


@pytest.mark.parametrize(
    ("view", "said"),
    [("Changes", "Directions of the difference"), ("Gains", "There is no gain to explain here")],
)
def test_views_of_changes_and_gains(lab: Lab, view: str, said: str) -> None:
    app = opened("compare", view=view)
    assert not app.exception
    assert errors(app) == []
    assert any(said in text for text in sentences(app))


def test_block_follows_the_theme(lab: Lab) -> None:
    found = sheet(lab, NAME)
    assert 'class="verdict dark"' in block(found, dark=True)
    assert 'class="verdict"' in block(found)
