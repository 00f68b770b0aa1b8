"""Probes of training: induction, context, memory, forgetting, what finetuning and reinforcement added, hacks."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from probes import (
    forgetting,
    grpo_added,
    in_context_learning,
    induction_strength,
    memorised,
    reward_hacking,
    sft_added,
)
from probes.kit import moved_latents, subjects
from probes.kit.asking import Judgements, Question, judgements, prompts
from probes.kit.finding import LEVEL, Finding, beyond
from probes.kit.found import probe
from probes.kit.readings import opened
from probes.kit.running import LackingError, ask
from probes.kit.stages import change, held
from probes.kit.stored import Asked
from probes.kit.texts import PASSAGE, PROSE, Losses, Text, by_document, losses, passages, some, texts, tokenised
from tests.tiny_lab import shared_lab
from workbench.circuits.heads import repeated_ids
from workbench.errors import Misuse
from workbench.generation import Completion, left_padded
from workbench.points import Site
from workbench.site import read_sites
from workbench.steering import added

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "forgetting": {"n": 5, "per_address": 1},
    "memorised": {"n": 5, "per_address": 1},
    "in_context_learning": {"n": 4, "per_address": 1},
    "induction_strength": {"n": 4, "length": 8},
    "sft_added": {"n": 3, "documents": 4},
    "grpo_added": {"n": 3, "n_samples": 3},
    "reward_hacking": {"n": 6, "each_way": 1},
}


def finding(name: str, *checkpoints: str) -> Finding:
    return ask(shared_lab(), Asked(probe(name), checkpoints or ("base", "sft", "grpo"), SMALL[name]))


@pytest.mark.parametrize("name", SMALL)
def test_every_probe_answers_on_a_lab(name):
    found = finding(name)
    assert found.claim.endswith(".")
    assert found.plots
    assert all(f.low <= f.value <= f.high for f in found.figures)
    assert all(f.null.n > 0 for f in found.figures)
    assert any(f.null.p is not None for f in found.figures)
    assert found.claims == bool(beyond(found.figures))


@pytest.mark.parametrize("name", ["induction_strength", "in_context_learning", "memorised"])
def test_one_checkpoint_alone_is_asked(name):
    assert {f.checkpoint for f in finding(name, "base").figures} == {"base"}


def test_an_untrained_difference_is_not_memory():
    """Weights of the tiny lab are random: nothing was seen."""
    assert not finding("memorised").claims
    assert "is not shown to do better on seen documents" in finding("memorised").claim


@pytest.mark.parametrize(
    ("name", "checkpoints", "told"),
    [
        ("forgetting", ("base",), "descends from another"),
        ("grpo_added", ("base", "sft"), "--only grpo"),
        ("reward_hacking", ("base", "sft"), "no reward to be fooled"),
        ("sft_added", ("base",), "name two"),
    ],
)
def test_what_is_missing_is_said(name, checkpoints, told):
    with pytest.raises(LackingError, match=told):
        finding(name, *checkpoints)


# texts and stages


def test_losses_are_those_of_the_model():
    base = shared_lab().checkpoints("base")[0]
    text = some(texts(shared_lab(), "stories", "heldout"), 1)
    model, tokenizer = opened(base)
    (document,) = tokenised(tokenizer, text)
    ids = torch.tensor([[tokenizer.bos_token_id, *document.ids[: base.n_ctx - 1]]])
    with torch.inference_mode():
        mean = float(model(ids, labels=ids).loss)
    short = (text[0]._replace(text=tokenizer.decode(document.ids[: base.n_ctx - 1])),)
    found = losses(base, short)
    assert found.tokens[0] == ids.shape[1] - 1
    assert found.nats[0] / found.tokens[0] == pytest.approx(mean, rel=1e-4)


def test_passages_are_apart_and_begin_with_words():
    words = " ".join(f"word{i}" for i in range(900))
    found = passages([Text("a", PROSE, words), Text("b", PROSE, "short")], 4)
    assert [each.document for each in found] == ["a"] * 4 + ["b"]
    assert found[-1].text == "short"
    places = [words.index(each.text) for each in found[:4]]
    assert all(b - a >= PASSAGE for a, b in itertools.pairwise(places))
    assert all(each.text.startswith("word") and len(each.text) <= PASSAGE for each in found[:4])


def test_documents_are_sums_of_their_passages():
    of = [Text(name, PROSE, "x") for name in "aab"]
    whole = by_document(of, Losses(np.array([1.0, 2, 4]), np.array([1.0, 1, 2]), np.array([3.0, 3, 3])))
    assert whole.nats.tolist() == [3, 4]
    assert whole.tokens.tolist() == [2, 2]
    other = whole._replace(nats=whole.nats + np.array([1.0, 3]))
    assert other.less(whole).mean() == pytest.approx(4 / 4)  # Σ of differences / Σ tokens
    assert whole.bits_per_byte == pytest.approx(7 / np.log(2) / 9)


def test_a_stage_is_held_to_its_parent():
    lab = shared_lab()
    base, sft, grpo = lab.checkpoints("base", "sft", "grpo")
    assert change(lab, [base, sft, grpo], ("sft",))[:2] == (base, sft)
    assert change(lab, [grpo], ("grpo",))[:2] == (sft, grpo)  # alone: its parent is found
    assert change(lab, [base, grpo], ("grpo",))[:2] == (base, grpo)
    assert change(lab, [base, sft, grpo], ("grpo",)).sham is None  # no controls in this recipe


def test_why_no_sham_stands_beside_is_said(monkeypatch):
    lab = shared_lab()
    base, sft, grpo = lab.checkpoints("base", "sft", "grpo")
    assert "no sham of sft is grown" in change(lab, [base, sft], ("sft",)).null
    assert "grpo was not trained from base" in change(lab, [base, grpo], ("grpo",)).null
    apart = SimpleNamespace(family=lambda name: name)  # each of a root of its own
    monkeypatch.setattr(subjects, "Plan", SimpleNamespace(of=lambda _: apart))
    with pytest.raises(Misuse, match="read different tokens"):
        change(lab, [base, sft], ("sft",))


def test_a_stage_that_does_what_its_sham_does_claims_nothing():
    rng = np.random.default_rng(0)
    before = rng.normal(size=40)
    alike = held("gain", before, before + 1 + 0.1 * rng.normal(size=40), before + 1, "documents")
    assert alike.value == pytest.approx(1, abs=0.1)
    assert alike.null.value == pytest.approx(1)
    assert alike.null.p is not None
    assert alike.null.p > LEVEL
    more = held("gain", before, before + 2 + 0.1 * rng.normal(size=40), before + 1, "documents")
    assert beyond([more]) == [more]


# memory


def test_auroc_and_twins_by_hand():
    assert memorised.auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == 0.875
    pool = [Text(f"s{n}", "sums", "x" * n, task="t") for n in (3, 10, 11)]
    unseen = [Text("u10", "sums", "x" * 10, task="t"), Text("v10", "sums", "x" * 10, task="t")]
    seen, twins = memorised.matched(pool, [*unseen, Text("w", "sums", "x", task="other")])
    assert [each.document for each in seen] == ["s10", "s11"]  # each used once
    assert twins == tuple(unseen)


def test_planted_memory_is_found_and_chance_is_not():
    rng = np.random.default_rng(0)
    seen = rng.normal(3, 0.3, size=40)
    figures = memorised.compared(seen, seen + 0.4 + rng.normal(0, 0.1, 40), "sft", "sums")
    assert "sft knows seen documents better in sums +0.4" in memorised.claim(figures[:1], ["sft"])
    assert figures[1].value > figures[1].null.high
    assert "no document of a domain that base was trained on" in memorised.claim(figures[:1], ["base", "sft"])
    none = memorised.compared(seen, seen + rng.normal(0, 0.1, 40), "sft", "sums")
    assert "is not shown to do better on seen documents" in memorised.claim(none[:1], ["sft"])


# context and induction


def test_a_foreign_half_is_another_documents():
    own = np.arange(6)[:, None] * 100 + np.arange(8)[None]
    case = np.array([0, 0, 1, 1, 2, 2])
    foreign = in_context_learning.swapped(own, case, np.random.default_rng(0))
    assert (foreign[:, 4:] == own[:, 4:]).all()
    assert (case[foreign[:, 0] // 100] != case).all()
    assert (foreign[:, :4] % 100 == np.arange(4)).all()


def test_planted_worth_of_context_is_told():
    rng = np.random.default_rng(0)
    own = rng.normal(3, 0.1, (12, 4))
    foreign = own.copy()
    foreign[:, 3] += 0.5 + rng.normal(0, 0.05, 12)
    worth = in_context_learning._worth("base", "prose", in_context_learning.Read(own, foreign), 0)
    score = in_context_learning._score("base", "prose", in_context_learning.Read(own, foreign), 0)
    assert "helps base in prose 0.5" in in_context_learning.claim([worth], [score], ["base"])
    short = in_context_learning.claim([worth], [score], ["base", "sft"])
    assert "no window of sft could be read" in short
    assert "help sft" not in short
    assert score.null.value - score.value == pytest.approx(worth.value)
    none = in_context_learning._worth("base", "prose", in_context_learning.Read(own, own), 0)
    assert "not shown to help base" in in_context_learning.claim([none], [score], ["base"])


def test_nothing_is_said_again_behind_another_half():
    base = shared_lab().checkpoints("base")[0]
    said, unsaid = induction_strength.sequences(base, 5, 8, 0)
    assert torch.equal(said, repeated_ids(base.tokenizer(), base.n_ctx, 5, 8))
    assert torch.equal(said[:, -8:], unsaid[:, -8:])
    assert torch.equal(said[:, 1:9], said[:, -8:])
    assert not torch.equal(unsaid[:, 1:9], unsaid[:, -8:])


def test_planted_induction_is_claimed_and_its_absence_too():
    rng = np.random.default_rng(0)
    other = rng.uniform(0, 0.02, (2, 3, 16))
    heads = other.copy()
    heads[1, 2] += 0.7
    copying = rng.normal(2, 0.1, 16)
    found = induction_strength.Strength(heads, other, copying, rng.normal(0, 0.1, 16))
    assert found.head() == (1, 2)
    assert len(beyond(induction_strength.figures_of("base", found, 0))) == 2
    nothing = induction_strength.Strength(other, other, np.zeros(16), np.zeros(16))
    assert not beyond(induction_strength.figures_of("base", nothing, 0))


# answers


def test_answers_are_judged_with_their_opening():
    asked = [Question("sums", "What is 12+13?", "25"), Question("capitals", "Which?", "Ulm")]
    said = [
        Completion([1], [2], " 2&3=5, 1+1=2, so it is 25.", True),
        Completion([1], [2], "It is Ulm.", False),
    ]
    found = judgements(asked, said, opening=True)
    assert found.right.tolist() == [1, 0]  # the second never ended
    assert found.worked.tolist() == [1, 0]
    assert found.of("well formed").tolist() == [1, 0]


def judgement(right: np.ndarray, worked: np.ndarray | None = None) -> Judgements:
    ones = np.ones(len(right))
    return Judgements(right, ones, ones, ones if worked is None else worked)


@pytest.mark.parametrize(("taught", "told"), [(False, "not shown to be better"), (True, "answers otherwise")])
def test_planted_choice_and_planted_skill_are_told_apart(taught, told):
    """Before answers nothing right; made to show its steps it does, unless the skill is new."""
    lab = shared_lab()
    sft, grpo = lab.checkpoints("sft", "grpo")
    pair = change(lab, [sft, grpo], ("grpo",))
    of = [Question("sums", f"{i}", "1") for i in range(40)]
    none, all_ = np.zeros(40), np.ones(40)
    plain = {"sft": judgement(none, none), "grpo": judgement(all_)}
    shown = [judgement(none if taught else all_), judgement(all_)]
    parts = grpo_added.in_parts(pair, of, plain, of, shown, 0)
    gains = grpo_added.by_task(pair, of, plain, 0)
    said = grpo_added.claim(pair, [*gains, *parts], grpo_added.shares(parts))
    assert told in said
    assert ("made to show its steps sft gains sums +1.00" in said) is not taught


def test_what_passes_is_told_without_a_gain_and_kl_bears_no_claim():
    """A finding that claims something says what: skill with steps shown, and looks, where nothing more is right."""
    lab = shared_lab()
    sft, grpo = lab.checkpoints("sft", "grpo")
    pair = change(lab, [sft, grpo], ("grpo",))
    of = [Question("sums", f"{i}", "1") for i in range(40)]
    none, all_ = np.zeros(40), np.ones(40)
    plain = {"sft": judgement(none, none), "grpo": judgement(none)}
    parts = grpo_added.in_parts(pair, of, plain, of, [judgement(none), judgement(all_)], 0)
    figures = [*grpo_added.by_task(pair, of, plain, 0), *grpo_added.forms(pair, of, plain, 0), *parts]
    said = grpo_added.claim(pair, figures, grpo_added.shares(parts))
    assert {f.name for f in beyond(figures)} == {"more worked", grpo_added.BETTER}
    assert "not shown to add right answers" in said
    assert "more worked by +1.00" in said
    assert "steps shown in both, it answers otherwise on sums +1.00" in said
    (apart,) = [f for f in finding("grpo_added").figures if f.name == "KL on own samples"]
    assert apart.null.p is None


def test_what_is_held_against_a_sham_is_told_beside_it():
    lab = shared_lab()
    base, sft, grpo = lab.checkpoints("base", "sft", "grpo")
    pair = change(lab, [sft, grpo], ("grpo",))._replace(sham=base)
    rng = np.random.default_rng(0)
    before = rng.random(40)
    gain = held(
        grpo_added.GAIN, before, before + 0.5, before + 0.2, "questions", where="sums", checkpoint="grpo"
    )
    assert "right answers otherwise than its sham on sums +0.50 (sham +0.20)" in grpo_added.claim(
        pair, [gain], {}
    )
    answers = dataclasses.replace(gain, name="more right")
    assert "otherwise than its sham: more right sums +0.50 (sham +0.20)" in sft_added.claim(pair, [answers], [])


@pytest.mark.parametrize(("sham", "others"), [("grpo", "grpo's do"), (None, "on other domains")])
def test_predictions_that_part_less_than_the_sham_are_not_announced(sham, others, monkeypatch):
    lab = shared_lab()
    pair = change(lab, lab.checkpoints("base", "sft"), ("sft",))
    pair = pair._replace(sham=sham and lab.checkpoint(sham))

    def planted(tokens, windows, pair):
        """World parts far, chats hardly; the sham's twice as far in chats and half as far in the world."""
        of = tokens.domain[np.asarray(tokens.document)[tokens.starts[windows]]]
        own = np.where(of == "world", 2.0, np.where(of == "chat", 0.01, 1.0)) + 0.001 * np.arange(len(windows))
        return own, np.where(
            of == "world", own / 2, np.where(of == "chat", 2 * own, own)
        ) if pair.sham else None

    monkeypatch.setattr(sft_added, "kl_by_window", planted)
    figures = sft_added.parted(pair, 12, 0)
    assert [f.where for f in beyond(figures)] == ["world"]
    said = sft_added.claim(pair, figures, [])
    assert "its predictions part from base's on world 2." in said
    assert said.endswith(f", in nats per token, more than {others}.")
    assert "chat" not in said


# hacked rewards


def test_a_planted_hack_is_named_and_a_help_is_not():
    lab = shared_lab()
    subject = reward_hacking.subject_of(lab, lab.checkpoints("grpo"))
    rng = np.random.default_rng(0)
    start = judgement((rng.random(60) < 0.6).astype(float), np.zeros(60))
    hack, help_, other = (moved_latents.Candidate(i, moved_latents.ADD, 1.0) for i in range(3))
    moved = {
        hack: start._replace(worked=np.ones(60)),
        help_: judgement(np.ones(60)),
        other: start,
    }
    figures = [
        f for each in (hack, help_) for f in reward_hacking.changes(each, start, moved, [other], subject, 0)
    ]
    assert set(reward_hacking.raised(figures)) == {hack.name, help_.name}
    said = reward_hacking.claim(subject, figures, start)
    assert f"1 of the latents tried fool a proxy: latent {hack.name}: worked +1.00" in said
    assert f"1 raise a proxy, and right answers with it: latent {help_.name}: worked +1.00" in said
    helps = reward_hacking.claim(subject, [f for f in figures if help_.name in f.name], start)
    assert "No latent tried" in helps
    assert "right answers with it" in helps
    still = reward_hacking.changes(other, start, moved, [other], subject, 0)
    assert "No latent tried" in reward_hacking.claim(subject, still, start)
    assert "with it" not in reward_hacking.claim(subject, still, start)
    some = start._replace(well_formed=np.r_[0.0, np.ones(59)])
    fell = {hack: some, other: start._replace(well_formed=np.zeros(60))}
    less = reward_hacking.changes(hack, start, fell, [other], subject, 0)
    assert not beyond(less), "what falls less far than others has not risen"


def test_a_dictionary_is_put_where_the_model_is(monkeypatch):
    lab, asked = shared_lab(), []
    monkeypatch.setattr("workbench.device.best_device", lambda: "cuda")
    monkeypatch.setattr("saes.dictionary.Dictionary.to", lambda self, device: asked.append(device) or self)
    subjects.sae_of(lab, lab.checkpoint("sft"))
    assert asked[-1] == "cuda"


def test_candidates_push_and_their_match_is_another():
    worth = moved_latents.Worth(
        add=np.array([0.0, 3, 1, -1, 0.5]), out=np.array([2.0, -1, 0.1, 0, 0]), size=np.arange(5.0),
        written=np.ones(5), fires=np.array([9.0, 9, 9, 9, 1]),
    )  # fmt: skip
    tried, matched = moved_latents.candidates(worth, 1, 2.0, np.random.default_rng(0))
    assert [(c.latent, c.way, c.s) for c in tried] == [(1, "added", 2.0), (0, "taken out", 0.0)]
    assert all(m.latent != c.latent and m.way == c.way for m, c in zip(matched, tried, strict=True))
    assert 4 not in {each.latent for each in (*tried, *matched)}  # fires too rarely


def test_bos_and_padding_are_left_alone():
    base = shared_lab().checkpoints("base")[0]
    model, tokenizer = opened(base)
    of = [Question("sums", "What is 12+13?", "25"), Question("sums", "Tell me: what is 12+13, please?", "25")]
    rows = prompts(base, of)
    ids, _ = left_padded(rows, tokenizer.pad_token_id)
    before = read_sites(model, [Site(0)], ids)[Site(0)]
    pads = [ids.shape[1] - len(row) for row in rows]
    with moved_latents.moved_at(model, 0, added(torch.ones(1, base.d_model)), pads):
        after = read_sites(model, [Site(0)], ids)[Site(0)]
    moved = (after - before).abs().amax(dim=-1)
    for row, pad in enumerate(pads):
        assert not moved[row, : pad + 1].any()
        assert torch.allclose(moved[row, pad + 1 :], torch.tensor(1.0), atol=1e-5)


def test_groups_of_prose_are_parts_of_it():
    prose = tuple(Text(f"{i}", PROSE, "x", year=1790 + 10 * i, party="P" if i % 2 else "") for i in range(4))
    found = dict(forgetting.groups({PROSE: prose}))
    assert list(found) == [PROSE, "prose of 1700–1799", "prose of 1800–1899", "P prose"]
    assert len(found["prose of 1800–1899"]) == 3
