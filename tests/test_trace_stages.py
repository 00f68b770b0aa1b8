"""The stages of a trace: what every figure is held to, in every family; costs measured on equal results."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pages.components import trace_attend
from pages.components.heads import ONE, block, packed, small
from tests.tiny_models import tiny_model, tiny_tokenizer
from workbench.attention_cost import KINDS, AttentionCost, Cost, attention_cost, lengths
from workbench.cache_cost import OFF, ON, cache_cost
from workbench.circuits.head_labels import FIRST, Labelled, first_rows, label_heads, named
from workbench.circuits.heads import INDUCTION, PREVIOUS, HeadScore, repeated_ids, score_heads
from workbench.circuits.tuned_lens import TunedLens
from workbench.errors import Misuse
from workbench.finer_kinds import DIGITS, LETTERS, MARKERS, PART, SIGNS, SPACE, kind_of
from workbench.first_tokens import first_tokens
from workbench.loop import recorded_loop
from workbench.main_line import end_of_line, main_first
from workbench.plan import Plan
from workbench.prompt import read_prompt
from workbench.prompt_notes import notes
from workbench.same_weights import same_logits, same_weights
from workbench.sampling import Sampling, continuations, reshape
from workbench.through_training import moments, spread
from workbench.timing import Seconds
from workbench.trace import layers_at, read_again, target_at, trace
from workbench.vocabulary import TokenText

TEXT = "héllo world 🙂 this is a test"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def some_lens():
    """A tuned lens that is none: random maps, so that what it moves is seen."""
    generator = torch.Generator().manual_seed(0)
    return TunedLens(torch.randn(3, 32, 32, generator=generator) / 8, torch.randn(3, 32, generator=generator))


def test_every_figure_is_that_of_a_plain_forward(machine, some_lens):
    model, tokenizer = machine
    prompt = read_prompt(tokenizer, TEXT, 64)
    traced = trace(model, tokenizer, prompt, top=5)
    with torch.no_grad():
        logits = model(torch.tensor([prompt.ids])).logits[0]
    p = logits.softmax(-1).numpy()
    np.testing.assert_allclose(traced.logits, logits, atol=1e-4)
    np.testing.assert_allclose(traced.attention.sum(-1), 1, atol=1e-5)
    for lens in (traced.lens, read_again(traced, model, tokenizer, some_lens.checked_for(model), top=5)):
        np.testing.assert_allclose(lens.top_probabilities[-1], -np.sort(-p)[:, :5], atol=1e-4)
    entropy = -(p * np.log(p)).sum(-1)
    for position in (0, len(prompt.ids) - 1):
        target = target_at(traced, position)
        curve = layers_at(traced, model, position, target)
        assert curve.probability[-1] == pytest.approx(p[position, target], abs=1e-4)
        assert curve.rank[-1] == (p[position] > p[position, target]).sum()
        assert curve.entropy[-1] == pytest.approx(entropy[position], abs=1e-3)


def test_a_layer_curve_says_what_the_lens_says_of_the_token_that_follows(machine, some_lens):
    model, tokenizer = machine
    traced = trace(model, tokenizer, read_prompt(tokenizer, TEXT, 64))
    for lens, moved in (
        (traced.lens, TunedLens.logit_lens(3, 32)),
        (read_again(traced, model, tokenizer, some_lens), some_lens),
    ):
        curve = layers_at(traced, model, 3, target_at(traced, 3), moved)
        np.testing.assert_allclose(curve.probability, lens.next_probability[:, 3], atol=1e-6)
        np.testing.assert_array_equal(curve.rank, lens.rank[:, 3])
        np.testing.assert_allclose(curve.entropy, lens.entropy[:, 3], atol=1e-5)


def test_a_tuned_lens_moves_all_rows_but_the_last(llama, some_lens):
    model, tokenizer = llama
    traced = trace(model, tokenizer, read_prompt(tokenizer, TEXT, 64))
    again = read_again(traced, model, tokenizer, TunedLens.logit_lens(3, 32))
    np.testing.assert_allclose(again.top_probabilities, traced.lens.top_probabilities, atol=1e-6)
    moved = read_again(traced, model, tokenizer, some_lens)
    parted = np.abs(moved.entropy - traced.lens.entropy).max(axis=1)
    assert (parted[:-1] > 1e-3).all()
    assert parted[-1] < 1e-5


def test_behind_the_last_token_the_target_is_the_models_own(llama):
    model, tokenizer = llama
    traced = trace(model, tokenizer, read_prompt(tokenizer, TEXT, 64))
    last = len(traced.prompt.ids) - 1
    assert target_at(traced, 0) == traced.prompt.ids[1]
    assert layers_at(traced, model, last, target_at(traced, last)).rank[-1] == 0


def test_both_kinds_of_attention_give_the_same_logits(machine):
    model, _ = machine
    before = model.config._attn_implementation
    found = attention_cost(model, [4, 9], repeats=2)
    assert found.kinds == KINDS
    assert found.equal
    assert model.config._attn_implementation == before
    table = found.table()
    assert table.select("attention", "tokens", "runs").rows() == [
        (kind, n, 2) for n in (4, 9) for kind in KINDS
    ]
    assert (table["low"] <= table["seconds"]).all()
    assert (table["seconds"] <= table["high"]).all()


def test_lengths_end_with_the_context_and_at_512():
    assert lengths(2048) == [16, 32, 64, 128, 256, 512]
    assert lengths(100) == [16, 32, 64, 100]
    assert lengths(8) == [8]


def test_no_length_is_refused(llama):
    with pytest.raises(Misuse, match="at least one run"):
        attention_cost(llama[0], [], repeats=1)


def test_seconds_by_hand():
    assert Seconds.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Seconds(3.0, 2.0, 4.0, 5)


def test_the_cache_changes_no_token(machine):
    model, tokenizer = machine
    ids = read_prompt(tokenizer, TEXT, 64).ids
    found = cache_cost(model, ids, 5, repeats=2)
    greedy = continuations(
        model, tokenizer, read_prompt(tokenizer, TEXT, 64), Sampling(temperature=0.0), max_new_tokens=5
    )
    theirs = [t.id for t in greedy[0].tokens]
    assert found.equal
    assert list(found.ids[ON])[: len(theirs)] == theirs
    assert [c.read for c in found.costs if c.kind == OFF] == [len(ids) + i for i in range(5)]
    assert found.last(ON).read == len(ids) + 4
    by_hand = [c.seconds.median for c in found.costs if c.kind == OFF][1:]
    assert found.total(OFF) == pytest.approx(sum(by_hand))
    with pytest.raises(Misuse, match="room for"):
        cache_cost(model, ids, 64)


def test_a_loop_is_a_continuation_step_by_step(machine):
    """The same tokens and probabilities as `continuations`, and as a forward pass of the whole text."""
    model, tokenizer = machine
    prompt, sampling = read_prompt(tokenizer, "hello", 64), Sampling(temperature=0.8, top_k=9)
    loop = recorded_loop(model, tokenizer, prompt, sampling, max_new_tokens=8, seed=3)
    [same] = continuations(model, tokenizer, prompt, sampling, n=1, max_new_tokens=8, seed=3)
    assert tuple(step.token for step in loop.steps) == same.tokens
    assert loop.ended == same.ended
    np.testing.assert_allclose([s.probability for s in loop.steps], np.exp(same.log_p), atol=1e-5)
    np.testing.assert_allclose([s.reshaped for s in loop.steps], np.exp(same.log_q), atol=1e-5)
    ids = [*prompt.ids, *(step.token.id for step in loop.steps)]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, len(prompt.ids) - 1 : -1].double()
    p = logits.softmax(-1)
    for at, step in enumerate(loop.steps):
        assert step.probability == pytest.approx(float(p[at, step.token.id]), abs=1e-4)
        assert step.rank == int((p[at] > p[at, step.token.id]).sum())
        assert step.entropy == pytest.approx(float(-(p[at] * p[at].log()).sum()), abs=1e-3)
        assert step.n_kept == 9
        assert step.read == len(prompt.ids) + at


def test_the_cache_grows_by_the_formula(machine):
    model, tokenizer = machine
    config = model.config.get_text_config()
    loop = recorded_loop(model, tokenizer, read_prompt(tokenizer, "hello", 64), Sampling(), max_new_tokens=4)
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    a_token = 2 * config.num_hidden_layers * heads * d_head * 4
    assert [step.cache_bytes for step in loop.steps] == [a_token * step.read for step in loop.steps]


def test_a_full_context_has_no_room_for_a_loop(llama):
    model, tokenizer = llama
    with pytest.raises(Misuse, match="fills the context of 64"):
        recorded_loop(model, tokenizer, read_prompt(tokenizer, "1 " * 100, 64), Sampling())


def score(kind: str, head: int, low: float, null: float = 0.0) -> HeadScore:
    return HeadScore(kind, 0, head, low + 0.1, low, low + 0.2, null, 0.5, 32)


def test_heads_are_named_above_the_bound_only_and_sinks_first():
    rows = [
        score(PREVIOUS, 0, 0.6), score(INDUCTION, 0, 0.7), score(PREVIOUS, 1, 0.49), score(PREVIOUS, 2, 0.55, 0.58),
        score(PREVIOUS, 3, 0.8), score(FIRST, 3, 0.6),
    ]  # fmt: skip
    assert [(r.head, r.name) for r in named(rows)] == [(0, INDUCTION), (3, FIRST)]


def test_what_goes_to_the_first_token_is_the_rest_of_what_goes_elsewhere(llama):
    model, tokenizer = llama
    ids = repeated_ids(tokenizer, 64, n=5, length=10)
    rows = first_rows(score_heads(model, ids), ids.shape[1])
    with torch.no_grad():
        attention = torch.stack(model(ids, output_attentions=True).attentions)
    mean = attention[..., 0].mean(dim=(1, 3))
    np.testing.assert_allclose([r.score for r in rows], mean.flatten(), atol=1e-5)
    assert rows[0].null == pytest.approx(np.mean([1 / (i + 1) for i in range(21)]))


def test_a_context_too_short_to_measure_heads_names_none():
    found = label_heads(tiny_model("llama", n_ctx=4), tiny_tokenizer())
    assert found.labels == ()
    assert found.measured_on == ""
    assert "reads 4 tokens" in found.unmeasured


def test_why_no_head_is_named_is_no_measurement(monkeypatch):
    said = []
    monkeypatch.setattr(trace_attend.frame, "caption", said.append)
    trace_attend._told(
        {"base": Labelled((), "", "its context is too short"), "sft": Labelled((), "32 sequences")}
    )
    assert "Measured on 32 sequences, not on this text. No head of sft passes." in said[0]
    assert said[0].endswith("No head of base is named: its context is too short.")


def test_first_tokens_are_counted_against_what_they_were_drawn_with(llama):
    model, tokenizer = llama
    prompt, sampling = read_prompt(tokenizer, "hello", 64), Sampling(top_k=3)
    drawn = continuations(model, tokenizer, prompt, sampling, n=300, max_new_tokens=1)
    found = first_tokens(drawn)
    q = reshape(trace(model, tokenizer, prompt).logits[-1], sampling).probabilities
    assert sum(f.times for f in found) == 300
    assert [f.times for f in found] == sorted((f.times for f in found), reverse=True)
    for each in found:
        assert each.probability == pytest.approx(q[each.token.id], abs=1e-5)
        assert each.low <= each.share <= each.high


def test_moments_go_from_the_first_step_to_the_checkpoint(tiny_lab):
    found = moments(tiny_lab, "grpo", n=3)
    assert found[0] == "base@0"
    assert found[-3:] == ["base", "sft", "grpo"]
    assert len(found) == len(set(found)) == 6
    assert moments(tiny_lab, "base@0") == ["base@0"]
    early = moments(tiny_lab, found[2])
    assert early[-1] == found[2]
    assert spread([0, 1, 2, 4, 8, 16], 3) == [0, 2, 16]
    assert spread([3, 5], 4) == [3, 5]


@pytest.mark.parametrize(
    ("text", "chat", "said"),
    [
        ("", False, ["The text is empty"]),
        ("a plain text", False, []),
        ("two\nlines\tof text", False, []),
        ("1 " * 100, False, ["tokens longer than the 64"]),
        ("a\x00b\x1b", False, ["2 control characters"]),
        ("a\u200bb", False, ["1 control character ", "hold only part"]),
        ("🙂", False, ["tokens hold only part"]),
        ("שלום", False, ["right-to-left", "hold only part"]),
        ("<|user|>hi", False, ["`<|user|>` in the text was read letter by letter"]),
        ("<|user|>hi", True, ["read as a marker of the chat form"]),
        ("a\ud800", False, ["Half a character", "hold only part"]),
    ],
)
def test_what_is_odd_about_a_text_is_said_in_a_sentence_each(text, chat, said):
    tokenizer = tiny_tokenizer()
    prompt = read_prompt(tokenizer, text, 64, chat)
    found = notes(tokenizer, text, prompt, chat)
    assert len(found) == len(said)
    for sentence, part in zip(found, said, strict=True):
        assert part in sentence


def test_a_tokenizer_without_a_chat_form_says_so():
    tokenizer = tiny_tokenizer(bos=False)
    [sentence] = notes(tokenizer, "hi", read_prompt(tokenizer, "hi", 64, chat=True), chat=True)
    assert "no chat form" in sentence


def cost(kind: str, tokens: int, took: list[float]) -> Cost:
    return Cost(kind, tokens, Seconds.of(took), tuple(took))


def test_a_planted_power_is_the_slope_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    for power in (0.4, 1.0, 2.0):
        costs = [
            cost(kind, n, list(n**power * np.exp(rng.normal(0, 0.05, 15))))
            for n in (16, 32, 64, 128)
            for kind in KINDS
        ]
        slope = AttentionCost(tuple(costs), 0.0, KINDS).slope("eager")
        assert slope is not None
        assert slope.tokens == (32, 64, 128)
        assert slope.low <= power <= slope.high
        assert slope.high - slope.low < 0.3


def test_a_slope_by_hand_and_none_of_one_length():
    """Without spread the interval is the slope itself: 1, 2, 8 over lengths 1, 2, 4 has the slope log2(8) / 2."""
    costs = tuple(cost("eager", n, [s] * 3) for n, s in ((1, 1.0), (2, 2.0), (4, 8.0)))
    slope = AttentionCost(costs, 0.0, ("eager",)).slope("eager")
    assert slope is not None
    np.testing.assert_allclose(slope[:3], 1.5)
    assert AttentionCost(costs[:1], 0.0, ("eager",)).slope("eager") is None


def test_a_kind_is_quicker_only_where_the_bands_are_apart():
    costs = (
        cost("eager", 16, [1.0, 1.1, 1.2]), cost("sdpa", 16, [2.0, 2.1, 2.2]),
        cost("eager", 32, [1.0, 2.0, 3.0]), cost("sdpa", 32, [1.1, 2.1, 3.1]),
        cost("eager", 64, [5.0, 5.1, 5.2]), cost("sdpa", 64, [4.0, 4.1, 4.2]),
    )  # fmt: skip
    assert AttentionCost(costs, 0.0, KINDS).faster() == {16: "eager", 32: None, 64: "sdpa"}


def test_attention_that_is_sent_is_the_models_to_two_decimals(machine):
    model, tokenizer = machine
    attention = trace(model, tokenizer, read_prompt(tokenizer, TEXT, 64)).attention
    n = attention.shape[-1]
    query, key = np.tril_indices(n)
    sent = np.frombuffer(packed(attention[1, 2]), "<u2") / ONE
    assert (
        np.abs(np.round(sent, 2) - attention[1, 2, query, key]).max() <= 0.005 + 1e-5
    )  # eight bits: up to 0.007
    opacity = np.frombuffer(small(attention), np.uint8).reshape(*attention.shape[:2], -1) / 255
    np.testing.assert_allclose(opacity**2, attention[:, :, query, key], atol=1 / 255)


def test_small_pictures_of_a_long_text_hold_the_strongest_of_each_cell():
    n, side = 200, 67  # three tokens to a cell
    attention = np.tril(np.random.default_rng(0).random((2, 3, n, n), dtype=np.float32))
    opacity = np.frombuffer(small(attention), np.uint8).reshape(2, 3, side * (side + 1) // 2) / 255
    assert block(n) == 3
    assert opacity[1, 2, 0] ** 2 == pytest.approx(attention[1, 2, :3, :3].max(), abs=0.005)
    assert opacity[1, 2, -1] ** 2 == pytest.approx(attention[1, 2, 198:, 198:].max(), abs=0.005)
    assert opacity[0, 1, 1] ** 2 == pytest.approx(attention[0, 1, 3:6, :3].max(), abs=0.005)


@pytest.mark.parametrize(
    ("data", "special", "kind"),
    [
        (b"<|user|>", True, MARKERS),
        (b" 12", False, DIGITS),
        (b" the", False, LETTERS),
        ("ش".encode(), False, LETTERS),
        ("ش".encode()[:1], False, PART),
        ("🙂".encode()[1:3], False, PART),
        (b" " + "🙂".encode()[:1], False, PART),
        ("🙂".encode(), False, SIGNS),
        (b"  ", False, SPACE),
        (b"\n", False, SPACE),
        (b",", False, SIGNS),
        ("ّ".encode(), False, LETTERS),
    ],
)
def test_kinds_of_tokens_by_hand(data, special, kind):
    assert kind_of(TokenText(0, data, repr(data), special)) == kind


def test_beside_a_checkpoint_stands_the_end_of_its_own_line(tiny_lab):
    plan = Plan.of(tiny_lab)
    aside = [branch.name for branch in plan.recipe.branches]
    there = ["base", "base@0", *aside, "sft", "sft@0", "grpo"]
    assert end_of_line(plan, "base", there) == "grpo"
    assert end_of_line(plan, "base@0", ["base@0", "base", "sft", *aside]) == "sft"
    assert end_of_line(plan, "grpo", there) == "sft"
    assert end_of_line(plan, "base", ["base", "base@0"]) is None
    assert main_first(plan, there) == [a for a in there if a not in aside] + aside


def test_same_weights_are_seen_and_one_changed_bit_is_none():
    first, second = (tiny_model("llama") for _ in range(2))
    second.load_state_dict(first.state_dict())
    assert same_weights(first, second)
    prompt = read_prompt(tiny_tokenizer(), TEXT, 64)
    ours, theirs = (trace(model, tiny_tokenizer(), prompt) for model in (first, second))
    assert same_logits(ours, theirs)
    with torch.no_grad():
        second.get_input_embeddings().weight[0, 0] += 1e-3
        second.model.layers[0].mlp.down_proj.weight[0, 0] += 1.0
    assert not same_weights(first, second)
    assert not same_logits(ours, trace(second, tiny_tokenizer(), prompt))
