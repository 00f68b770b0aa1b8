"""The trace of a prompt: equal to Hugging Face in every family, lossless tokens, exact sampling."""

from __future__ import annotations

import dataclasses
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.generation import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.tiny_models import save_tiny, tiny_model, tiny_tokenizer
from workbench.encoding import reading
from workbench.errors import Failure, Misuse
from workbench.loading import load_model
from workbench.prompt import as_chat, read_prompt
from workbench.sampling import KEPT, Sampling, continuations, reshape
from workbench.trace import candidates, divergence, n_kept, trace
from workbench.vocabulary import Vocabulary, read, shown

TEXT = "héllo  world\n\x00 🙂\u202e this is <b>a</b> test"


pytestmark = pytest.mark.usefixtures("one_thread")


def test_trace_equals_hugging_face(machine):
    model, tokenizer = machine
    prompt = read_prompt(tokenizer, TEXT, 64)
    traced = trace(model, tokenizer, prompt, top=5)
    with torch.no_grad():
        out = model(torch.tensor([prompt.ids]), output_hidden_states=True, output_attentions=True)
    p = out.logits[0].softmax(-1)
    np.testing.assert_allclose(traced.logits, out.logits[0], atol=1e-5)
    for row in range(len(traced.attention)):  # HF's last one is normed, in some families: left out
        np.testing.assert_allclose(traced.resid[row], out.hidden_states[row][0], atol=1e-5)
    np.testing.assert_allclose(traced.attention, torch.cat(out.attentions), atol=1e-6)
    # the last row of the lens is the model's own prediction
    np.testing.assert_allclose(traced.lens.top_probabilities[-1], p.topk(5).values, atol=1e-5)
    assert (traced.lens.top_ids[-1] == p.topk(5).indices.numpy()).all()
    np.testing.assert_allclose(traced.lens.entropy[-1], torch.distributions.Categorical(p).entropy(), atol=1e-4)


def test_rank_is_that_of_the_token_that_follows(machine):
    model, tokenizer = machine
    prompt = read_prompt(tokenizer, TEXT, 64)
    lens = trace(model, tokenizer, prompt, top=300).lens
    assert (lens.rank[:, -1] == -1).all()
    assert np.isnan(lens.next_probability[:, -1]).all()
    for row in range(len(lens.rows)):
        for position, following in enumerate(prompt.ids[1:]):
            place = lens.top_ids[row, position].tolist().index(following)
            assert lens.rank[row, position] == place
            assert lens.next_probability[row, position] == pytest.approx(
                lens.top_probabilities[row, position, place], abs=1e-6
            )


def test_attention_rows_sum_to_one_and_look_back_only(machine):
    model, tokenizer = machine
    attention = trace(model, tokenizer, read_prompt(tokenizer, TEXT, 64)).attention
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)
    assert np.triu(attention, k=1).max() == 0


def test_greedy_equals_generate(machine):
    model, tokenizer = machine
    prompt = read_prompt(tokenizer, "hello", 64)
    ours = continuations(model, tokenizer, prompt, Sampling(temperature=0.0), n=3, max_new_tokens=12)
    ids = torch.tensor([prompt.ids])
    theirs = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
    assert [[t.id for t in sample.tokens] for sample in ours] == [theirs[0, ids.shape[1] :].tolist()]
    assert ours[0].log_q == pytest.approx(0)


def test_model_is_left_as_it_was(llama):
    model, tokenizer = llama
    trace(model, tokenizer, read_prompt(tokenizer, TEXT, 64))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_sampling_is_seeded_and_drawn_from_what_is_shown(llama):
    model, tokenizer = llama
    prompt, sampling = read_prompt(tokenizer, "hello", 64), Sampling(temperature=0.7, top_k=3)
    before = torch.get_rng_state()
    one, same, other = (
        continuations(model, tokenizer, prompt, sampling, n=400, max_new_tokens=2, seed=seed)
        for seed in (1, 1, 2)
    )
    assert [s.tokens for s in one] == [s.tokens for s in same]
    assert [s.tokens for s in one] != [s.tokens for s in other]
    assert torch.equal(before, torch.get_rng_state())
    best = candidates(trace(model, tokenizer, prompt), tokenizer, sampling=sampling, top=5)
    assert [c.cut_by == KEPT for c in best] == [True] * 3 + [False] * 2
    drawn = [s.tokens[0].id for s in one]
    for candidate in best:
        error = np.sqrt(candidate.reshaped * (1 - candidate.reshaped) / len(drawn))
        assert abs(drawn.count(candidate.id) / len(drawn) - candidate.reshaped) <= 4 * error
    first = {c.id: c for c in best}[drawn[0]]
    assert one[0].log_p[0] == pytest.approx(np.log(first.probability), abs=1e-4)
    assert one[0].log_q[0] == pytest.approx(np.log(first.reshaped), abs=1e-4)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(0.5),
        Sampling(1.3, top_k=7),
        Sampling(top_p=0.8),
        Sampling(min_p=0.1),
        Sampling(0.8, top_k=50, top_p=0.9, min_p=0.02),
        Sampling(top_p=1e-6),
        Sampling(top_k=10_000),
    ],
)
def test_reshape_equals_transformers(sampling):
    logits = np.random.default_rng(0).normal(size=(5, 200)) * 3
    scores = TemperatureLogitsWarper(sampling.temperature)(None, torch.tensor(logits))
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    scores = MinPLogitsWarper(sampling.min_p)(None, scores)
    ours = reshape(logits, sampling)
    np.testing.assert_allclose(ours.probabilities, scores.softmax(-1), atol=1e-12)
    assert ((ours.cut_by == KEPT) == torch.isfinite(scores).numpy()).all()


def test_reshape_by_hand():
    logits = np.log([0.5, 0.25, 0.15, 0.1])
    assert reshape(logits, Sampling(0.0)).probabilities.tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(reshape(logits, Sampling(top_k=2)).probabilities, [2 / 3, 1 / 3, 0, 0])
    np.testing.assert_allclose(reshape(logits, Sampling(top_p=0.7)).probabilities, [2 / 3, 1 / 3, 0, 0])
    assert reshape(logits, Sampling(min_p=0.25)).cut_by.tolist() == [0, 0, 0, 3]


@pytest.mark.parametrize(
    "bad", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}]
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(Misuse, match=next(iter(bad))):
        Sampling(**bad)


def test_shown_tokens_can_be_read_back():
    for data in (
        *(bytes([b]) for b in range(256)),
        b" a\n\t",
        "⟨␣⟩·🙂é\u200d".encode(),
        os.urandom(200),
        b"\xf0\x9f",
    ):
        assert read(shown(data)) == data
        assert all(char.isprintable() and char not in " \n" for char in shown(data).split("⟨")[0])
    assert shown(b" a\n\xf0\x9f") == "␣a↵⟨F0 9F⟩"


def test_tokens_of_a_prompt_join_to_its_bytes():
    tokenizer = tiny_tokenizer()
    tokens = read_prompt(tokenizer, TEXT + "<|user|>", 640).tokens
    assert b"".join(t.data for t in tokens if not t.special) == (TEXT + "<|user|>").encode()
    assert [t.shown for t in tokens if t.special] == ["<|bos|>"]


def test_sentencepiece_tokens_are_bytes_too():
    words = ["<unk>", "<0x0A>", "<0xF0>", "▁hello", "x"]
    backend = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))
    assert [vocabulary[i].data for i in range(1, 5)] == [b"\n", b"\xf0", b" hello", b"x"]
    assert vocabulary[99].shown == "⟨id 99⟩"


def test_chat_template_and_markers(llama):
    _, tokenizer = llama
    assert as_chat(tokenizer, "hi") == "<|bos|><|user|>hi<|assistant|>"
    assert [t.shown for t in read_prompt(tokenizer, "2", 64, chat=True).tokens] == [
        "<|bos|>",
        "<|user|>",
        "2",
        "<|assistant|>",
    ]
    assert [t.id for t in read_prompt(tokenizer, "<|end|>", 64, markers=True).tokens] == [1, 4]
    assert as_chat(tiny_tokenizer(bos=False), "hi") == "hi"


def test_empty_prompt(llama):
    model, tokenizer = llama
    traced = trace(model, tokenizer, read_prompt(tokenizer, "", 64))
    assert traced.attention.shape == (3, 4, 1, 1)
    assert len(continuations(model, tokenizer, traced.prompt, Sampling(), n=2, max_new_tokens=3)) == 2
    with pytest.raises(Misuse, match="empty"):
        read_prompt(tiny_tokenizer(bos=False), "", 64)


def test_long_prompt_keeps_its_end_and_says_so(llama):
    model, tokenizer = llama
    prompt = read_prompt(tokenizer, "1 " * 100 + "end", 64)
    whole = read_prompt(tokenizer, "1 " * 100 + "end", 512)
    assert len(prompt.ids) == 64
    assert prompt.ids[0] == tokenizer.bos_token_id
    assert prompt.ids[1:] == whole.ids[-63:]
    assert prompt.n_cut == len(whole.ids) - 64
    assert str(prompt.n_cut) in prompt.note
    assert whole.note == ""
    trace(model, tokenizer, prompt)
    with pytest.raises(Misuse, match="fills the context of 64"):
        continuations(model, tokenizer, prompt, Sampling())


def test_lone_surrogates_are_read(llama):
    _, tokenizer = llama
    assert read_prompt(tokenizer, "a\ud800", 64).tokens[-1].shown


def test_divergence(llama):
    model, tokenizer = llama
    prompt = read_prompt(tokenizer, TEXT, 64)
    one, other = (trace(m, tokenizer, prompt) for m in (model, tiny_model("llama", seed=1)))
    np.testing.assert_allclose(divergence(one, one), 0)
    p, q = (torch.tensor(t.logits).log_softmax(-1) for t in (one, other))
    kl = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    np.testing.assert_allclose(divergence(one, other), kl, rtol=1e-3)
    with pytest.raises(Misuse, match="different tokens"):
        divergence(one, trace(model, tokenizer, read_prompt(tokenizer, "x", 64)))
    wider = dataclasses.replace(other, logits=np.pad(other.logits, ((0, 0), (0, 4))))
    with pytest.raises(Misuse, match="300 ids and the other to 304"):
        divergence(one, wider)


@pytest.mark.parametrize("family", ["qwen3_5_text", "qwen3_next"])
def test_a_model_that_attends_in_some_blocks_only_is_refused(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    prompt = read_prompt(tokenizer, TEXT, 64)
    with pytest.raises(Failure, match="attends in 1 of 3 blocks only"):
        trace(model, tokenizer, prompt)
    with pytest.raises(Failure, match="cannot continue its texts"):
        continuations(model, tokenizer, prompt, Sampling())


def test_what_rounds_to_nothing_is_not_left_to_draw_from():
    assert reshape(np.array([0.0, 1.0, -2000.0]), Sampling()).n_kept == 2
    assert reshape(np.array([0.0, 1.0, -2000.0]), Sampling(top_k=1)).n_kept == 1


def test_two_threads_read_one_tokenizer_each_its_own_way():
    """Markers are tokens or letters by a flag of the tokenizer, not of the call: the second thread waits."""
    tokenizer, text = tiny_tokenizer(bos=False), "<|user|>hello <|end|>"
    plain, marked = (read_prompt(tokenizer, text, 64, markers=markers).ids for markers in (False, True))
    assert plain != marked
    with ThreadPoolExecutor(1) as pool:
        with reading(tokenizer, markers=False) as backend:
            other = pool.submit(read_prompt, tokenizer, text, 64, markers=True)
            with pytest.raises(TimeoutError):
                other.result(timeout=0.2)
            assert tuple(backend.encode(text, add_special_tokens=False).ids) == plain
        assert other.result().ids == marked
    assert not tokenizer.backend_tokenizer.encode_special_tokens  # left as it was


def test_broken_weights_and_foreign_tokenizers_are_told(tmp_path):
    model, tokenizer = load_model(save_tiny(tmp_path)), tiny_tokenizer()
    prompt = read_prompt(tokenizer, "hello", 64)
    model.resize_token_embeddings(max(prompt.ids))
    with pytest.raises(Failure, match="not its own"):
        trace(model, tokenizer, prompt)
    model = load_model(tmp_path)
    model.model.norm.weight.data[0] = torch.nan
    with pytest.raises(Failure, match="not finite"):
        trace(model, tokenizer, prompt)


def test_sixty_four_tokens_of_a_demo_sized_model_are_quick(tmp_path):
    model = load_model(save_tiny(tmp_path, n_layers=4, d_model=128, n_ctx=128))
    tokenizer = tiny_tokenizer()
    prompt = read_prompt(tokenizer, "1 " * 100, 64)
    seconds = []
    for _ in range(5):
        began = time.process_time()
        traced = trace(model, tokenizer, prompt)
        seconds.append(time.process_time() - began)
    assert len(prompt.ids) == 64
    assert n_kept(traced, Sampling(top_k=9)) == 9
    assert min(seconds) < 0.3
