"""Switching latents on and off: laws of the joint reading, and a set worked by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from saes.dictionary import Dictionary
from saes.errors import DictionaryError
from saes.sparse import Code
from tests.tiny_lab import shared_lab
from workbench.gains import OFF, ON, Effect, Gains, Gap
from workbench.generation import answered, chat_prompt, complete, right_padded
from workbench.joint_reading import JointReading
from workbench.lab import Lab
from workbench.mediation import (
    Asked,
    Mover,
    answer_nats,
    as_mask,
    attribution,
    coding,
    recovered,
    size_matched,
)
from workbench.points import Site

PROMPTS = ("What is 12+30?", "What is the capital of it?", "Spell the word tree.")


@pytest.fixture(scope="module")
def lab() -> Lab:
    return shared_lab()


@pytest.fixture(scope="module")
def reading(lab: Lab) -> JointReading:
    models = {name: lab.checkpoint(name).model() for name in ("sft", "grpo")}
    for model in models.values():
        model.requires_grad_(False)
    return JointReading(models, lab.checkpoint("sft").tokenizer(), Site(1))


@pytest.fixture(scope="module")
def prompts(reading: JointReading) -> list[list[int]]:
    return [chat_prompt(reading.tokenizer, text) for text in PROMPTS]


def test_unmoved_answers_are_those_of_generate(reading: JointReading, prompts: list[list[int]]) -> None:
    for name, model in reading.models.items():
        plain = complete(model, reading.tokenizer, prompts, 12)
        assert [s.ids for s in reading.answers(name, prompts, 12)] == [c.ids for c in plain]
        kept = reading.answers(name, prompts, 12, lambda streams, name=name: streams[name])
        assert [s.ids for s in kept] == [c.ids for c in plain]


def test_the_whole_upper_stream_makes_one_model_the_other(
    reading: JointReading, prompts: list[list[int]]
) -> None:
    """At the last layer all but the head is the other's; two equal heads then say the same."""
    top = JointReading(reading.models, reading.tokenizer, Site(3))
    theirs = [model.get_output_embeddings().weight.clone() for model in reading.models.values()]
    norms = [model.model.norm.weight.clone() for model in reading.models.values()]
    sft = reading.models["sft"]
    try:
        sft.get_output_embeddings().weight.data.copy_(theirs[1])
        sft.model.norm.weight.data.copy_(norms[1])
        ids = right_padded(prompts, 0)
        streams = top.streams(ids)
        moved = top.log_p("sft", ids, streams["grpo"])
        assert torch.allclose(moved, top.log_p("grpo", ids), atol=1e-5)
    finally:
        sft.get_output_embeddings().weight.data.copy_(theirs[0])
        sft.model.norm.weight.data.copy_(norms[0])
    assert not torch.allclose(top.log_p("sft", ids), top.log_p("grpo", ids), atol=1e-3)


def whole_difference(reading: JointReading) -> Mover:
    """One latent a coordinate of the difference's positive part, one of its negative: together exact."""
    d = reading.models["sft"].config.hidden_size
    along = torch.cat([torch.eye(d), -torch.eye(d)])

    def encode(streams) -> Code:
        apart = streams["grpo"] - streams["sft"]
        values = torch.cat([apart, -apart], dim=1).clamp(min=0)
        rows, latents = values.nonzero(as_tuple=True)
        return Code(rows, latents, values[rows, latents])

    return Mover("difference", encode, along, along, "sft", "grpo")


def test_all_latents_of_an_exact_code_close_the_way(reading: JointReading, prompts: list[list[int]]) -> None:
    mover = whole_difference(reading)
    rows = [p + s.ids for p, s in zip(prompts, reading.answers("grpo", prompts, 8), strict=True)]
    at = answered([len(p) for p in prompts], [len(r) for r in rows])
    asked = Asked.of(reading, mover, right_padded(rows, 0), at)
    everything, none = (as_mask(some, mover.n_latents) for some in (range(mover.n_latents), []))
    start = answer_nats(reading, "sft", asked)
    swapped = answer_nats(reading, "sft", asked, asked.streams["grpo"])
    assert np.allclose(
        swapped, answer_nats(reading, "sft", asked, asked.moved(mover, everything, ON)), atol=1e-4
    )
    nats, sizes = attribution(reading, mover, asked)
    # integrated gradients: the parts sum to the whole
    assert nats.sum() == pytest.approx((swapped - start).sum(), rel=0.05, abs=1e-3)
    assert (sizes >= 0).all()
    off = answer_nats(reading, "grpo", asked, asked.moved(mover, everything, OFF))
    back = answer_nats(reading, "grpo", asked, asked.streams["sft"])
    assert np.allclose(off, back, atol=1e-4)
    assert np.allclose(answer_nats(reading, "sft", asked, asked.moved(mover, none, ON)), start, atol=1e-6)
    # the same through the move that answers are made with
    by_answers = reading.answers("sft", prompts, 8, mover.move(everything, ON))
    whole = reading.answers("sft", prompts, 8, lambda streams: streams["grpo"])
    assert [s.ids for s in by_answers] == [s.ids for s in whole]


def test_moves_side_by_side_are_each_as_alone(reading: JointReading, prompts: list[list[int]]) -> None:
    mover = whole_difference(reading)
    some = as_mask(range(0, mover.n_latents, 3), mover.n_latents)
    moves = [None, *(mover.move(some, ON, dose) for dose in (0.5, 3.0)), lambda streams: streams["grpo"]]
    for rows_at_once in (1_024, 2 * len(moves)):  # all prompts at once, and two by two
        said = reading.answers_each("sft", prompts, 10, moves, rows_at_once)
        for move, each in zip(moves, said, strict=True):
            assert [s.ids for s in each] == [s.ids for s in reading.answers("sft", prompts, 10, move)]


def test_some_latents_alone_move_what_they_move_among_all(
    reading: JointReading, prompts: list[list[int]]
) -> None:
    """A narrowed code is the whole one at its latents."""
    n, d = 24, reading.models["sft"].config.hidden_size
    torch.manual_seed(3)
    dictionary = Dictionary(
        W_enc=torch.randn(2, d, n), b_enc=torch.randn(n), W_dec=torch.randn(n, 2, d), b_dec=torch.zeros(2, d),
        threshold=torch.rand(n), scales=torch.ones(2), names=("sft", "grpo"), k=4,
    )  # fmt: skip
    encode, narrowed = coding(dictionary, lambda streams: torch.stack(list(streams.values()), dim=1))
    along = dictionary.W_dec[:, 1] - dictionary.W_dec[:, 0]
    streams = {name: s.flatten(0, 1) for name, s in reading.streams(right_padded(prompts, 0)).items()}
    some = as_mask([1, 5, 17], n)
    whole, part = (
        Mover("swap", encode, along, along, "sft", "grpo", each).move(some, ON)(streams)
        for each in (None, narrowed)
    )
    assert not torch.equal(whole, streams["sft"])
    torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-4)
    with pytest.raises(DictionaryError, match="compete"):
        dataclasses.replace(dictionary, activation="topk").narrowed(torch.tensor([1]))


def test_answered_marks_the_answers_tokens() -> None:
    assert answered([2, 3], [4, 4]).tolist() == [[False, True, True], [False, False, True]]


def test_recovered_by_hand() -> None:
    start, end = np.array([-4.0, -2.0]), np.array([-2.0, -1.0])
    assert recovered(np.array([-3.0, -1.5]), start, end) == pytest.approx(0.5)
    assert np.isnan(recovered(start, start, start))


def test_matched_latents_are_others_of_like_size() -> None:
    sizes = np.array([0.0, 1.0, 1.1, 50.0, 52.0, 1.2, 49.0, 0.9, *np.linspace(2, 30, 20)])
    drawn = size_matched([3], sizes, 1, np.random.default_rng(0))
    assert drawn[0] != 3
    assert sizes[drawn[0]] > 10
    many = size_matched([1, 2], sizes, 2, np.random.default_rng(0))
    assert len(set(many)) == 2
    assert not set(many) & {0, 1, 2}


def test_a_set_carries_only_beyond_its_control() -> None:
    def effect(way: str, low: float, high: float, matched: tuple[float, float, float]) -> Effect:
        return Effect(way, 1.0, 4, 0.1 if way == ON else 0.6, (low + high) / 2, low, high, 200, *matched)

    assert effect(ON, 0.4, 0.5, (0.12, 0.08, 0.17)).carries
    assert not effect(ON, 0.4, 0.5, (0.38, 0.3, 0.45)).carries
    assert effect(OFF, 0.01, 0.05, (0.6, 0.53, 0.67)).carries
    assert not effect(OFF, 0.55, 0.65, (0.6, 0.53, 0.67)).carries


def test_a_lab_whose_stages_gained_nothing_says_so(lab: Lab) -> None:
    found = Gains.of(lab, "base-sft-grpo")
    assert found.gaps == []
    assert found.sentences() == ["no task that was asked of both a stage and its parent got better"]
    assert found.answers.is_empty()
    assert found.summary() == []
    gap = Gap("grpo", "sft", "sums", 0.1, 0.6, 0.4, 0.6, 200)
    assert found.movers(gap) == []
