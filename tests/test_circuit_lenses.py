"""Direct logit attribution adds up to the model's own logits; the tuned lens says more than the logit lens."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import direct_logit_attribution

from tests.tiny_models import FAMILIES, save_tiny, tiny_model
from workbench.circuits.direct_logits import NORM_BIAS, UNEMBED_BIAS, attribute
from workbench.circuits.lens_kl import LOGIT_LENS, lens_kl
from workbench.circuits.pairs import Pairs
from workbench.circuits.tuned_lens import FILE, LensTraining, TunedLens, fit, read_layers
from workbench.errors import Failure, Misuse
from workbench.intervals import ratio_interval, ratio_intervals
from workbench.loading import load_model, load_tokenizer
from workbench.residual_writers import NotASum
from workbench.tokens import TokenSet

pytestmark = pytest.mark.usefixtures("one_thread")


def some_pairs(n: int = 5, width: int = 9, seed: int = 0) -> Pairs:
    """Random prompts of unequal length, padded on the right."""
    rng = torch.Generator().manual_seed(seed)
    clean, corrupt = (torch.randint(5, 300, (n, width), generator=rng) for _ in range(2))
    target = torch.randint(5, 150, (n,), generator=rng)
    return Pairs("random", clean, corrupt, target, target + 100, torch.arange(n) % 4 + width - 4)


def shaken(family: str, **shape: int):
    """A tiny model whose biases and gains are random too: fresh ones are 0 and 1."""
    model = tiny_model(family, **shape)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * (0.3 if name.endswith("weight") else 0.5))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_add_up_to_the_logits(family):
    """m from Hugging Face's logits of each prompt by itself, without padding."""
    model, pairs = shaken(family), some_pairs()
    found = attribute(model, pairs)
    for row, last in enumerate(pairs.last.tolist()):
        with torch.no_grad():
            logits = model(pairs.clean[row : row + 1, : last + 1]).logits[0, -1]
        m = float(logits[pairs.target[row]] - logits[pairs.foil[row]])
        assert found.m[row] == pytest.approx(m, abs=1e-4)
        assert found.contribution[:, row].sum() == pytest.approx(m, abs=1e-4)
    assert np.abs(found.residual).max() < 1e-4
    assert (NORM_BIAS in found.components) == (family in ("gpt2", "gpt_neox"))
    assert sum(name.startswith("head") for name in found.components) == 12
    corrupt = attribute(model, pairs, corrupt=True)
    assert not np.allclose(corrupt.m, found.m)


def test_a_bias_of_the_unembedding_is_a_row_of_its_own():
    model, pairs = shaken("gpt2"), some_pairs()
    bias = torch.randn(300, generator=torch.Generator().manual_seed(1))
    plain = attribute(model, pairs)
    model.lm_head.bias = torch.nn.Parameter(bias)
    found = attribute(model, pairs)
    assert found.components == (*plain.components, UNEMBED_BIAS)
    np.testing.assert_allclose(found.contribution[-1], bias[pairs.target] - bias[pairs.foil], atol=1e-6)
    np.testing.assert_allclose(found.contribution[:-1], plain.contribution, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_heads_are_those_of_transformer_lens(family, tmp_path):
    """`direct_logit_attribution` by head, which folds a bridge's weights where ours reads them raw."""
    folder, model = save_tiny(tmp_path, family), tiny_model(family)
    torch.manual_seed(3)
    with (
        torch.no_grad()
    ):  # gains, but no biases: folding counts a value's bias as the block's, ours as the head's
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    pairs = some_pairs(n=1)
    found = attribute(load_model(folder), pairs)
    bridge = TransformerBridge.boot_transformers(
        str(folder), hf_model=load_model(folder), tokenizer=load_tokenizer(folder)
    )
    bridge.enable_compatibility_mode()
    ids = pairs.clean[:, : int(pairs.last[0]) + 1]
    oracle = direct_logit_attribution(
        bridge, ids, answer_tokens=pairs.target, incorrect_tokens=pairs.foil, unit="head"
    )
    theirs = dict(zip(oracle.labels, oracle.attribution.flatten().tolist(), strict=True))
    for name, (ours,) in zip(found.components, found.contribution, strict=True):
        if name.startswith("head"):
            layer, head = name.removeprefix("head ").split(".")
            assert ours == pytest.approx(theirs[f"L{layer}H{head}"], abs=1e-4)


def test_by_hand():
    """A Llama whose blocks write nothing: m = ⟨x / rms(x) ⊙ γ, W_U[t] − W_U[f]⟩ of the embedding x alone."""
    model, pairs = shaken("llama"), some_pairs()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
    found = attribute(model, pairs)
    x = model.model.embed_tokens.weight[pairs.clean[torch.arange(5), pairs.last]].detach().double()
    u = model.lm_head.weight[pairs.target] - model.lm_head.weight[pairs.foil]
    by_hand = x / (x.pow(2).mean(-1, keepdim=True) + model.config.rms_norm_eps).sqrt() * model.model.norm.weight
    np.testing.assert_allclose(found.contribution[0], (by_hand * u).sum(-1).detach(), atol=1e-5)
    assert not found.contribution[1:].any()
    (first, *_), strongest = found.means(), found.strongest(1)[0]
    assert first == strongest
    assert first.low < first.mean < first.high
    assert "over 5 pairs; the sum of 16 direct writes misses it by at most" in found.sentence()


def test_what_does_not_add_up_is_refused():
    """Logits that are capped, and blocks that scale the stream."""
    model = shaken("llama")
    head = model.lm_head
    head.register_forward_hook(lambda module, args, out: 2 * torch.tanh(out / 2))
    with pytest.raises(NotASum, match="its head does more than a norm and an unembedding"):
        attribute(model, some_pairs())
    model = shaken("llama")
    model.model.layers[1].register_forward_hook(lambda module, args, out: out * 1.1)
    with pytest.raises(NotASum, match="misses the stream"):
        attribute(model, some_pairs())


def test_intervals_of_many_are_those_of_each():
    rng = np.random.default_rng(0)
    values, weights = rng.random((7, 3)), rng.random(7)
    for column, ends in zip(values.T, ratio_intervals(values, weights), strict=True):
        assert tuple(ends) == pytest.approx(ratio_interval(column, weights))
    assert np.isnan(ratio_intervals(values[:1], weights[:1])).all()


@pytest.fixture(scope="module")
def token_sets(tmp_path_factory):
    """Two sets of random ids: 40 documents of 1 or 2 windows each."""
    folder = tmp_path_factory.mktemp("tokens")
    rng = np.random.default_rng(0)
    (folder / "sets.json").write_text(json.dumps({"bos": 1, "pad": 0, "n_ctx": 64}))
    for name in ("dictionary", "heldout"):
        lengths = rng.integers(5, 40, 60)
        documents = np.sort(np.concatenate([np.arange(40), rng.integers(0, 40, 20)]))
        arrays = {
            "tokens": rng.integers(5, 60, lengths.sum()).astype(np.int32),
            "document": np.repeat(documents, lengths).astype(np.int32),
            "position": np.concatenate([np.arange(1, n + 1) for n in lengths]).astype(np.int32),
            "special": np.zeros(lengths.sum(), bool),
        }
        for what, array in arrays.items():
            np.save(folder / f"{name}-{what}.npy", array)
    return SimpleNamespace(dictionary=TokenSet(folder, "dictionary"), heldout=TokenSet(folder, "heldout"))


TRAINING = LensTraining(start_tokens=600, tokens=1_500, tokens_per_step=128)


@pytest.fixture(scope="module")
def lens(token_sets):
    return fit(shaken("gpt_neox"), token_sets.dictionary, TRAINING)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_the_untuned_lens_is_the_logit_lens(family, token_sets):
    """Against softmax(unembed(norm(hidden state))) of Hugging Face's own hidden states; the last row is 0."""
    model = shaken(family)
    found = lens_kl(model, token_sets.heldout, {"none": TunedLens.logit_lens(3, 32)}, tokens=300)
    for plain, same in zip(found.by_layer(LOGIT_LENS), found.by_layer("none"), strict=True):
        assert plain == same
    assert found.by_layer(LOGIT_LENS)[-1].kl == pytest.approx(0, abs=1e-6)
    total, n = np.zeros(3), 0
    for batch in token_sets.heldout.batches(64, token_sets.heldout.sample_windows(300, 0)):
        for ids, real in zip(batch.ids, batch.real, strict=True):
            with torch.no_grad():
                out = model(torch.from_numpy(ids[: real.sum() + 1])[None], output_hidden_states=True)
                for row, hidden in enumerate(out.hidden_states[:3]):
                    norm = model.base_model.norm if family == "llama" else model.base_model.final_layer_norm
                    log_q = model.get_output_embeddings()(norm(hidden)).log_softmax(-1)
                    p = torch.distributions.Categorical(logits=out.logits)
                    q = torch.distributions.Categorical(logits=log_q)
                    total[row] += float(torch.distributions.kl_divergence(p, q)[0, 1:].sum())
            n += int(real.sum())
    np.testing.assert_allclose([each.kl for each in found.by_layer(LOGIT_LENS)[:3]], total / n, rtol=1e-4)
    assert found.by_layer(LOGIT_LENS)[0].tokens == n


def test_a_tuned_lens_says_more_on_held_out_text(token_sets, lens):
    """And leaves the model as it was."""
    model = shaken("gpt_neox")
    found = lens_kl(model, token_sets.heldout, {"own": lens})
    for plain, own in zip(found.by_layer(LOGIT_LENS)[:3], found.by_layer("own")[:3], strict=True):
        assert own.kl < plain.kl
        assert own.low < own.kl < own.high
    assert all(gap.high < 0 for gap in found.above("own", LOGIT_LENS)[:3])
    assert all(each == (each.row, 0, 0, 0, each.tokens, each.documents) for each in found.above("own", "own"))
    start = dict(shaken("gpt_neox").named_parameters())
    again = fit(model, token_sets.dictionary, TRAINING)
    torch.testing.assert_close(again.weight, lens.weight)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, start[name], rtol=0, atol=0)
        assert parameter.grad is None


def test_training_goes_on_from_the_regression(token_sets, lens):
    """Where a later stream is an affine map of an earlier one the regression finds it; KL then falls further."""
    model = shaken("llama", n_layers=1)
    with torch.no_grad():  # the block writes a constant: x_final = x + c
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, out: out + torch.arange(32) / 10)
    found = fit(model, token_sets.dictionary, LensTraining(start_tokens=600, tokens=0))
    assert float(found.weight.abs().max()) < 1e-4
    torch.testing.assert_close(found.bias[0], torch.arange(32) / 10, atol=1e-3, rtol=0)
    started = fit(shaken("gpt_neox"), token_sets.dictionary, LensTraining(start_tokens=600, tokens=0))
    both = lens_kl(shaken("gpt_neox"), token_sets.heldout, {"own": lens, "start": started})
    gaps = both.above("own", "start")
    assert gaps[0].high < 0
    assert sum(gap.kl for gap in gaps) < 0


def test_a_lens_on_another_checkpoint(token_sets, lens):
    """Drift: read through the earlier lens a changed model is farther off than through its own."""
    model = shaken("gpt_neox")
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.gpt_neox.layers.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    own = fit(model, token_sets.dictionary, TRAINING)
    found = lens_kl(model, token_sets.heldout, {"own": own, "earlier": lens})
    assert max(gap.low for gap in found.above("earlier", "own")) > 0
    with pytest.raises(Misuse, match=r"fitted on 3 layers of width 32, and .* has 2"):
        lens.checked_for(tiny_model("gpt_neox", n_layers=2))


def test_a_lens_is_kept(tmp_path, token_sets, lens):
    lens.save(tmp_path)
    again = TunedLens.load(tmp_path)
    torch.testing.assert_close(again.weight, lens.weight, rtol=0, atol=0)
    torch.testing.assert_close(again.bias, lens.bias, rtol=0, atol=0)
    TunedLens(lens.weight * torch.nan, lens.bias).save(tmp_path)
    with pytest.raises(Failure, match="expected finite numbers"):
        TunedLens.load(tmp_path)
    (tmp_path / FILE).write_bytes(b"cut")
    with pytest.raises(Failure, match="fit it again"):
        TunedLens.load(tmp_path)


def test_batches_are_read_at_real_tokens_only(token_sets):
    model = shaken("llama")
    batch = next(iter(token_sets.heldout.batches(200)))
    streams, log_p = read_layers(model, batch)
    assert len(streams) == 4
    assert len(log_p) == len(streams[0]) == batch.real.sum()
    x = model.model.embed_tokens.weight[torch.from_numpy(batch.ids[:, 1:][batch.real])]
    torch.testing.assert_close(streams[0], x.detach())
