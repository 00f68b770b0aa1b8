"""Every page, run without a browser: it draws, refuses in one sentence, and its geometry keeps its laws."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from pages.components import charts, latent_parts, panels, show, stages, store, ternary, words
from workbench.comparison import BOUNDS, kinds
from workbench.feature_match import matches
from workbench.features import FeatureTable
from workbench.lab import Lab
from workbench.recipe import load_preset, write_recipe

APP = str(Path(__file__).parents[1] / "pages" / "app.py")
SMALL = {"superposition": {"n": "2", "m": "1", "seeds": "2"}}  # a toy model that is trained in a second
TIMEOUT = 600  # seconds; the first page of a session imports torch, perhaps beside much other work


@pytest.fixture(autouse=True)
def _default_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab is named as `up` names it: `AppTest` drops an address's `lab` when it switches pages."""
    monkeypatch.setenv("MARBLE_LAB", "tiny")


def opened(page: str, **query: str) -> AppTest:
    """The app at a page, with query parameters."""
    app = AppTest.from_file(APP, default_timeout=TIMEOUT)
    if page != "lab":
        with pytest.MonkeyPatch.context() as patch:  # a run tells the app's pages; a lab would be drawn in vain
            patch.setenv("MARBLE_HOME", os.devnull)
            app.run()
        app.switch_page(f"{page}_page.py")
    for name, value in query.items():
        app.query_params[name] = value
    return app.run()


def sentences(app: AppTest) -> list[str]:
    """What the page says in `st.html` blocks."""
    return [block.proto.body for block in app.get("html")]


def errors(app: AppTest) -> list[str]:
    """Sentences about something that went wrong."""
    return [text for text in sentences(app) if 'role="alert"' in text]


@pytest.mark.parametrize(
    ("page", "headers"),
    [
        ("lab", ["Lineage", "Training", "Dictionaries", "Comparisons", "On disk"]),
        ("trace", ["Tokens", "How many r in strawberry?", "The same sentence in other languages"]),
        ("features", []),
        (
            "dictionaries",
            [
                "Beside their controls",
                "Against the world's factors",
                "Crowding",
                "Stability between seeds",
                "Sweeps",
            ],
        ),
        (
            "compare",
            ["Shared and exclusive latents", "Exclusive, or only shrunk away?"],
        ),
        ("drift", ["Weights"]),
        ("verdict", []),
    ],
)
def test_page_draws_a_grown_lab(tiny_lab: Lab, page: str, headers: list[str]) -> None:
    app = opened(page)
    assert not app.exception
    assert errors(app) == []
    assert app.title[0].value.lower() == page
    assert [header.value for header in app.header] == headers


@pytest.mark.parametrize(
    ("stage", "header"),
    [
        ("Tokenize", "Tokens"),
        ("Embed", "Nearest tokens"),
        ("Attend", "What attention looks back at"),
        ("Predict", "What each layer would say next"),
        ("Sample", "The next token"),
        ("Loop", "One token after another"),
    ],
)
def test_every_stage_of_a_trace_has_an_address(tiny_lab: Lab, stage: str, header: str) -> None:
    app = opened("trace", stage=stage)
    assert not app.exception
    assert errors(app) == []
    assert app.header[0].value == header


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (" ", ""),
        ("one " * 200, "tokens longer than the 64 that are read at once"),
        ("bell \x07 and escape \x1b[0m", "control characters in the text"),
        ("🙂🙃", "hold only part of a character"),
        ("שלום עולם", "right-to-left script"),
        ("<|end|> of it", "read letter by letter"),
        ("<script>alert(1)</script>", ""),
    ],
)
@pytest.mark.parametrize("stage", ["Attend", "Predict", "Sample"])
def test_odd_texts_are_read_and_said_in_a_sentence(tiny_lab: Lab, stage: str, prompt: str, said: str) -> None:
    app = opened("trace", stage=stage, prompt=prompt, b="none")
    assert not app.exception
    assert errors(app) == []
    notes = [text for text in sentences(app) if 'role="note"' in text]
    assert any(said in note for note in notes) if said else notes == []


def test_a_full_context_leaves_a_loop_no_room_and_says_so(tiny_lab: Lab) -> None:
    app = opened("trace", stage="Loop", prompt="one " * 200, b="none")
    assert not app.exception
    [sentence] = errors(app)
    assert "the prompt fills the context of 64 tokens" in sentence


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"stage": "Atend"}, "did you mean 'Attend'"),
        ({"stage": "Attend", "head": "9.1"}, "no head"),
        ({"stage": "Predict", "at": "5000"}, "so there is none at 5000: the last is shown"),
        ({"stage": "Predict", "tuned": "true"}, "python -m workbench lens tiny base"),
        ({"stage": "Loop", "step": "999"}, "so there is no step 999"),
        ({"a": "base@7"}, "no checkpoint 'base@7'"),
        ({"b": "zzz"}, "no checkpoint 'zzz'"),
    ],
)
def test_an_address_that_asks_for_what_is_not_there_is_told(tiny_lab: Lab, asked: dict, said: str) -> None:
    app = opened("trace", **{"b": "none"} | asked)
    assert not app.exception
    assert any(said in text for text in sentences(app))


@pytest.mark.parametrize(
    ("stage", "button", "said"),
    [
        ("Attend", "measure_attention", "The logits of both ways in base are equal"),
        ("Loop", "measure_cache", "base wrote the same tokens both ways"),
    ],
)
def test_what_a_stage_costs_is_measured_when_asked_for(
    tiny_lab: Lab, stage: str, button: str, said: str
) -> None:
    app = opened("trace", stage=stage, b="none")
    assert not any(said in text for text in sentences(app))
    app.button(key=button).click().run()
    assert not app.exception
    assert any(said in text for text in sentences(app))


def test_a_prompt_through_training_ends_with_the_checkpoint(tiny_lab: Lab) -> None:
    app = opened("trace", stage="Sample", say="true", through="true", a="base", b="sft")
    assert not app.exception
    assert errors(app) == []
    assert any("to sft. Hover a token" in text for text in sentences(app))


@pytest.mark.parametrize(
    "page", ["lab", "trace", "superposition", "features", "dictionaries", "compare", "drift"]
)
def test_page_of_a_lab_with_nothing_in_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.setenv("MARBLE_HOME", str(tmp_path))
    write_recipe(tmp_path / "new" / "recipe.toml", load_preset("quick"))
    app = opened(page, **SMALL.get(page, {}))
    assert not app.exception
    assert errors(app) == []
    assert any("yet" in text for text in sentences(app))


def test_home_without_a_lab_says_how_to_grow_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARBLE_HOME", str(tmp_path))
    app = opened("lab")
    assert not app.exception
    assert any("python -m workbench up" in text for text in sentences(app))


def test_unknown_lab_in_the_address_names_the_near_ones(tiny_lab: Lab) -> None:
    app = opened("lab", lab="tinny")
    assert not app.exception
    [sentence] = errors(app)
    assert "did you mean 'tiny'" in sentence


def test_damaged_weights_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_lab: Lab
) -> None:
    import shutil

    monkeypatch.setenv("MARBLE_HOME", str(tmp_path))
    monkeypatch.setenv("MARBLE_LAB", "hurt")
    shutil.copytree(tiny_lab.path, tmp_path / "hurt")
    [weights] = (tmp_path / "hurt" / "checkpoint").glob("base-*/model.safetensors")
    hurt = bytearray(weights.read_bytes())
    hurt[-1] ^= 255
    weights.write_bytes(hurt)
    app = opened("trace", a="base")
    assert not app.exception
    [sentence] = errors(app)
    assert "model.safetensors" in sentence


def test_latent_of_the_address_is_the_one_shown(tiny_lab: Lab) -> None:
    app = opened("features", dictionary="sae-sft", latent="5")
    assert app.subheader[0].value.startswith("Latent 5:")


def test_search_that_finds_nothing_says_so(tiny_lab: Lab) -> None:
    app = opened("features", find="no such word anywhere")
    assert not app.exception
    assert any("No latent matches" in text for text in sentences(app))


def test_search_and_filters_say_how_many_are_left(tiny_lab: Lab) -> None:
    app = opened("features", dictionary="sae-sft", filters="true", alive="alive", order="most frequent")
    assert not app.exception
    assert any("of 128 latents" in text for text in sentences(app))
    densities = app.dataframe[0].value["density"].to_list()
    assert densities == sorted(densities, reverse=True)
    assert min(densities) > 0


def test_ordering_by_a_change_that_is_not_chosen_is_a_sentence(tiny_lab: Lab) -> None:
    app = opened("features", dictionary="sae-sft", filters="true", order="largest change")
    assert not app.exception
    assert any("choose a change of density" in text for text in sentences(app))


@pytest.mark.parametrize("dictionary", ["sae-sft", "crosscoder"])
@pytest.mark.parametrize("view", ["Side by side", "Map", "Steer"])
def test_every_view_of_a_latent_draws(tiny_lab: Lab, dictionary: str, view: str) -> None:
    app = opened("features", dictionary=dictionary, view=view, latent="5")
    assert not app.exception
    assert errors(app) == []
    headings = [block.value for block in app.subheader]
    assert headings[0].startswith("Latent 5:")
    beside = (
        3 if dictionary == "sae-sft" else 2
    )  # the twins of the other two checkpoints; a crosscoder has none
    assert len(headings) == (beside if view == "Side by side" else 1)
    if view == "Side by side":
        assert any("cosine of the two decoders" in text for text in sentences(app))


def test_three_latents_stand_beside_each_other_with_their_match_in_the_address(tiny_lab: Lab) -> None:
    """Left empty the best match; a number in the address is that latent, and the best one is still named."""
    first, second = (FeatureTable.of(tiny_lab, name) for name in ("sae-sft", "sae-grpo"))
    latent = int(first.table.sort("density", descending=True)["latent"][0])
    best = matches(first, latent, second).best()
    asked = {"dictionary": "sae-sft", "view": "Side by side", "latent": str(latent), "third": "sae-grpo"}
    app = opened("features", **asked, beside="crosscoder", beside_latent="3")
    headings = [block.value for block in app.subheader]
    assert [h.split(":")[0] for h in headings] == [f"Latent {latent}", "Latent 3", f"Latent {best.latent}"]
    said = " ".join(sentences(app))
    assert f"match {words.number(best.score)}: cosine {words.number(best.cosine)}" in said
    assert "the best match is latent" in said


def test_nothing_to_steer_is_one_sentence(tiny_lab: Lab) -> None:
    app = opened("features", dictionary="sae-sft", view="Steer", steer_prompt=" ")
    assert not app.exception
    [sentence] = errors(app)
    assert "the prompt is empty" in sentence


def test_a_crosscoders_latent_cannot_be_taken_out_of_one_checkpoint(tiny_lab: Lab) -> None:
    app = opened("features", dictionary="crosscoder", view="Steer", steer_by="take it away")
    assert not app.exception
    [sentence] = errors(app)
    assert "choose an SAE" in sentence


def test_taking_a_latent_away_shows_its_controls(tiny_lab: Lab) -> None:
    app = opened("features", dictionary="sae-sft", view="Steer", steer_by="take it away")
    assert errors(app) == []
    effects = app.dataframe[-1].value
    assert effects["stream"].to_list()[:2] == ["as it is", "without the latent"]


def test_markup_in_a_sentence_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARBLE_HOME", str(tmp_path))
    write_recipe(tmp_path / "new" / "recipe.toml", load_preset("quick"))
    app = opened("lab", lab="<script>alert(1)</script>")
    [sentence] = errors(app)
    assert "<script" not in sentence
    assert "&lt;script" in sentence


def test_corners_of_the_triangle_are_whole_shares() -> None:
    assert ternary.place((1, 0, 0)) == (0, 0)
    assert ternary.place((0, 1, 0)) == (1, 0)
    assert ternary.place((0, 0, 1)) == pytest.approx((0.5, 3**0.5 / 2))


def test_outlines_hold_latents_of_their_kind_and_their_edges_are_the_bounds() -> None:
    names = ("base", "sft", "grpo")
    for kind, corners in ternary.regions(BOUNDS, names).items():
        outline = np.array(corners)
        assert outline.sum(axis=1) == pytest.approx(1)
        middle = outline.mean(axis=0)
        inside = middle + 0.98 * (outline - middle)
        beyond = middle + 1.05 * (outline - middle)
        beyond = beyond[(beyond >= 0).all(axis=1)]
        assert set(kinds(inside, names)) == {kind}
        assert kind not in kinds(beyond, names)


@pytest.mark.parametrize(
    ("value", "said"),
    [(1_213_568, "1.21 M"), (0.5, "0.5"), (0, "0"), (1200, "1,200"), (3e-5, "3e-05"), (None, "–")],
)
def test_numbers_as_people_read_them(value: float | None, said: str) -> None:
    assert words.number(value) == said


def test_labels_of_charts_show_markup_as_text() -> None:
    made = charts.bars(["<b>bold</b>"], [1.0], "#000000", "", None)
    assert made.layout.yaxis.ticktext == ("&lt;b&gt;bold&lt;/b&gt;",)


@pytest.mark.parametrize(
    ("value", "said"), [(0.0000971, "0.0097%"), (0, "0%"), (0.031, "3.1%"), (0.5, "50%"), (None, "–")]
)
def test_a_rare_share_is_not_nothing(value: float | None, said: str) -> None:
    assert words.share(value) == said


def test_counts_below_ten_stand_on_an_axis_that_can_be_read() -> None:
    """A logarithmic axis from 1 to 8 has one tick."""
    few, many = (panels.histogram([0, 1, 2], [3, top], "#000000", "x") for top in (8, 4000))
    assert [box["height"] for box in few["boxes"]] == [3 / 8, 1]
    assert many["boxes"][0]["height"] > 10 * 3 / 4000
    assert [tick["label"] for tick in many["y_ticks"]] == ["1", "10", "100", "1,000"]
    assert len(few["y_ticks"]) >= 3


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0, 10, [0, 5, 10]), (0.2, 1.1, [0.5, 1.0]), (-3, 3, [-2, 0, 2]), (0, 4, [0, 2, 4]), (7, 7, [7])],
)
def test_ticks_are_round_and_within(low: float, high: float, marks: list[float]) -> None:
    assert panels.ticks(low, high, 3) == pytest.approx(marks)


def test_a_loss_that_rises_with_the_share_of_prose_is_explained() -> None:
    said = stages.changing_diet({"prose_share": 0.44, "prose_first": 0.1})
    assert "10%" in said
    assert "78%" in said
    assert not stages.changing_diet({"prose_share": 0.44, "prose_first": None})
    assert not stages.changing_diet({"lr": 1e-4})


def test_bars_hold_zero_and_every_value() -> None:
    rows = [panels.Row(label="a", value=v, text="", colour="") for v in (-0.5, 2.0)]
    assert (panels.bars(rows, "x")["low"], panels.bars(rows, "x")["high"]) == (-0.5, 2.0)
    assert (panels.bars(rows[1:], "x")["low"], panels.bars(rows, "x", -1, 1)["high"]) == (0.0, 1)
    assert (panels.bars([], "x")["low"], panels.bars([], "x")["high"]) == (0.0, 1.0)
    nothing = panels.bars([panels.Row(label="a", value=0.0, text="", colour="")], "x")
    assert nothing["high"] > nothing["low"]


def test_pictures_of_a_latent_have_their_tables(tiny_lab: Lab) -> None:
    """Every picture of the dashboard is drawn from the rows that its table twin shows."""
    found = FeatureTable.of(tiny_lab, "sae-sft").dashboard(5)
    drawn = latent_parts.pictures(found, "#123456")
    assert {panel.title for panel in drawn} >= {"What writes it", "Points the same way"}
    assert all(len(panel.table) for panel in drawn)
    near = next(panel for panel in drawn if panel.title == "Points the same way")
    assert [row["go"] for row in near.drawn["rows"]] == near.table["other"].to_list()


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"dictionary": "sae-sfd"}, "did you mean 'sae-sft'"), ({"latent": "99999"}, "latents 0 to 127")],
)
def test_an_address_that_names_what_is_not_here_says_so(
    tiny_lab: Lab, asked: dict[str, str], said: str
) -> None:
    """A shared link must not show another latent than it names without a word."""
    app = opened("features", **asked)
    assert not app.exception
    [sentence] = errors(app)
    assert said in sentence
    assert app.subheader[0].value.startswith("Latent ")


def test_a_latent_that_the_next_dictionary_lacks_is_let_go(tiny_lab: Lab) -> None:
    app = opened("features", dictionary="sae-sft")
    app.session_state["latent"] = 5000
    app.run()
    assert not app.exception


def test_the_chosen_latent_is_shown_on_the_text_that_is_asked_about(tiny_lab: Lab) -> None:
    table = FeatureTable.of(tiny_lab, "sae-sft")
    text = "The capital is there."
    latent = int(table.fires_on(text)["latent"][0])
    app = opened(
        "features", dictionary="sae-sft", find=text, where="what fires on this text", latent=str(latent)
    )
    assert not app.exception
    assert any("on your text" in said for said in sentences(app))
    tokens, values = store.on_text(tiny_lab, "sae-sft", latent, text)
    assert len(tokens) == len(values)
    assert max(values) > 0
    silent = next(j for j in range(128) if j not in set(table.fires_on(text)["latent"]))
    assert set(store.on_text(tiny_lab, "sae-sft", silent, text)[1]) == {0.0}


def test_steering_calls_a_latent_as_its_dashboard_does(
    tiny_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person's label, as it was typed: markdown in it is text."""
    import shutil

    from workbench.annotations import Annotations

    shutil.copytree(tiny_lab.path, tmp_path / "tiny")
    monkeypatch.setenv("MARBLE_HOME", str(tmp_path))
    Annotations.of(Lab.open("tiny"), "sae-sft").set_label(5, "my *own* label")
    app = opened("features", dictionary="sae-sft", view="Steer", latent="5")
    assert app.subheader[0].value == r"Latent 5: my \*own\* label"


def test_an_ablation_is_a_picture_too(tiny_lab: Lab) -> None:
    app = opened("features", dictionary="sae-sft", view="Steer", steer_by="take it away")
    drawn = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    titles = [
        axis.get("title", {}).get("text")
        for d in drawn
        for axis in d["layout"].values()
        if isinstance(axis, dict)
    ]
    assert "held-out loss, nats per token" in titles


def test_an_unknown_lab_is_not_a_dead_end(tiny_lab: Lab) -> None:
    app = opened("lab", lab="tinny")
    assert any('href="?lab=tiny"' in text for text in sentences(app))


@pytest.mark.parametrize("page", ["features", "dictionaries"])
def test_the_words_of_the_field_are_explained(tiny_lab: Lab, page: str) -> None:
    assert any("FVU" in text or "AUROC" in text for text in sentences(opened(page)) if "marble-words" in text)


@pytest.mark.parametrize("sent", [[17], {"0": 17}])
def test_a_clicked_points_number_is_read_however_the_browser_sends_it(sent: object) -> None:
    """An array given to a figure comes back as an object."""
    assert show.number_of({"customdata": sent}) == 17


def test_a_latent_that_is_not_there_is_doubted_until_another_is_chosen(tiny_lab: Lab) -> None:
    """The widget drops the number from the address and the page runs again: the sentence has to outlive that."""
    app = opened("features", dictionary="sae-sft", latent="99999")
    assert any("there is no latent '99999'" in text for text in errors(app))
    app.query_params.pop("latent", None)
    assert any("there is no latent '99999'" in text for text in errors(app.run()))
    other = 5 if app.number_input(key="latent").value != 5 else 6
    assert errors(app.number_input(key="latent").set_value(other).run()) == []


def test_the_chosen_latent_is_told_beside_the_table(tiny_lab: Lab) -> None:
    app = opened("features", dictionary="sae-sft", latent="5")
    assert any("Latent 5, " in text and "Its dashboard is below" in text for text in sentences(app))
    app = opened("features", dictionary="sae-sft", latent="5", find="zzzz no such text")
    assert any("it is not among those in the table" in text for text in sentences(app))


def test_taking_a_silent_latent_away_says_that_nothing_changes(tiny_lab: Lab) -> None:
    table = store.features(tiny_lab, "sae-sft")
    text = "Fellow citizens of the Senate"
    fires = set(table.fires_on(text)["latent"].to_list())
    silent = next(latent for latent in range(table.table.height) if latent not in fires)
    shown = {"dictionary": "sae-sft", "view": "Steer", "steer_by": "take it away", "steer_prompt": text}
    app = opened("features", latent=str(silent), **shown)
    assert any("fires on none of the text" in said for said in sentences(app))
    app = opened("features", latent=str(min(fires)), **shown)
    assert any("The latent fires on " in said and "none" not in said for said in sentences(app))


def test_a_snapshot_answers_too_but_has_no_latents(tiny_lab: Lab) -> None:
    """The crosscoder was not trained on it: that is a sentence, and everything else is there."""
    snapshot = tiny_lab.checkpoint("sft").at(tiny_lab.checkpoint("sft").snapshots()[1]).address
    app = opened("compare", view="Answers", ask="What is the capital of Norland?", ask_a=snapshot, ask_b="grpo")
    assert not app.exception
    assert errors(app) == []
    assert any(f"was never trained on {snapshot}" in text for text in sentences(app))
    assert any("What each expected where" in text for text in sentences(app))
