"""What SAELens trains: the same latents in raw units, L0 steered to k, resumed bit for bit."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

import saes
from saes import DictionaryError, TensorActivations, TrainConfig
from saes.calibrate import measure
from saes.config import SAELENS
from saes.saelens import PRICE, SaeLensRun
from tests.saes.planted import planted

pytest.importorskip("sae_lens")
SMALL = TrainConfig(n_latents=48, k=3, n_steps=30, batch_size=256, log_every=10, lr=3e-3)


@pytest.fixture(scope="module")
def x():
    return TensorActivations(planted(4000, 32, 16)[0] * 5 + 3)


@pytest.mark.parametrize("arch", SAELENS)
def test_the_dictionary_gives_sae_lens_own_latents_and_reconstruction(x, arch):
    run = SaeLensRun(measure(x), replace(SMALL, arch=arch))
    for _ in range(20):
        run.advance(x.tensor[:256])
    ours = run.dictionary(("base",), "site")
    sae, z = run.trainer.sae, run.units.normalise(x.tensor[:500])
    with torch.no_grad():
        latents = sae.encode_with_hidden_pre(z)[0].to_dense()
        decoded = run.units.mean + run.units.scales * sae.decode(latents)[:, None]
        found = ours.encode(x.tensor[:500])
        agree = (latents != 0) == (found != 0)
        assert agree.float().mean() > 0.999  # a float at the edge may fall on either side
        assert (latents != 0).any()
        torch.testing.assert_close(ours.decode(found), decoded, atol=2e-2, rtol=1e-3)


@pytest.mark.parametrize("arch", SAELENS)
def test_l0_ends_near_k_and_the_error_falls(x, arch):
    steps = []
    config = replace(SMALL, arch=arch, n_steps=400)
    dictionary = saes.fit(x, config, on_step=steps.append)
    scores = saes.evaluate(dictionary, x)
    # Steered prices come near k, the other two keep at most k of a token.
    assert 2 < scores.l0 < 4.2 if arch in PRICE else 2.5 < scores.l0 <= 3
    assert scores.fvu["model0"] < (0.95 if arch == "standard" else 0.5)  # an L1 price shrinks what it leaves
    assert steps[-1].fvu < steps[0].fvu


@pytest.mark.parametrize("arch", SAELENS)
def test_a_killed_run_resumes_bit_for_bit(x, arch, tmp_path):
    config = replace(SMALL, arch=arch, state_every=7, log_every=1)
    whole = saes.fit(x, config)
    first = saes.train(x, config, state_dir=tmp_path)
    list(islice(first, 17))
    first.close()
    again = saes.fit(x, config, resume=tmp_path)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name


def test_a_gated_folder_opens_in_sae_lens_as_jumprelu(x, tmp_path):
    import sae_lens

    ours = saes.fit(x, replace(SMALL, arch="gated"))
    saes.save(ours, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(
            theirs.encode(x.tensor[:200, 0]), ours.encode(x.tensor[:200]), atol=1e-4, rtol=1e-4
        )


def test_several_models_are_refused():
    two = TensorActivations(planted(1000, 32, 16, n_models=2)[0])
    with pytest.raises(DictionaryError, match="a crosscoder is batchtopk or topk"):
        saes.fit(two, replace(SMALL, arch="standard"))
