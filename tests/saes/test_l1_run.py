"""The L1 form of a crosscoder and the one with dedicated latents, on streams whose features are known."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

import saes
from saes.errors import DictionaryError

N, D, FEATURES = 6_000, 16, 24
CONFIG = saes.TrainConfig(n_latents=64, k=3, n_steps=150, batch_size=512, lr=5e-3, log_every=50)


def two_models(own: int = 4) -> torch.Tensor:
    """`[token, 2, d]`: sparse features that both have, and `own` that only the second writes."""
    rng = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(FEATURES, D, generator=rng), dim=1)
    on = (torch.rand(N, FEATURES, generator=rng) < 0.08) * (1 + torch.rand(N, FEATURES, generator=rng))
    first = on.clone()
    first[:, :own] = 0
    return torch.stack([first @ directions, on @ directions], dim=1)


def test_the_price_brings_l0_to_k() -> None:
    x = two_models()
    found = saes.fit(saes.TensorActivations(x), dataclasses.replace(CONFIG, arch="l1", n_steps=300))
    code = found.encode_sparse(x)
    assert 0.5 * CONFIG.k < len(code.rows) / N < 2 * CONFIG.k
    rest, chosen = (
        float((x - d.reconstruct(x)).square().sum() / (x - x.mean(dim=0)).square().sum())
        for d in (found, saes.fit(saes.TensorActivations(x), CONFIG))
    )
    assert chosen < rest < 0.9  # what the price takes from every latent, a choice of k leaves it


def test_an_l1_run_goes_on_bit_for_bit(tmp_path) -> None:
    x = saes.TensorActivations(two_models())
    config = dataclasses.replace(CONFIG, arch="l1", state_every=75)
    whole = saes.fit(x, config)
    run = saes.train(x, config, state_dir=tmp_path)
    for step in run:
        if step.step == 100:
            break
    resumed = saes.fit(x, config, resume=tmp_path)
    assert torch.equal(whole.W_dec, resumed.W_dec)
    assert torch.equal(whole.b_enc, resumed.b_enc)


def test_dedicated_latents_stay_with_their_model() -> None:
    found = saes.fit(saes.TensorActivations(two_models()), dataclasses.replace(CONFIG, dedicated=0.25))
    for model, other in itertools.permutations(range(2)):
        own = slice(16 * model, 16 * (model + 1))
        assert (found.W_dec[own, other] == 0).all()
        assert (found.W_enc[other, :, own] == 0).all()
        assert (found.relative_norms()[own, model] == 1).all()
    shared = found.W_dec[32:]
    assert (shared.norm(dim=2) > 0).all()


def test_a_feature_of_one_model_lies_in_its_dedicated_latents() -> None:
    x = two_models()
    found = saes.fit(saes.TensorActivations(x), dataclasses.replace(CONFIG, dedicated=0.25, n_steps=300))
    apart = x[:, 1] - x[:, 0]
    code = found.encode(x)
    by_second = (code[:, 16:32] @ found.W_dec[16:32, 1]).norm()
    assert by_second > 2 * (code[:, :16] @ found.W_dec[:16, 0]).norm()
    explained = 1 - (apart - code[:, 16:32] @ found.W_dec[16:32, 1]).square().sum() / apart.square().sum()
    assert explained > 0.3


def test_what_cannot_be_dedicated_is_refused() -> None:
    with pytest.raises(DictionaryError, match=r"between 0 and 0\.5"):
        dataclasses.replace(CONFIG, dedicated=0.7)
    with pytest.raises(DictionaryError, match="are a crosscoder's"):
        saes.fit(saes.TensorActivations(two_models()[:, :1]), dataclasses.replace(CONFIG, dedicated=0.2))
    three = torch.cat([two_models(), two_models()[:, :1]], dim=1)
    with pytest.raises(DictionaryError, match=r"3 models cannot each have 0\.4"):
        saes.fit(saes.TensorActivations(three), dataclasses.replace(CONFIG, dedicated=0.4))
