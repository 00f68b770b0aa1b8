"""Probes about directions, elicitation, calibration, attention to BOS, crowding and precision."""

import copy
import importlib
import json

import numpy as np
import pytest
import torch

from probes import (
    already_in_base,
    attention_sinks,
    calibration,
    introspection,
    precision_cut,
    superposition_layers,
    tone_direction,
)
from probes.kit.finding import Finding, beyond
from probes.kit.nulls import GREATER, mean_figure, predicted, shuffled
from probes.kit.pushes import kl, log_p_at, log_p_behind, prompts
from probes.kit.running import LackingError
from saes.factors import FactorTable, halved
from tests.tiny_lab import shared_lab
from tests.tiny_models import tiny_model
from workbench.errors import Misuse
from workbench.linear_probes import auroc
from workbench.site import replaced_resid_post

SMALL = {
    "tone_direction": {"year": 1903, "n_random": 3},
    "introspection": {"n_tokens": 6_000, "least": 3, "n_random": 4},
    "already_in_base": {"n": 3, "n_random": 3},
    "calibration": {"n_tokens": 300, "n_answers": 4},
    "attention_sinks": {"n": 12},
    "superposition_layers": {"n_tokens": 3_000, "n_neurons": 8},
    "precision_cut": {"n": 8},
}


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama").requires_grad_(False)


@pytest.mark.parametrize("name", SMALL)
def test_each_probe_answers_on_a_tiny_lab(name, monkeypatch):
    """A whole finding that can be written down; every figure bracketed by its interval."""
    lab = shared_lab()
    monkeypatch.setattr(tone_direction, "LEAST_DOCUMENTS", 3)  # a tiny lab has six of each register
    checkpoints = lab.checkpoints(*(("sft",) if name == "precision_cut" else ("base", "sft")))
    finding = importlib.import_module(f"probes.{name}").ask(lab, checkpoints, **SMALL[name])
    assert isinstance(finding, Finding)
    json.dumps(finding.told(), allow_nan=False)
    assert all(f.low - 1e-9 <= f.value <= f.high + 1e-9 for f in finding.figures)
    assert any(f.null.p is not None for f in finding.figures)
    assert finding.claim.endswith(".")
    assert all(plot.rows for plot in finding.plots)


def test_what_is_missing_is_said_in_a_sentence():
    lab = shared_lab()
    base, sft = lab.checkpoints("base", "sft")
    with pytest.raises(Misuse, match="name two"):
        already_in_base.ask(lab, [sft])
    with pytest.raises(Misuse, match="choose years or domains"):
        tone_direction.ask(lab, [base], contrast="colours")
    with pytest.raises(LackingError, match="domains"):
        tone_direction.ask(lab, [base], year=1700)
    with pytest.raises(LackingError, match=r"6 and 6 documents .* 10 each are needed"):
        tone_direction.ask(lab, [base], year=1903)  # three of each in a half: 20 ways to deal their names
    with pytest.raises(LackingError, match="0 well-formed"):
        calibration.on_answers(lab, base, 2)


def test_a_direction_is_added_where_it_was_asked_for(model):
    """Nothing added changes nothing; added before the final norm at one place it changes that place alone."""
    asked = prompts([[1, 7, 8, 9], [1, 10, 11]], 0)
    plain = log_p_behind(model, asked)
    assert torch.allclose(log_p_behind(model, asked, 1, torch.zeros(1, 32)), plain, atol=1e-6)
    whole = model(asked.ids).logits.log_softmax(-1)
    assert torch.allclose(plain, whole[torch.arange(2), asked.last], atol=1e-5)
    vector, at = torch.ones(1, 32), torch.ones_like(asked.ids, dtype=torch.bool)
    moved = log_p_at(model, asked.ids, at, 2, vector, asked.at_last).view(2, 4, -1)
    assert torch.allclose(moved[0, :3], whole[0, :3], atol=1e-5)
    assert float((moved[0, 3] - whole[0, 3]).abs().max()) > 1e-3


def test_only_attention_carries_what_was_added_before_the_last_token(model):
    asked = prompts([[1, 7, 8, 9]], 0)
    vector = 5 * torch.ones(1, 32)
    top = log_p_behind(model, asked, 2, vector, asked.before_last)
    below = log_p_behind(model, asked, 0, vector, asked.before_last)
    plain = log_p_behind(model, asked)
    assert torch.allclose(top, plain, atol=1e-6)
    assert float((below - plain).abs().max()) > 1e-3


def test_few_draws_give_a_chance_that_is_uniform_under_the_null():
    """p of one more draw of the same kind is below 0.1 in a tenth of the cases, and a far one is far."""
    rng = np.random.default_rng(0)
    chances = [predicted(rng.standard_normal(), rng.standard_normal(10), "draws").p for _ in range(800)]
    assert 0.07 < np.mean(np.array(chances) < 0.1) < 0.13
    assert predicted(10.0, rng.standard_normal(10), "draws").p < 1e-3
    assert predicted(-10.0, rng.standard_normal(10), "draws", GREATER).p > 0.999
    assert predicted(1.0, [0.0] * 4, "draws", GREATER).p == 1 / 5
    assert predicted(-1.0, [0.0] * 4, "draws", GREATER).p == 1.0


def test_tone_of_two_registers_changed_over_is_the_opposite():
    rng = np.random.default_rng(0)
    first, second = rng.poisson(30, 50), rng.poisson(20, 50)
    there, back = tone_direction.tone(first, second), tone_direction.tone(second, first)
    assert np.allclose(there, -back)
    assert np.allclose(tone_direction.tone(first, first), 0)


def test_concepts_that_name_themselves_rank_first_and_shuffled_ones_by_chance():
    rng, concepts = np.random.default_rng(0), np.arange(40)
    lift = rng.standard_normal((40, 40)) + 3 * rng.standard_normal(40)  # some names are lifted by anything
    assert abs(introspection.ranks(lift, concepts).mean() - 0.5) < 0.12
    assert (introspection.ranks(lift + 20 * np.eye(40), concepts) == 1).all()


def test_what_is_one_vector_away_is_recovered_by_it_and_by_no_other(model):
    """b is a with a vector added before its head: that vector brings a all the way, its opposite away."""
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    later, rows = copy.deepcopy(model), prompts([[1, 5, 6, 7, 8], [1, 9, 10, 11, 12]], 0)
    start = torch.tensor([2, 2])
    at = torch.arange(5) >= start[:, None]
    asked = already_in_base.Asked(["sums"] * 2, ["1"] * 2, [], [], [], rows.ids, at, start)
    with replaced_resid_post(later, 2, lambda stream: stream + vector):
        steering = already_in_base.Steering(model, later, asked)
        apart = already_in_base.streams_at(later, asked)[2] - already_in_base.streams_at(model, asked)[2]
    assert torch.allclose(apart, vector.expand(2, 32), atol=1e-4)
    assert steering.recovered(2, apart.mean(dim=0)) == pytest.approx(1, abs=1e-4)
    assert steering.recovered(2, -vector) < 0
    assert steering.recovered(2, torch.zeros(32)) == pytest.approx(0, abs=1e-6)


def test_answers_that_the_vector_spoils_are_not_what_is_asked():
    """A loss in right answers passes no test: the claim is about what is brought forth."""
    each = {"as it is": np.ones(20), already_in_base.VECTOR: np.zeros(20)}
    told = [{"who": who, "what": what, "each": each.get(who, np.ones(20))}
            for who in ("as it is", already_in_base.VECTOR, already_in_base.EXAMPLES, already_in_base.PLAINLY)
            for what in ("well formed", "right")]  # fmt: skip
    assert not beyond(already_in_base._behaved(told, "a to b", "a"))
    told[1]["each"] = np.zeros(20)
    assert {f.name for f in beyond(already_in_base._behaved(told, "a to b", "a"))} == {"right more"}


def _told(confidence, right):
    n = len(right)
    return calibration.Told(confidence, right.astype(float), np.arange(n) // 20, np.zeros((0, n)))


def test_a_calibrated_model_is_not_called_overconfident_and_an_overconfident_one_is():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.1, 0.9, 2_000)
    drawn = rng.random(2_000)
    honest = calibration._figures(_told(confidence, drawn < confidence), "prose", "a", 0)
    boastful = calibration._figures(_told(confidence, drawn < confidence - 0.08), "prose", "a", 0)
    assert not beyond(honest)
    (found,) = beyond(boastful)
    assert found.name == "overconfidence"
    assert found.low < 0.08 < found.high
    assert honest[0].value < honest[0].null.high  # an ECE above 0 is what n alone gives


def test_why_answers_are_not_told_is_what_was_lacking():
    told = calibration._claim([], ["a", "b"], {"a": "the lab's text holds no questions"})
    assert told.endswith("Answers are not told: the lab's text holds no questions.")


def test_bins_have_equal_mass_and_the_result_is_found_in_an_answer():
    sizes = np.bincount(calibration.bins(np.random.default_rng(0).random(103)))
    assert len(sizes) == calibration.BINS
    assert sizes.max() - sizes.min() <= 1
    worked = ["Step by step:", " 2&3=5", ", so it", " is", " 5", "7", ".", ""]
    assert calibration.result_span(worked) == (4, 6)
    assert calibration.result_span(["c", " a", " t", "."]) == (0, 3)


def test_heads_that_look_everywhere_alike_give_bos_its_even_share():
    """With queries of zero every pattern is even, and the figure is the null it is held against."""
    model = tiny_model("llama")
    ids = torch.randint(5, 300, (12, 40), generator=torch.Generator().manual_seed(0))
    even = np.mean(1 / (np.arange(attention_sinks.FROM, 40) + 1))
    plain = attention_sinks._shares(model, ids)[0]
    for block in model.model.layers:
        block.self_attn.q_proj.weight.data.zero_()
    share = attention_sinks._shares(model, ids)[0]
    assert share.shape == (3, 4, 12)
    assert np.allclose(share, even, atol=1e-6)
    assert not np.allclose(plain, even, atol=1e-3)


def test_the_value_of_one_token_is_taken_away_and_put_back():
    model = tiny_model("llama")
    ids = torch.randint(5, 300, (4, 40), generator=torch.Generator().manual_seed(0))
    plain = attention_sinks._shares(model, ids)[1]
    lost = attention_sinks._without(
        model, attention_sinks._values(model), ids, torch.zeros(4, dtype=torch.long)
    )
    assert (np.abs(lost - plain) > 1e-6).all()
    assert np.array_equal(attention_sinks._shares(model, ids)[1], plain)


@pytest.mark.parametrize(("sign", "word"), [(1, "more"), (-1, "less")])
def test_what_is_lost_without_the_value_of_bos_is_told_with_its_side(sign, word):
    lost = mean_figure(attention_sinks.LOST, sign * np.full(20, 0.2), "documents", "signs", checkpoint="a")
    told = attention_sinks._claim([lost], {}, 0.03)
    assert f"rises {word} than without another token's: a {sign * 0.2:+.3f}" in told


def _planted(seed=0, d=24, n_factors=12, n=3_000):
    """Factors, each along an axis of its own, in documents of ten tokens."""
    rng = np.random.default_rng(seed)
    on = rng.random((n, n_factors)) < 0.1
    x = on @ (6 * np.eye(n_factors, d)) + rng.standard_normal((n, d))
    token, factor = np.nonzero(on)
    names = tuple(f"f{i:02}" for i in range(n_factors))
    return x, halved(FactorTable.of(token, factor, np.arange(n) // 10, names))


def test_planted_factors_are_read_and_moved_labels_are_not():
    x, dealt = _planted()
    told = superposition_layers.read(x, dealt, superposition_layers._moved(dealt, 0), 0)
    assert (told.aurocs > 0.99).all()
    assert (told.permuted < 0.65).all()
    assert told.cosines.mean() < 0.1  # axes do not interfere
    assert told.dimension[1] < told.dimension[0] < told.dimension[2]


def test_even_dimensions_have_the_effective_dimension_that_as_many_tokens_give():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2_000, 20))
    value, low, high = superposition_layers.effective_dimension(x, np.arange(2_000) // 10)
    assert low < 20 * 2_000 / 2_020 < high
    assert value < 20
    narrow = superposition_layers.effective_dimension(x * np.r_[np.ones(4), np.zeros(16)], np.arange(2_000))
    assert narrow[0] == pytest.approx(4, abs=0.1)


def test_rounding_twice_is_rounding_once():
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    for cut in (precision_cut.to_int8, precision_cut.to_bf16):
        assert torch.allclose(cut(cut(x)), cut(x), atol=1e-7)
        assert float((cut(x) - x).norm()) > 0
    steps = precision_cut.to_int8(x) / (x.abs().amax(dim=1, keepdim=True) / 127)
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert float(steps.abs().max()) == pytest.approx(127, abs=1e-3)


def test_noise_is_as_large_as_the_error_that_it_stands_beside():
    w = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    noisy = precision_cut.noise(0)[0](w)
    assert float((noisy - w).norm()) == pytest.approx(float((precision_cut.to_int8(w) - w).norm()), rel=1e-4)


def test_a_cut_model_is_whole_again_afterwards(model):
    ids = torch.tensor([[1, 5, 6, 7]])
    before = model(ids).logits
    for cut in (precision_cut.bf16, precision_cut.int8, precision_cut.noise(0)):
        with precision_cut.cut_down(model, cut):
            inside = model(ids).logits
        assert float((inside - before).abs().max()) > 0
        assert torch.equal(model(ids).logits, before)
    with precision_cut.cut_down(model, None):
        assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize("cut", [precision_cut.int8, precision_cut.noise(0)])
def test_the_maps_of_gpt2_are_cut_too(cut):
    """Its Conv1D keeps weights as [in, out]: rounded by output channel it is what a Linear of them would be."""
    gpt2, ids = tiny_model("gpt2").requires_grad_(False), torch.tensor([[1, 5, 6, 7]])
    conv, x = gpt2.transformer.h[0].mlp.c_fc, torch.randn(3, 32)
    before = gpt2.base_model(ids)[0]
    with precision_cut.cut_down(gpt2, cut):
        assert float((gpt2.base_model(ids)[0] - before).abs().max()) > 0
        inside = conv(x)
    if cut is precision_cut.int8:
        weight = precision_cut.to_int8(conv.weight.detach().T)
        assert torch.allclose(inside, precision_cut.to_int8(x) @ weight.T + conv.bias, atol=1e-5)
    assert torch.equal(gpt2.base_model(ids)[0], before)


def test_churn_is_none_of_the_same_latents_and_all_of_others():
    a, b = torch.tensor([[1.0, 2.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 3.0, 0.0]])
    assert precision_cut.churn(a, a) == 0
    assert precision_cut.churn(a, 5 * a) == 0
    assert precision_cut.churn(a, b) == 1
    assert precision_cut.churn(a, a + b) == pytest.approx(1 / 3)
    assert precision_cut.churn(0 * a, 0 * a) == 0


def test_auroc_of_shuffled_names_is_one_half_and_kl_of_itself_is_zero():
    values = np.arange(200.0)
    on = values > 100
    assert auroc(values, on) == 1
    assert abs(auroc(values, shuffled(on, None, 0)) - 0.5) < 0.15
    log_p = torch.randn(3, 9).log_softmax(-1)
    assert torch.equal(kl(log_p, log_p), torch.zeros(3))
