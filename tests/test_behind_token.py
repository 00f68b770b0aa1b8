"""Behind one token: shares of latents that add up to the stream, neurons that add up to the MLP."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny_models import FAMILIES, tiny_model, tiny_tokenizer
from workbench.behind_token import latents_on, neurons_on, saes_of
from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.neurons import mlp_output, output_weight
from workbench.prompt import read_prompt
from workbench.site import centres, decoder_layers, final_norm, gain_of
from workbench.trace import trace

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_are_all_that_an_mlp_writes(family):
    """Σ h w + b is the MLP's own output; sizes are |h| ‖w‖, the largest first; what they promote is the head's."""
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    ids, position = read_prompt(tokenizer, "hello this is a test", 64).ids, 4
    written: list[torch.Tensor] = []
    mlps = [getattr(layer, "mlp", None) for layer in decoder_layers(model)]
    hooks = [m.register_forward_hook(lambda m, i, out: written.append(out)) for m in mlps]
    with torch.no_grad():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    found = neurons_on(model, ids, position, top=10_000)
    assert [each.layer for each in found] == list(range(model.config.num_hidden_layers))
    for each, out, layer in zip(found, written, decoder_layers(model), strict=True):
        last = mlp_output(layer)
        weight, bias = output_weight(last), getattr(last, "bias", None)
        made = weight[:, each.ids] @ torch.from_numpy(each.activations)
        made = made if bias is None else made + bias.detach()
        np.testing.assert_allclose(made, out[0, position], atol=1e-4)
        np.testing.assert_allclose(
            each.sizes,
            np.abs(each.activations) * np.linalg.norm(weight.numpy()[:, each.ids], axis=0),
            rtol=1e-4,
        )
        assert (np.diff(each.sizes) <= 0).all()
        assert each.share == pytest.approx(1, abs=1e-5)
    few = neurons_on(model, ids, position, top=3)[1]
    np.testing.assert_array_equal(few.ids, found[1].ids[:3])
    assert few.share == pytest.approx(float(found[1].sizes[:3].sum() / found[1].sizes.sum()), rel=1e-5)
    write = output_weight(mlp_output(decoder_layers(model)[1]))[:, few.ids[0]] * few.activations[0]
    if "LayerNorm" in type(final_norm(model)).__name__:
        write = write - write.mean()
    logits = (write * final_norm(model).weight.detach()) @ model.get_output_embeddings().weight.detach().T
    np.testing.assert_allclose(few.logits[0], logits.topk(len(few.logits[0])).values, rtol=1e-3, atol=1e-6)
    assert few.promoted[0].tolist() == logits.topk(len(few.logits[0])).indices.tolist()


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_a_mixture_of_experts_has_no_neurons_to_read(family):
    model = tiny_model(family)
    with pytest.raises(Misuse, match="mixture of experts"):
        neurons_on(model, (1, 5, 6), 2)


def test_a_matrix_that_does_not_write_what_the_mlp_reads_is_none():
    layer = torch.nn.Module()
    layer.mlp = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4))
    with pytest.raises(Misuse, match="no MLP that Marble knows"):
        mlp_output(layer)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gemma4_text", "qwen3_next", "nemotron", "olmo"])
def test_a_gain_is_what_the_norm_multiplies_by(family):
    """norm(x) − β = γ ⊙ (x − x̄) / scale, whether the family stores γ, γ − 1 or nothing."""
    norm = final_norm(tiny_model(family))
    generator = torch.Generator().manual_seed(0)
    for parameter in norm.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    x = 100 * torch.randn(32, generator=generator)
    with torch.no_grad():
        written = norm(x[None])[0] - norm(torch.zeros(1, 32))[0]
    x = x - x.mean() if centres(norm) else x
    torch.testing.assert_close(gain_of(norm) * x / x.square().mean().sqrt(), written, rtol=1e-4, atol=1e-4)


def test_latents_of_a_token_are_those_that_the_features_page_finds(tiny_lab: Lab):
    """The same latents and values as `fires_on`; shares and error add up to 1 as the SAE says."""
    from workbench.features import FeatureTable

    [name] = saes_of(tiny_lab, "sft")
    table = FeatureTable.of(tiny_lab, name)
    checkpoint = tiny_lab.checkpoints("sft")[0]
    text = "Fellow citizens of the Senate"
    prompt = read_prompt(checkpoint.tokenizer(), text, checkpoint.n_ctx)
    traced = trace(checkpoint.model(), checkpoint.tokenizer(), prompt)
    values = np.zeros((len(prompt.ids), table.dictionary.n_latents))
    for row in table.fires_on(text).iter_rows(named=True):
        values[1:, row["latent"]] = row["values"]
    for position in range(1, len(prompt.ids)):
        x = traced.resid[checkpoint.default_layer + 1, position]
        found = latents_on(table.dictionary, x)
        assert sorted(found.ids.tolist()) == np.flatnonzero(values[position]).tolist()
        np.testing.assert_allclose(found.values, values[position][found.ids], rtol=1e-3, atol=1e-4)
        assert (np.diff(found.shares) <= 0).all()
        centred = torch.from_numpy(x) - table.dictionary.b_dec[0]
        made = table.dictionary.reconstruct(torch.from_numpy(x)[None, None])[0, 0] - table.dictionary.b_dec[0]
        assert found.error == pytest.approx(float(1 - made @ centred / (centred @ centred)), abs=1e-4)
        assert found.error + found.shares.sum() == pytest.approx(1, abs=1e-5)


def test_a_snapshot_is_read_through_its_stages_sae(tiny_lab: Lab):
    assert saes_of(tiny_lab, "sft@0") == saes_of(tiny_lab, "sft") == ["sae-sft"]
