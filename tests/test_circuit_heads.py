"""Head scores against TransformerLens' and a head planted by hand; heads and copying along a lineage."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
import transformers as hf
from transformer_lens.head_detector import detect_head
from transformer_lens.model_bridge import TransformerBridge

from tests.test_circuit_lenses import some_pairs
from tests.tiny_lab import draft, make_lab, moved, tiny_recipe
from tests.tiny_models import FAMILIES, save_tiny, tiny_model, tiny_tokenizer
from workbench.circuits.heads import (
    DUPLICATE,
    INDUCTION,
    KINDS,
    PREVIOUS,
    detection,
    last_attention,
    patterns,
    repeated_ids,
    score_heads,
    shares,
    uniform,
)
from workbench.circuits.phase_change import history, repeat_loss, risen
from workbench.errors import Failure, Misuse
from workbench.loading import load_model, load_tokenizer
from workbench.step_axis import Moment

THEIRS = {PREVIOUS: "previous_token_head", DUPLICATE: "duplicate_token_head", INDUCTION: "induction_head"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_scores_are_those_of_detect_head(family, tmp_path):
    """On letters that the tokenizer keeps apart, said twice; BOS in front where TransformerLens puts it."""
    folder = save_tiny(tmp_path, family)
    bridge = TransformerBridge.boot_transformers(
        str(folder), hf_model=load_model(folder), tokenizer=load_tokenizer(folder)
    )
    rng = np.random.default_rng(0)
    halves = ["".join(rng.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 12, replace=False)) for _ in range(3)]
    texts = [half * 2 for half in halves]
    ids = torch.cat([bridge.to_tokens(text) for text in texts])
    assert ids.shape[1] in (24, 25)
    found = score_heads(load_model(folder), ids)
    for kind, theirs in THEIRS.items():
        oracle = detect_head(bridge, texts, theirs, exclude_bos=True, error_measure="mul")
        ours = found.score[KINDS.index(kind)].mean(axis=-1)
        np.testing.assert_allclose(ours, oracle, atol=1e-5)
    _, cache = bridge.run_with_cache(ids)
    for layer, pattern in enumerate(patterns(load_model(folder), ids)):
        torch.testing.assert_close(pattern, cache["pattern", layer, "attn"], atol=1e-5, rtol=0)


def test_by_hand():
    """Five tokens, the first BOS: 7 8 7 8. The third follows no copy; the fourth copies the second, …"""
    previous, duplicate, induction = detection(torch.tensor([[1, 7, 8, 7, 8]]))[:, 0]
    assert previous.nonzero().tolist() == [[1, 0], [2, 1], [3, 2], [4, 3]]
    assert duplicate.nonzero().tolist() == [[3, 1], [4, 2]]
    assert induction.nonzero().tolist() == [[3, 2], [4, 3]]
    attention = uniform(5).expand(1, 1, 1, 5, 5)
    found = shares(attention, detection(torch.tensor([[1, 7, 8, 7, 8]])))[:, 0, 0, 0]
    without_bos = 1 / 2 + 2 / 3 + 3 / 4 + 4 / 5
    expected = torch.tensor([1 / 3 + 1 / 4 + 1 / 5, 1 / 4 + 1 / 5, 1 / 4 + 1 / 5]) / without_bos
    torch.testing.assert_close(found, expected)


VOCAB, PLACES = 20, 24


def planted() -> hf.PreTrainedModel:
    """Two layers of one head each, written by hand: head 0.0 attends to the previous place and copies its token
    beside the present one; head 1.0 looks for places beside which the present token was put, and says theirs.

    The stream is [token | place | token before]; norms only scale it (a one-hot in each of the first two parts).
    """
    d = VOCAB + PLACES + VOCAB
    config = hf.GPT2Config(vocab_size=VOCAB, n_positions=PLACES, n_embd=d, n_layer=2, n_head=1)
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    token, place, before = slice(0, VOCAB), slice(VOCAB, VOCAB + PLACES), slice(VOCAB + PLACES, d)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" not in name:
                parameter.zero_()
        model.transformer.wte.weight[:, token] = torch.eye(VOCAB)
        model.transformer.wpe.weight[:, place] = torch.eye(PLACES)
        first, second = (block.attn for block in model.transformer.h)
        q, k, v = (slice(i * d, (i + 1) * d) for i in range(3))
        # Conv1D: [from, to]
        first.c_attn.weight[place, q][:, place] = 8 * torch.eye(PLACES)
        first.c_attn.weight[place, k][:, place] = 8 * torch.eye(PLACES).roll(1, dims=1)
        first.c_attn.weight[token, v][:, token] = torch.eye(VOCAB)
        first.c_proj.weight[token, before] = torch.eye(VOCAB)
        second.c_attn.weight[token, q][:, token] = 8 * torch.eye(VOCAB)
        second.c_attn.weight[before, k][:, token] = 8 * torch.eye(VOCAB)
        second.c_attn.weight[token, v][:, token] = torch.eye(VOCAB)
        second.c_proj.weight[token, token] = 4 * torch.eye(VOCAB)
    return model


def planted_ids(n: int = 8, length: int = 10) -> torch.Tensor:
    """BOS is id 0."""
    rng = torch.Generator().manual_seed(0)
    half = torch.stack([torch.randperm(VOCAB - 1, generator=rng)[:length] for _ in range(n)])
    return torch.cat([torch.zeros(n, 1, dtype=torch.long), half + 1, half + 1], dim=1)


def test_planted_heads_are_found():
    """The one previous-token head, the one induction head, and copying; none of it in a model without the first."""
    model, ids = planted(), planted_ids()
    found = score_heads(model, ids)
    (previous, *_), (induction, *_) = found.strongest(PREVIOUS), found.strongest(INDUCTION)
    assert (previous.layer, previous.head, induction.layer, induction.head) == (0, 0, 1, 0)
    assert previous.score > 0.9
    # the first time nothing is found, and attention is even
    assert induction.score > 0.5
    for each in (previous, induction):
        assert 0 < each.null < 0.2 < each.low <= each.score <= each.high
    loss = repeat_loss(model, ids)
    assert loss.copying.min() > 1
    with torch.no_grad():
        model.transformer.h[0].attn.c_proj.weight.zero_()
    without = score_heads(model, ids)
    assert without.strongest(INDUCTION)[0].score < 0.2
    np.testing.assert_allclose(without.score[0, 0], found.score[0, 0])
    assert repeat_loss(model, ids).copying.max() < loss.copying.min()


def test_a_head_that_attends_evenly_scores_its_null():
    """And copying is nothing without a context: the two losses are those of the same predictions."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight.zero_()
            block.attn.c_attn.bias.zero_()
            block.attn.c_proj.bias.zero_()
        model.transformer.wpe.weight.zero_()
    ids = repeated_ids(tiny_tokenizer(), 64, n=4)
    found = score_heads(model, ids)
    np.testing.assert_allclose(
        found.score, np.broadcast_to(found.null[:, None, None], found.score.shape), atol=1e-6
    )
    places = torch.arange(1, ids.shape[1] + 1)
    np.testing.assert_allclose(found.attending, float((1 - 1 / places).mean()), atol=1e-6)
    np.testing.assert_allclose(repeat_loss(model, ids).copying, 0, atol=1e-5)


def test_repeated_ids_are_ordinary_and_said_twice():
    with_bos, without = (repeated_ids(tiny_tokenizer(bos=bos), 64, n=6) for bos in (True, False))
    assert with_bos.shape == (6, 63)
    assert (with_bos[:, 0] == 1).all()
    assert without.shape == (6, 62)
    for ids in (with_bos[:, 1:], without):
        first, second = ids.split(31, dim=1)
        assert torch.equal(first, second)
        assert int(ids.min()) > 4
        assert all(len(row.unique()) == 31 for row in first)
    assert torch.equal(with_bos, repeated_ids(tiny_tokenizer(), 64, n=6))
    assert not torch.equal(with_bos, repeated_ids(tiny_tokenizer(), 64, n=6, seed=1))
    with pytest.raises(Misuse, match="cannot be shown a repeated sequence"):
        repeated_ids(tiny_tokenizer(), 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_of_the_last_token(family):
    """Against Hugging Face's on each prompt by itself; a mean over places only where these mean the same."""
    model, pairs = tiny_model(family), some_pairs()
    found = last_attention(model, pairs)
    for row, last in enumerate(pairs.last.tolist()):
        with torch.no_grad():
            own = model(pairs.clean[row : row + 1, : last + 1], output_attentions=True).attentions
        np.testing.assert_allclose(found.attention[:, :, row, : last + 1], torch.cat(own)[:, :, -1], atol=1e-5)
        assert not found.attention[:, :, row, last + 1 :].any()
    with pytest.raises(Misuse, match="have 6 to 9 tokens"):
        found.mean()
    even = dataclasses.replace(pairs, last=torch.full((5,), 7))
    found = last_attention(model, even)
    low, high = np.moveaxis(found.interval(), -1, 0)
    np.testing.assert_allclose(found.mean().sum(axis=-1), 1, atol=1e-5)
    assert (low <= found.mean() + 1e-6).all()
    assert (found.mean() <= high + 1e-6).all()


def test_fused_attention_is_refused_in_a_sentence():
    model = tiny_model("llama")
    model.set_attn_implementation("sdpa")
    with pytest.raises(Failure, match="gives no attention patterns"):
        patterns(model, torch.arange(5, 9)[None])


def test_risen_by_hand():
    """Half way from 0.1 to 0.9 is 0.5, reached at step 2; a curve that stays beside its null has not risen."""
    on = [Moment("base", step, step, float(step), step == 4) for step in (0, 1, 2, 4)]
    curve = np.array([0.1, 0.4, 0.5, 0.9])[:, None].repeat(6, axis=1)
    found = risen(on, curve, 0.1)
    assert found == (on[2], 0.9, pytest.approx(0.9), pytest.approx(0.9), on[3], 0.9)
    assert found.sentence("it") == "it rises at base@2: largest 0.900 [0.900, 0.900] at base, 0.900 at the end"
    flat = risen(on, curve / 10 + 0.09, 0.1)
    assert flat.moment is None
    assert flat.sentence("it").startswith("it does not rise: largest 0.180")


def test_a_lineage_is_read_model_by_model(tmp_path):
    """Each moment is its checkpoint read by itself, on one axis through base and sft."""
    lab = make_lab(tmp_path, "tiny", tiny_recipe())
    for name in ("base", "sft"):
        before, again = lab.find("checkpoint", name), draft(lab, "checkpoint", name)
        shutil.copytree(before.path, again.path, dirs_exist_ok=True)
        for step in (0, 8):
            model = moved(lab.checkpoint(name).model(), 1.0)
            model.save_pretrained(again.path / "snapshots" / f"step-{step:06d}")
        again.commit({})
    seen = []
    found = history(lab, ["base", "sft"], n=3, report=seen.append)
    assert seen == found.moments
    addresses = [moment.address for moment in found.moments]
    assert addresses == ["base@0", "base@8", "base", "sft@8", "sft"]
    base = lab.checkpoint("base")
    ids = repeated_ids(base.tokenizer(), base.n_ctx, 3)
    for at, address in enumerate(addresses):
        model = lab.checkpoint(address).model()
        np.testing.assert_allclose(found.heads[at].score, score_heads(model, ids).score)
        np.testing.assert_allclose(found.losses[at].copying, repeat_loss(model, ids).copying)
    heads = found.heads[0].score.shape[1] * found.heads[0].score.shape[2]
    table, losses = found.head_table(), found.loss_table()
    assert table.height == len(addresses) * len(KINDS) * heads
    assert losses["axis"].is_sorted()
    np.testing.assert_allclose(losses["first"] - losses["second"], losses["copying"], atol=1e-12)
    assert len(found.sentences()) == len(KINDS) + 1
