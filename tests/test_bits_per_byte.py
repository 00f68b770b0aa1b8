"""Strided scoring: every token once, with the context that the docstring promises, on any causal model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from workbench import ngrams
from workbench.bits_per_byte import bits_per_byte, model_nats, windows_of

BOS, VOCAB = 1, 40
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}


def _model(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
        "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE)),
    }[family]()
    return model.requires_grad_(False)


def _documents(sizes: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.append(BOS, rng.integers(2, VOCAB, size)) for size in sizes]


@pytest.mark.parametrize("n_ids", [0, 1, 6, 7, 8, 9, 40, 41])
@pytest.mark.parametrize("stride", [1, 3, 4, 7])
def test_every_id_is_new_exactly_once_and_has_its_context(n_ids, stride):
    n_ctx = 8
    times = np.zeros(n_ids, dtype=int)
    for w in windows_of(0, n_ids, n_ctx - 1, stride):
        assert w.stop - w.start <= n_ctx - 1
        first_new = w.stop - w.n_new
        assert first_new - w.start + 1 >= min(n_ctx - stride, first_new + 1)  # + 1: the BOS
        times[first_new : w.stop] += 1
    np.testing.assert_array_equal(times, 1)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_equals_one_forward_pass_a_token(family):
    model, documents, n_ctx, stride = _model(family), _documents([3, 30, 0, 11, 7, 8]), 8, 4
    found = model_nats(model, documents, n_ctx, bos_id=BOS, batch=3)
    for document, ours in zip(documents, found, strict=True):
        text = document[1:]
        assert len(ours) == len(text)
        for i, token in enumerate(text):
            later = max(0, math.ceil((i + 1 - (n_ctx - 1)) / stride))  # windows after the first
            stop = min(n_ctx - 1 + later * stride, len(text))
            seen = text[max(0, stop - (n_ctx - 1)) : i]
            logits = model(torch.tensor([[BOS, *seen]])).logits[0, -1].double()
            assert ours[i] == pytest.approx(-float(logits.log_softmax(-1)[token]), abs=1e-5)


def test_batch_size_and_training_mode_change_nothing():
    model, documents = _model("llama").train(), _documents([30, 5, 17, 9])
    one, many = (model_nats(model, documents, 8, batch=b) for b in (1, 64))
    assert model.training
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_covers_the_same_tokens_as_the_ngrams():
    documents = _documents([30, 0, 1, 17])
    ours = model_nats(_model("llama"), documents, 8)
    theirs = ngrams.nats(ngrams.fit(documents, VOCAB, 3), documents)
    assert [len(n) for n in ours] == [len(n) for n in theirs]


def test_bits_per_byte_sums_first_and_divides_once():
    nats = [np.full(8, math.log(2)), np.full(2, 4 * math.log(2))]
    found = bits_per_byte(nats, [4, 12])
    assert found.mean == pytest.approx(16 / 16)
    assert found.low <= found.mean <= found.high
    assert found.n == 2
    same = bits_per_byte([nats[0]] * 5, [4] * 5)
    assert same.low == same.high == pytest.approx(2.0)
    with pytest.raises(ValueError, match="2 documents were scored but 1"):
        bits_per_byte(nats, [4])


def test_a_stride_that_leaves_no_context_is_refused():
    with pytest.raises(ValueError, match="stride"):
        model_nats(_model("llama"), _documents([3]), 8, stride=8)
