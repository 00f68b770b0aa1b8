"""Steering and ablation do what their equations say, and nothing where there is nothing to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saes.folder import load
from tests.tiny_lab import shared_lab
from workbench import steering
from workbench.checkpoint import Checkpoint
from workbench.errors import Misuse
from workbench.features import FeatureTable
from workbench.sampling import Sampling, continuations
from workbench.site import read_resid_post
from workbench.steering import Site


@pytest.fixture(scope="module")
def lab():
    return shared_lab()


@pytest.fixture(scope="module")
def checkpoint(lab):
    return Checkpoint.of(lab, "sft")


@pytest.fixture(scope="module")
def model(checkpoint):
    return checkpoint.model()


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return checkpoint.tokenizer()


@pytest.fixture(scope="module")
def table(lab):
    return FeatureTable.of(lab, "sae-sft")


@pytest.fixture(scope="module")
def site(table, checkpoint):
    firing = int(table.table.sort("density", descending=True)["latent"][0])
    return Site(table.dictionary, firing, checkpoint.default_layer, "sft")


@pytest.fixture(scope="module")
def prompt(tokenizer):
    return steering.prompt_of(tokenizer, "the green river between", 64, chat=False, room=16)


def by_hand(model, layer: int, ids: torch.Tensor, change) -> torch.Tensor:
    """Logits with a hook written out for a Llama."""

    def hook(module, inputs, output):
        x = output[0] if isinstance(output, tuple) else output
        x = torch.cat([x[:, :1], change(x[:, 1:])], dim=1)
        return (x, *output[1:]) if isinstance(output, tuple) else x

    handle = model.model.layers[layer].register_forward_hook(hook)
    try:
        with torch.inference_mode():
            return model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()


def test_strength_zero_is_the_unsteered_model(model, site, prompt):
    ids = torch.tensor([prompt.ids])
    with torch.inference_mode():
        plain = model(input_ids=ids, use_cache=False).logits
    steered = steering.next_logits(model, site, steering.added(0.0 * site.d_j[None]), ids, bos=True)
    assert torch.equal(steered, plain)


def test_added_logits_are_those_of_a_hook_by_hand(model, site, prompt):
    ids = torch.tensor([prompt.ids])
    strength = 3.5
    ours = steering.next_logits(model, site, steering.added(strength * site.d_j[None]), ids, bos=True)
    theirs = by_hand(model, site.layer, ids, lambda x: x + strength * site.d_j)
    assert torch.equal(ours, theirs)
    with torch.inference_mode():
        plain = model(input_ids=ids, use_cache=False).logits
    assert not torch.allclose(ours, plain, atol=1e-4)
    assert torch.equal(ours[:, 0], plain[:, 0])  # BOS is left alone


def test_ablated_logits_are_those_of_a_hook_by_hand(model, site, table):
    rows = table.token_set.tokens[:40]
    ids = torch.tensor([[table.token_set.settings["bos"], *rows.tolist()]])

    def change(x):
        f = site.dictionary.encode(x.reshape(-1, 1, x.shape[-1]))[:, site.latent]
        assert (f > 0).any()
        return x - f.view(1, -1, 1) * site.d_j

    ours = steering.next_logits(model, site, steering.ablated(site), ids, bos=True)
    torch.testing.assert_close(ours, by_hand(model, site.layer, ids, change), rtol=1e-4, atol=1e-4)


def test_an_ablated_latent_is_silent_and_the_others_keep_their_part(model, site, table):
    """x − f_j d_j = (x̂ − f_j d_j) + (x − x̂): reconstruction without the latent, error term kept."""
    x = table.activations[np.arange(64)][:, 0]
    f = table.dictionary.encode(x[:, None])
    torch.testing.assert_close(site.activation(x), f[:, site.latent], rtol=1e-4, atol=1e-4)
    without = f.clone()
    without[:, site.latent] = 0
    expected = table.dictionary.decode(without)[:, 0] + (x - table.dictionary.decode(f)[:, 0])
    torch.testing.assert_close(steering.ablated(site)(x[None], x[None])[0], expected, rtol=1e-4, atol=1e-4)


def test_ablating_a_latent_that_does_not_fire_changes_nothing(model, site, table, prompt):
    ids = torch.tensor([prompt.ids])
    x = read_resid_post(model, site.layer, ids)[0, 1:]
    on = table.dictionary.encode(x[:, None]).sum(dim=0)
    silent = Site(table.dictionary, int((on == 0).nonzero()[0]), site.layer, "sft")
    with torch.inference_mode():
        plain = model(input_ids=ids, use_cache=False).logits
    assert torch.equal(steering.next_logits(model, silent, steering.ablated(silent), ids, bos=True), plain)


def test_steered_text_follows_the_steered_logits(model, tokenizer, site, prompt):
    """Greedy writing with a cache under an edit takes the largest steered logit of the whole text so far."""
    edit = steering.added(5.0 * site.d_j[None])
    [said] = steering.continued(model, tokenizer, prompt, site, edit, Sampling(temperature=0.0), length=6)
    ids = list(prompt.ids)
    for token in said.tokens:
        after = steering.next_logits(model, site, edit, torch.tensor([ids]), bos=True)[0, -1]
        assert float(after[token.id]) == pytest.approx(float(after.max()), abs=1e-4)
        ids.append(token.id)
    [plain] = steering.continued(model, tokenizer, prompt, site, None, Sampling(temperature=0.0), length=6)
    [alone] = continuations(model, tokenizer, prompt, Sampling(temperature=0.0), n=1, max_new_tokens=6)
    assert plain.text == alone.text


def test_the_dose_response_passes_through_the_unsteered_model(model, site, table, prompt):
    promoted = table.logit_arrays("sft")[0][site.latent, 0, : steering.N_PROMOTED].tolist()
    found = steering.dose_response(model, site, prompt, promoted, table.token_set, unit=20.0, bos=True)
    assert found.promoted.shape == found.loss.shape == (1 + steering.N_RANDOM, len(steering.DOSES))
    zero = steering.DOSES.index(0.0)
    with torch.inference_mode():
        plain = model(input_ids=torch.tensor([prompt.ids]), use_cache=False).logits[0, -1].softmax(-1)
    assert found.promoted[:, zero] == pytest.approx(float(plain[promoted].sum()), rel=1e-4)
    clean = steering.heldout_loss(model, site, [None], table.token_set)[0]
    assert found.loss[:, zero] == pytest.approx(clean, rel=1e-6)
    assert (
        found.promoted[0, -1] > found.promoted[0, zero] > found.promoted[0, 0]
    )  # it promotes what it promotes
    assert found.promoted[0, -1] > found.promoted[1:, -1].max()


def test_ablation_has_its_controls(model, site, table, prompt):
    found = steering.ablation_effects(model, site, prompt, [5, 6], table.token_set, bos=True)
    assert [e.name for e in found[:2]] == ["as it is", "without the latent"]
    assert len(found) == 2 + steering.N_RANDOM
    assert found[1].loss != found[0].loss


def test_random_directions_are_as_long_and_reproducible():
    like = torch.arange(1.0, 9.0)
    drawn = steering.random_directions(like, 5, seed=3)
    torch.testing.assert_close(drawn.norm(dim=1), like.norm().expand(5))
    assert torch.equal(drawn, steering.random_directions(like, 5, seed=3))
    assert not torch.equal(drawn, steering.random_directions(like, 5, seed=4))


def test_a_latent_that_never_fires_counts_in_the_median_of_those_that_do():
    assert steering.unit_of(3.0, np.array([9.0])) == 3.0
    assert steering.unit_of(0.0, np.array([1.0, 5.0, 9.0])) == 5.0


def test_what_cannot_be_steered_is_one_sentence(lab, model, tokenizer, site, table):
    with pytest.raises(Misuse, match="prompt is empty"):
        steering.prompt_of(tokenizer, "  \n", 64, chat=False, room=8)
    with pytest.raises(Misuse, match="no latent 99999"):
        Site(table.dictionary, 99_999, 0, "sft")
    joint = load(lab.find("dictionary", "crosscoder").path)
    with pytest.raises(Misuse, match="choose an SAE, or add instead"):
        Site(joint, 0, site.layer, "sft").activation(torch.zeros(2, joint.d))
    far = Site(table.dictionary, 0, 17, "sft")
    with pytest.raises(Misuse, match="layers 0 to"):
        steering.next_logits(model, far, steering.ablated(far), torch.tensor([[1, 5]]), bos=True)
