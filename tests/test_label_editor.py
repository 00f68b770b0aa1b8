"""The dashboard on a page: every picture is drawn, a person's label and star are kept, markup is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pages.components import latent_table
from tests.test_pages import errors, opened, sentences
from workbench.disk import write_json
from workbench.features import FeatureTable
from workbench.lab import Lab


@pytest.fixture
def lab(tiny_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A copy of the tiny lab that may be written to."""
    shutil.copytree(tiny_lab.path, tmp_path / "own")
    monkeypatch.setenv("MARBLE_HOME", str(tmp_path))
    monkeypatch.setenv("MARBLE_LAB", "own")
    return Lab(tmp_path / "own")


def dense_latent(lab: Lab) -> int:
    return int(FeatureTable.of(lab, "sae-sft").table.sort("density", descending=True)["latent"][2])


def test_a_label_and_a_star_are_kept(lab: Lab) -> None:
    latent = dense_latent(lab)
    app = opened("features", dictionary="sae-sft", latent=str(latent))
    assert not app.exception
    assert errors(app) == []
    [label] = [w for w in app.text_input if w.label == "Your label"]
    app = label.set_value("sums, after a plus").run()
    [star] = [w for w in app.toggle if w.label == "Star"]
    app = star.set_value(True).run()
    kept = FeatureTable.of(lab, "sae-sft").annotations[latent]
    assert (kept.label, kept.star) == ("sums, after a plus", True)
    assert app.subheader[0].value == f"★ Latent {latent}: sums, after a plus"
    again = opened("features", dictionary="sae-sft", latent=str(latent))
    assert again.subheader[0].value == app.subheader[0].value


def test_what_was_said_is_in_the_table_and_found(lab: Lab) -> None:
    latent = dense_latent(lab)
    annotations = FeatureTable.of(lab, "sae-sft").annotations
    annotations.set_label(latent, "after <|user|> & 1 < 2")
    annotations.set_star(latent, True)
    told = {"text": "sums <script>", "model": "some-model", "balanced": 0.8, "f1": 0.8, "n": 20}
    write_json(annotations.explanations_path, {"latents": {str(latent): told}})
    app = opened("features", dictionary="sae-sft", find="1 < 2", latent=str(latent))
    assert errors(app) == []
    shown = app.dataframe[0].value
    assert shown[["latent", "star", "own_label"]].to_numpy().tolist() == [
        [latent, "★", "after <|user|> & 1 < 2"]
    ]
    said = " ".join(sentences(app))
    assert "sums &lt;script&gt;" in said
    assert "explained by some-model" in said
    assert "0.80 on 20 texts" in said
    app = opened("features", dictionary="sae-sft", filters="true", told="starred", latent=str(latent))
    assert app.dataframe[0].value["latent"].to_list() == [latent]


def test_pages_and_order_reach_every_latent(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pages together are all latents, in the order asked for; a page past the last is the last."""
    monkeypatch.setattr(latent_table, "PAGE", 50)
    app = opened("features", dictionary="sae-sft", order="rarest")
    assert [w.key for w in app.number_input if w.label.startswith("Page of 3")] == ["table_page"]
    seen = app.dataframe[0].value["latent"].to_list()
    for number in (2, 3):
        app = next(w for w in app.number_input if w.key == "table_page").set_value(number).run()
        seen += app.dataframe[0].value["latent"].to_list()
    table = FeatureTable.of(lab, "sae-sft").table.sort("density", "latent")
    assert seen == table["latent"].to_list()
    app = next(w for w in app.toggle if w.key == "filters").set_value(True).run()
    app = app.slider(key="auroc").set_value(0.6).run()
    assert not app.exception
    assert errors(app) == []
    far = opened("features", dictionary="sae-sft", table_page="99")
    assert not far.exception
    assert errors(far) == []


def test_a_click_on_a_heading_orders_all_by_it_and_a_second_one_turns_it_round() -> None:
    assert latent_table.next_order("density", "number") == "most frequent"
    assert latent_table.next_order("density", "most frequent") == "rarest"
    assert latent_table.next_order("density", "rarest") == "most frequent"
    assert latent_table.next_order("promoted", "rarest") == "rarest"


def test_markup_in_a_label_is_refused_in_a_sentence(lab: Lab) -> None:
    latent = dense_latent(lab)
    app = opened("features", dictionary="sae-sft", latent=str(latent))
    [label] = [w for w in app.text_input if w.label == "Your label"]
    app = label.set_value("<img src=x onerror=alert(1)>").run()
    assert not app.exception
    [sentence] = errors(app)
    assert "plain text" in sentence
    assert "<img" not in sentence
    assert FeatureTable.of(lab, "sae-sft").annotations[latent].label is None


def test_every_part_is_drawn_and_all_strengths_show(lab: Lab) -> None:
    latent = dense_latent(lab)
    app = opened("features", dictionary="sae-sft", latent=str(latent))
    drawn = [json.loads(part.proto.json).get("panels", []) for part in app.get("bidi_component")]
    headings = {panel["title"] for panels in drawn for panel in panels}
    assert {"What writes it", "Fires together with", "Points the same way", "Neurons along it"} <= headings
    app = opened("features", dictionary="sae-sft", latent=str(latent), latent_texts="all strengths")
    assert not app.exception
    assert any("each fifth of its range" in text for text in sentences(app))


def test_a_crosscoder_and_a_silent_latent_draw(lab: Lab) -> None:
    table = FeatureTable.of(lab, "crosscoder").table.sort("density")
    for latent in (table["latent"][0], table["latent"][-1]):
        app = opened("features", dictionary="crosscoder", latent=str(latent))
        assert not app.exception
        assert errors(app) == []
