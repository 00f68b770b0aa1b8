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
    kl_carriers,
    own_samples,
    parted_token,
    read_beside,
    specific,
    store,
    words,
)
from pages.components.read_beside import Ask
from tests.test_pages import errors, opened, sentences
from workbench.comparison import Comparison
from workbench.differences import Differences
from workbench.drift import Drift
from workbench.lab import Lab
from workbench.samples import Samples
from workbench.specificity import Specificity

NAME = "base-sft-grpo"
PAIRS = [("base", "sft"), ("base", "grpo"), ("sft", "grpo")]


DRIFT = {
    "Weights": ("Weights", "‖ΔW‖ / ‖W‖ over all weights together", ["weights-map"]),
    "Activations": ("Activations", "with 95 % intervals over documents", ["layers", "cka"]),
    "Probes": ("Probe transfer", "A linear probe", ["probe-matrix", "probe-factors", "probe-selectivity"]),
    "Forgetting": ("What was forgotten", "above zero is forgotten", ["forgetting"]),
    "Samples": ("On their own samples", "all of them score what it said", ["own-kl", "said"]),
    "Text": ("KL in the text itself", "Choose a document", []),
    "Controls": ("Beside sham and sibling", "base sft grpo --controls", []),
}


@pytest.mark.parametrize("view", list(DRIFT))
def test_every_view_of_drift_draws_itself_alone(lab: Lab, view: str) -> None:
    app = opened("drift", view=view)
    assert not app.exception
    assert errors(app) == []
    title, told, charts = DRIFT[view]
    assert [header.value for header in app.header] == [title]
    assert any(told in text for text in sentences(app))
    drawn = [chart.proto.id for chart in app.get("plotly_chart")]
    for _, _, others in DRIFT.values():
        for chart in others:
            assert any(chart in id_ for id_ in drawn) == (chart in charts)


def test_drift_has_the_views_that_are_tried(lab: Lab) -> None:
    app = opened("drift")
    assert [header.value for header in app.header] == ["Weights"]
    assert app.get("button_group")[0].options == list(DRIFT)


@pytest.mark.parametrize("page", ["compare", "drift"])
def test_an_address_of_no_view_says_so(lab: Lab, page: str) -> None:
    app = opened(page, view="Wights")
    assert not app.exception
    assert "no view 'Wights'" in errors(app)[0].replace("&#x27;", "'")


@pytest.mark.parametrize("title", list(drift_weights.READINGS))
def test_every_figure_of_the_weights_can_be_drawn(lab: Lab, title: str) -> None:
    app = opened("drift", view="Weights", weights=title)
    assert not app.exception
    assert errors(app) == []
    assert any(drift_weights.READINGS[title].says in text for text in sentences(app))


def test_drift_shows_what_they_say_by_themselves(lab: Lab) -> None:
    """The pair and the reading that the address asks for; links to the latents of that pair."""
    app = opened("drift", view="Samples", carried="KL(grpo‖sft)", by=kl_carriers.READINGS["context"])
    assert not app.exception
    assert errors(app) == []
    subheaders = [each.value for each in app.subheader]
    assert "How they speak" in subheaders
    assert "What carries the KL" in subheaders
    assert any("the last token read before it" in text for text in sentences(app))
    first = Samples.of(lab, NAME).latents.filter(before="sft", after="grpo")["latent"][0]
    links = next(text for text in sentences(app) if "Open:" in text and "latent=" in text)
    assert f"features?lab={lab.name}&amp;dictionary=crosscoder&amp;latent={first}" in links


def test_samples_that_were_not_drawn_say_how(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    there = compared.taken_apart
    monkeypatch.setattr(compared, "taken_apart", lambda lab, *p: [] if "samples" in p else there(lab, *p))
    app = opened("drift", view="Samples")
    assert not app.exception
    assert errors(app) == []
    told = "python -m workbench compare tiny base sft grpo</code> takes it"
    assert any(told in text for text in sentences(app))


def test_dots_and_bars_hold_the_table(lab: Lab) -> None:
    samples = Samples.of(lab, NAME)
    said = samples.said.filter(pl.col("kind").is_in(["questions", "prose"]), pl.col("figure") != "accuracy")
    made = own_samples.panels(said)
    assert sum(len(trace.x) for trace in made.data) == said.height
    table = samples.beside_shared(Comparison.of(lab, NAME))
    dots = own_samples.kl_dots(table)
    assert sum(len(trace.x) for trace in dots.data) == table.height
    assert dots.layout.xaxis.type == "log"
    zero = own_samples.kl_dots(table.with_columns(pl.lit(0.0).alias("kl")))
    assert zero.layout.xaxis.type != "log"
    rows = samples.tokens.filter(before="base", after="sft", by="context").head(3)
    bars = kl_carriers.bars(rows, ["<b>", "a" * 60, "c"], ["red"] * 3)
    assert list(bars.data[0].x) == rows["share"].to_list()
    assert list(bars.data[1].x) == rows["density"].to_list()
    assert bars.layout.yaxis.ticktext[0] == "&lt;b&gt;"
    assert len(bars.layout.yaxis.ticktext[1]) == kl_carriers.LONGEST


def test_two_that_predict_the_same_have_nothing_to_carry(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Samples.of(lab, NAME)
    for name in ("tokens", "latents"):
        none = getattr(samples, name).clear()
        monkeypatch.setattr(Samples, name, property(lambda self, none=none: none))
    app = opened("drift", view="Samples")
    assert not app.exception
    assert any("there is no KL to carry" in text for text in sentences(app))
    assert any("No latent fires where there is any KL" in text for text in sentences(app))
    assert not any("gained most;" in sentence for sentence in samples.sentences("base", "sft"))


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


QUESTION = "What is the capital of the land between the rivers?"


def test_no_model_is_opened_before_there_is_a_prompt_or_a_document(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(store, "loaded", refuse)
    app = opened("compare", view="Answers")
    assert not app.exception
    assert any("sft and grpo go on from it" in text for text in sentences(app))
    app = opened("drift", view="Text")
    assert not app.exception
    assert any("Choose a document" in text for text in sentences(app))


def test_two_answers_and_what_lies_behind_a_token(lab: Lab) -> None:
    app = opened("compare", view="Answers", ask=QUESTION, ask_a="base", ask_b="grpo")
    assert not app.exception
    assert errors(app) == []
    asked = Ask("base", "grpo", QUESTION, True, 0.0, 0)
    found = read_beside.answers(lab, asked)
    assert found.differ_at is not None
    assert app.number_input(key="ask_token").value == found.differ_at
    assert any("goes on with" in text for text in sentences(app))
    assert any("What each expected where" in text for text in sentences(app))
    again = opened(
        "compare", view="Answers", ask=QUESTION, ask_a="base", ask_b="grpo", ask_of="grpo", ask_token="3"
    )
    assert again.radio(key="ask_of").value == "grpo"
    assert again.number_input(key="ask_token").value == 3
    assert again.number_input(key="ask_token").set_value(1).run().exception == []
    assert any("which no dictionary was trained on" in text for text in sentences(again))


def test_shares_behind_a_token_lead_to_their_latents_and_add_up(lab: Lab) -> None:
    comparison = Comparison.of(lab, NAME)
    found = read_beside.answers(lab, Ask("base", "grpo", QUESTION, True, 0.0, 0)).first
    shares = read_beside.behind(lab, comparison, ("base", "grpo"), tuple(found.ids[:6]))
    assert shares is not None
    panel = parted_token._shares(lab, comparison, ("base", "grpo"), shares, "here")
    rows = panel.drawn["rows"]
    assert sum(row["value"] for row in rows) == pytest.approx(1)
    assert rows[0]["link"] == f"features?lab=tiny&dictionary=crosscoder&latent={shares.latents[0]}"
    assert [row["label"] for row in rows][-1] == "left unexplained"
    assert "link" not in rows[-1]


def test_answers_that_agree_say_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the stage stands in for the other checkpoint."""
    own = store.loaded
    monkeypatch.setattr(store, "loaded", lambda lab, address: own(lab, "sft"))
    app = opened("compare", view="Answers", ask="The river was green and", ask_a="sft", ask_b="grpo")
    assert not app.exception
    assert any("sft and grpo give the same answer, token for token" in text for text in sentences(app))
    with pytest.raises(KeyError):
        app.radio(key="ask_of")
    read_beside._answers.clear()  # what was read with the copy is not grpo's


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"ask_a": "sfd"}, "did you mean 'sft'"),
        ({"ask_a": "base", "ask_b": "grqo"}, "did you mean 'grpo'"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_said(lab: Lab, asked: dict[str, str], said: str) -> None:
    assert said in errors(opened("compare", view="Answers", **asked))[0]


def test_a_prompt_that_is_too_long_says_what_is_left_out(lab: Lab) -> None:
    app = opened("compare", view="Answers", ask="river " * 300)
    assert not app.exception
    assert any("are left out" in text for text in sentences(app))


def test_a_document_is_tinted_and_its_largest_tokens_named(lab: Lab) -> None:
    comparison = Comparison.of(lab, NAME)
    [(number, text), *_] = read_beside.beginnings(lab, comparison, "prose").items()
    asked = {"text_domain": "prose", "text_pair": "base → grpo", "text_document": f"{number}: {text}"}
    app = opened("drift", view="Text", **asked)
    assert not app.exception
    assert errors(app) == []
    found = read_beside.document(lab, comparison, ("base", "grpo"), number)
    first = found.carriers(1)[0]
    assert any(f"(token {first.row + 1}: {words.number(first.kl)} nats" in said for said in sentences(app))
    assert any("KL(grpo ‖ base) of this document" in said for said in sentences(app))
    app.selectbox(key="text_domain").select("chat").run()
    assert not app.exception
    assert errors(app) == []
    assert any("Choose a document" in said for said in sentences(app))


def test_a_document_that_is_not_there_is_said(lab: Lab) -> None:
    app = opened("drift", view="Text", text_domain="chat", text_document="9: nothing")
    assert "there is no document '9: nothing' in chat" in errors(app)[0].replace("&#x27;", "'")


def test_compare_says_what_the_difference_is(lab: Lab) -> None:
    app = opened("compare", view="Differences")
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
    app = opened("compare", view="Differences", **wanted, steered_on="prose", difference_component="2")
    assert not app.exception
    assert errors(app) == []
    assert any("sft → grpo: mean difference" in text for text in sentences(app))
    assert any("the model's own head reads it" in text for text in sentences(app))
    wrong = opened("compare", view="Differences", difference="grpo → sft")
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
    app = opened("compare", view="Differences")
    assert errors(app) == []
    assert any("base → sft: no difference at" in text for text in sentences(app))
    assert "Mean over" not in {box.label for box in app.selectbox}


def test_a_comparison_without_differences_says_how_to_take_them(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compared, "taken_apart", lambda lab, *parts: [])
    app = opened("compare", view="Differences")
    assert any("base sft grpo</code> takes it" in text for text in sentences(app))
