"""The answer by layer: through the logit lens, a tuned lens and the root's; and the Lens view."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pages.components import circuit_lens, circuit_store, theme, words
from tests.test_circuit_lenses import shaken, some_pairs
from tests.test_circuit_pages import DONE, NAMES, circuit_lab
from tests.test_pages import errors, opened, sentences
from tests.tiny_lab import build, on_pages
from workbench.circuits.found_lenses import FoundLens
from workbench.circuits.lens_answers import CLEAN, MOVED, LensAnswers, lens_answers
from workbench.circuits.lens_kl import LOGIT_LENS
from workbench.circuits.lens_requests import request_lenses
from workbench.circuits.pairs import logit_difference
from workbench.circuits.tuned_lens import TunedLens
from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.plan import lens_name

pytestmark = pytest.mark.usefixtures("one_thread")

TOLD = "the target is told from the foil "


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_m_by_layer_is_what_the_head_reads_of_hidden_states(family: str) -> None:
    """Hugging Face's own hidden states of each prompt by itself; the last row is the model's own m."""
    model, pairs = shaken(family), some_pairs()
    found = lens_answers(model, pairs, {})
    norm = model.base_model.norm if family == "llama" else model.base_model.final_layer_norm
    for row, last in enumerate(pairs.last.tolist()):
        for clean, ids in ((True, pairs.clean), (False, pairs.corrupt)):
            with torch.no_grad():
                out = model(ids[row : row + 1, : last + 1], output_hidden_states=True)
                layers = [norm(hidden[0, -1]) for hidden in out.hidden_states[:-1]]
                logits = [*(model.get_output_embeddings()(x) for x in layers), out.logits[0, -1]]
            by_hand = [float(each[pairs.target[row]] - each[pairs.foil[row]]) for each in logits]
            m = (found.clean if clean else found.corrupt)[LOGIT_LENS]
            np.testing.assert_allclose(m[row], by_hand, atol=1e-4)
    np.testing.assert_allclose(found.m(LOGIT_LENS, MOVED), found.clean[LOGIT_LENS] - found.corrupt[LOGIT_LENS])


def test_a_lens_moves_every_row_but_the_last() -> None:
    """The map x → x + b is worked by hand in row 0; a lens that changes nothing is the logit lens."""
    model, pairs = shaken("llama"), some_pairs()
    bias = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    lenses = {"none": TunedLens.logit_lens(3, 32), "shift": TunedLens(torch.zeros(3, 32, 32), bias)}
    found = lens_answers(model, pairs, lenses)
    np.testing.assert_array_equal(found.clean["none"], found.clean[LOGIT_LENS])
    np.testing.assert_array_equal(found.clean["shift"][:, -1], found.clean[LOGIT_LENS][:, -1])
    x = model.model.embed_tokens.weight[pairs.clean[torch.arange(5), pairs.last]].detach() + bias[0]
    by_hand = logit_difference(model.lm_head(model.model.norm(x)), pairs.target, pairs.foil)
    np.testing.assert_allclose(found.clean["shift"][:, 0], by_hand.detach(), atol=1e-4)
    with pytest.raises(Misuse, match="fitted on 2 layers"):
        lens_answers(model, pairs, {"short": TunedLens.logit_lens(2, 32)})


def told(*columns: tuple[float, float]) -> LensAnswers:
    """Two pairs, a row for each column."""
    m = np.array(columns, dtype=float).T
    rows = ("embedding", *(f"block {layer}" for layer in range(len(columns) - 1)))
    return LensAnswers(rows, {LOGIT_LENS: m}, {LOGIT_LENS: np.zeros_like(m)})


def test_from_where_the_answer_is_told_by_hand() -> None:
    """Above 0 for good: a row that rises and falls again does not count, nor one whose interval holds 0."""
    assert told((-1, -1), (2, 2), (-1, -1), (1, 3), (4, 4)).stands(LOGIT_LENS) == "block 2"
    assert told((1, 1), (2, 2)).stands(LOGIT_LENS) == "embedding"
    assert told((1, 1), (-1, 4)).stands(LOGIT_LENS) is None
    said = told((-1, -1), (3, 3)).sentence({LOGIT_LENS: "none"})
    assert said == f"{TOLD}through none from block 0 on, m 3.00 [3.00, 3.00] there"
    undone = told((1, 1), (-1, 1)).sentence({LOGIT_LENS: "none"})
    assert undone.startswith("the target is not told from the foil, in the model's own answer either: m 0.00")
    table = told((0, 0), (1, 3)).table(CLEAN)
    assert table.select("layer", "m", "low", "high", "n").row(1) == (1, 2.0, 1.0, 3.0, 2)
    with pytest.raises(Misuse, match="set of prompts"):
        told((0, 0)).m(LOGIT_LENS, "clen")


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return on_pages(circuit_lab(), monkeypatch)


def test_without_a_lens_the_command_is_told_and_with_one_both_pictures_are_drawn(lab: Lab) -> None:
    asked = {"circuit": DONE, "view": "Lens"}
    if lab.path.joinpath("evaluation").is_dir():
        assert not list(lab.path.glob("evaluation/lens-*"))
    app = opened("circuits", **asked)
    assert not app.exception
    assert errors(app) == []
    assert any(f"python -m workbench lens {lab.name} {','.join(NAMES)}" in text for text in sentences(app))
    drawn = " ".join(chart.proto.id for chart in app.get("plotly_chart"))
    assert "lens-answers" in drawn
    assert "lens-kl" not in drawn
    request_lenses(lab, NAMES)
    build(lab, *(f"evaluation/{lens_name(name)}" for name in NAMES))
    app = opened("circuits", **asked, prompts=MOVED)
    assert not app.exception
    assert errors(app) == []
    drawn = " ".join(chart.proto.id for chart in app.get("plotly_chart"))
    assert "lens-answers" in drawn
    assert "lens-kl" in drawn
    of = circuit_store.of(lab, DONE)
    made = {name: circuit_store.lens_answers(of, name, circuit_store.lens(of, name)) for name in NAMES}
    assert set(made["base"].clean) == {LOGIT_LENS, "own"}
    assert set(made["sft"].clean) == {LOGIT_LENS, "own", "root"}
    base = FoundLens.of(lab, "base").lens()
    again = lens_answers(lab.checkpoint("sft").model(), circuit_store.pairs(of, "judge"), {"root": base})
    np.testing.assert_allclose(made["sft"].clean["root"], again.clean["root"], atol=1e-4)
    said = " ".join(sentences(app))
    told_by_root = made["sft"].sentence({"root": "base's tuned lens"}, MOVED).removeprefix(TOLD)
    assert words.minus(told_by_root) in said
    rows = FoundLens.of(lab, "sft").table("kl").rename({"kl": "value", "documents": "n"})
    figure = circuit_lens.by_layer(circuit_lens._named(rows, "sft", "base"), "KL")
    called = {"logit lens", "own tuned lens", "base's tuned lens"}
    assert {trace.name for trace in figure.data} == called
    for name in called:
        key, drawn = (trace for trace in figure.data if trace.name == name)
        assert (key.line.dash, key.marker.symbol) == (drawn.line.dash, drawn.marker.symbol)
        assert drawn.line.color == theme.colours(["sft"])["sft"] != key.line.color
    grey = circuit_lens.by_layer(circuit_lens._named(rows, "sft", "base"), "KL", undone=["sft"])
    assert "does not do the task" in [note.text for note in grey.layout.annotations]
    assert {trace.line.color for trace in grey.data} == {theme.palette().muted}
