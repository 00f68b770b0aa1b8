"""Training: recovers what was planted, resumes bit for bit, ends at L0 = k, refuses what cannot be."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from scipy.optimize import linear_sum_assignment

import saes
from saes import DictionaryError, TensorActivations, TrainConfig
from saes.state import FILE
from tests.saes.planted import planted

SMALL = TrainConfig(
    n_latents=64, k=3, n_steps=40, batch_size=256, k_start=16, log_every=10, dead_after_share=0.1
)


@pytest.fixture(scope="module")
def small():
    return TensorActivations(planted(4000, 48, 16)[0])


def mcc(found, planted_directions):
    """Mean |cosine| over optimally matched pairs."""
    unit = torch.nn.functional.normalize
    cosines = (unit(found.flatten(1), dim=1) @ unit(planted_directions.flatten(1), dim=1).T).abs().numpy()
    return cosines[linear_sum_assignment(-cosines)].mean()


@pytest.mark.parametrize(
    ("n_models", "arch"), [(1, "batchtopk"), (2, "batchtopk"), (1, "topk"), (1, "matryoshka_batchtopk")]
)
def test_planted_directions_are_recovered(n_models, arch):
    x, directions = planted(20_000, 48, 32, n_models, active=3)
    config = TrainConfig(arch=arch, n_latents=64, k=3, n_steps=400, batch_size=512, k_start=12)
    dictionary = saes.fit(TensorActivations(x), config)
    assert mcc(dictionary.W_dec, directions) >= 0.9
    assert max(saes.evaluate(dictionary, TensorActivations(x[:5000])).fvu.values()) < 0.2


def test_thresholds_give_l0_of_k(small):
    """Calibrated on one half, within 5 % of k on the other."""
    calibration, held = (TensorActivations(part) for part in planted(8000, 48, 16, seed=0)[0].chunk(2))
    dictionary = saes.fit(small, SMALL, calibration=calibration)
    assert saes.evaluate(dictionary, held).l0 == pytest.approx(SMALL.k, rel=0.05)
    on_its_own = saes.evaluate(saes.calibrated(dictionary, held), held).l0
    assert on_its_own == pytest.approx(SMALL.k, abs=0.01)


def test_copies_of_one_model_share_every_latent():
    x = planted(4000, 48, 16)[0].expand(-1, 3, -1) * torch.tensor([1.0, 2.0, 0.5]).view(1, 3, 1)
    weights = saes.fit(TensorActivations(x.contiguous()), SMALL).relative_norms()
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 3), atol=0.01, rtol=0)


def test_topk_keeps_k_of_every_token(small):
    dictionary = saes.fit(small, replace(SMALL, arch="topk"))
    active = (dictionary.encode(small.tensor[:500]) > 0).sum(dim=1)
    assert int(active.max()) == SMALL.k
    assert float(active.float().mean()) > 0.9 * SMALL.k
    code = dictionary.encode_sparse(small.tensor[:500])
    assert torch.equal(code.dense(500, SMALL.n_latents), dictionary.encode(small.tensor[:500]))


def test_early_latents_of_a_matryoshka_dictionary_reconstruct_alone():
    """With a fourth of the latents, the nested loss leaves less error than the same fourth without it."""
    x = TensorActivations(planted(8_000, 48, 16)[0])
    error = {}
    for arch in ("batchtopk", "matryoshka_batchtopk"):
        dictionary = saes.fit(x, replace(SMALL, arch=arch, n_steps=200))
        latents = dictionary.encode(x.tensor)
        latents[:, SMALL.n_latents // 4 :] = 0
        error[arch] = float((x.tensor - dictionary.decode(latents)).square().sum())
    assert error["matryoshka_batchtopk"] < 0.9 * error["batchtopk"]


def test_dictionaries_that_train_together_end_as_they_would_alone(small):
    configs = [SMALL, replace(SMALL, n_latents=32, arch="topk"), replace(SMALL, seed=5, k=2)]
    for together, config in zip(saes.fit_together(small, configs), configs, strict=True):
        alone = saes.fit(small, config)
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
            assert torch.equal(getattr(together, name), getattr(alone, name)), (config, name)


def test_what_trains_together_has_to_share_its_batches(small):
    with pytest.raises(DictionaryError, match="all the same batch_size"):
        saes.fit_together(small, [SMALL, replace(SMALL, batch_size=128)])
    with pytest.raises(DictionaryError, match="no configuration"):
        saes.fit_together(small, [])


def test_several_resume_together(small, tmp_path):
    configs = [replace(SMALL, seed=seed, state_every=7, log_every=1) for seed in (0, 1)]
    whole = saes.fit_together(small, configs)
    first = saes.train_together(small, configs, state_dir=tmp_path)
    list(islice(first, 20))
    first.close()
    for again, once in zip(saes.fit_together(small, configs, resume=tmp_path), whole, strict=True):
        assert torch.equal(again.W_dec, once.W_dec)
        assert torch.equal(again.threshold, once.threshold)


@pytest.mark.parametrize("killed_at", [7, 20, 33])
def test_a_killed_run_resumes_bit_for_bit(small, tmp_path, killed_at):
    config = replace(SMALL, state_every=7, log_every=1, aux_coeff=0.1, dead_after_share=0.05)
    whole = saes.fit(small, config)
    first = saes.train(small, config, state_dir=tmp_path)
    list(islice(first, killed_at))
    first.close()
    again = saes.fit(small, config, resume=tmp_path)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name


def test_a_state_of_another_run_is_refused(small, tmp_path):
    config = replace(SMALL, state_every=10)
    saes.fit(small, config, state_dir=tmp_path)
    with pytest.raises(DictionaryError, match="another run"):
        saes.fit(small, replace(config, lr=1e-3), resume=tmp_path)
    with pytest.raises(DictionaryError, match="other activations"):
        saes.fit(TensorActivations(small.tensor + 1), config, resume=tmp_path)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:500])
    with pytest.raises(DictionaryError, match="truncated"):
        saes.fit(small, config, resume=tmp_path)
    with pytest.raises(DictionaryError, match="no training state"):
        saes.fit(small, config, resume=tmp_path / "nowhere")


def test_steps_count_up_and_the_seed_decides(small):
    steps = []
    one = saes.fit(small, SMALL, on_step=steps.append)
    assert [s.step for s in steps] == [10, 20, 30, 40]
    assert steps[-1].l0 == SMALL.k
    assert steps[0].fvu > steps[-1].fvu
    assert torch.equal(one.W_dec, saes.fit(small, SMALL).W_dec)
    assert not torch.equal(one.W_dec, saes.fit(small, replace(SMALL, seed=1)).W_dec)


def test_decoders_are_unit_vectors_for_one_model(small):
    norms = saes.fit(small, SMALL).W_dec.norm(dim=2)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_units_do_not_matter(small):
    """Activations times 100, plus an offset: the same relative error."""
    far = TensorActivations(small.tensor * 100 + 7)
    near, scaled = (saes.evaluate(saes.fit(a, SMALL), a).fvu["model0"] for a in (small, far))
    assert scaled == pytest.approx(near, rel=0.05)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k": 65}, "k cannot be the larger"),
        ({"n_latents": 0}, "at least 1"),
        ({"lr": 0.0}, "above 0"),
        ({"dead_after_share": 2.0}, "a share lies between"),
        ({"arch": "topp"}, "there is no architecture 'topp'"),
        ({"widths": (8,)}, "inner widths belong to matryoshka"),
        ({"arch": "matryoshka_batchtopk", "widths": (32, 16)}, "have to rise"),
    ],
)
def test_settings_that_cannot_be(change, sentence):
    with pytest.raises(DictionaryError, match=sentence):
        replace(SMALL, **change)


def test_activations_that_cannot_be(small):
    with pytest.raises(DictionaryError, match="do not fill one batch"):
        saes.fit(TensorActivations(small.tensor[:100]), SMALL)
    with pytest.raises(DictionaryError, match="never vary"):
        saes.fit(TensorActivations(torch.ones(4000, 1, 16)), SMALL)
    broken = small.tensor.clone()
    broken[123] = torch.nan
    with pytest.raises(DictionaryError, match="row 123"):
        saes.fit(TensorActivations(broken), SMALL)


def test_a_loss_that_is_not_a_number_is_named(small, monkeypatch):
    monkeypatch.setattr("saes.sparse_run.auxk_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(DictionaryError, match="at step 10"):
        saes.fit(small, SMALL)


@pytest.mark.parametrize("n_models", [1, 2])
def test_a_start_is_where_a_run_begins(n_models):
    """In units of other activations than it was trained on; a step too small to see leaves it where it is."""
    x = TensorActivations(planted(4_000, 16, 16, n_models)[0])
    start = saes.fit(x, replace(SMALL, n_latents=32, n_steps=60))
    moved = TensorActivations(3 * x.tensor + 1)
    config = replace(SMALL, n_latents=32, n_steps=1, lr=1e-12, k_start=SMALL.k, aux_coeff=0.0)
    found = saes.fit(moved, config, start=start)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.allclose(getattr(found, name), getattr(start, name), rtol=1e-4, atol=1e-4), name
    assert not torch.allclose(saes.fit(moved, config).W_dec, start.W_dec, atol=0.1)


def test_a_killed_run_that_had_a_start_resumes_bit_for_bit_and_not_from_another(tmp_path):
    x = TensorActivations(planted(4_000, 16, 16)[0])
    start, other = (saes.fit(x, replace(SMALL, n_latents=32, n_steps=40, seed=s)) for s in (0, 1))
    config = replace(SMALL, n_latents=32, n_steps=30, state_every=10)
    whole = saes.fit(x, config, start=start)
    run = saes.train(x, replace(config, log_every=1), start=start, state_dir=tmp_path)
    for step in run:
        if step.step == 17:
            break
    run.close()
    again = saes.fit(x, config, start=start, resume=tmp_path)
    assert torch.equal(again.W_dec, whole.W_dec)
    assert torch.equal(again.threshold, whole.threshold)
    with pytest.raises(DictionaryError, match="another run"):
        saes.fit(x, config, start=other, resume=tmp_path)
    with pytest.raises(DictionaryError, match="another run"):
        saes.fit(x, config, resume=tmp_path)


def test_a_start_of_another_shape_is_refused():
    x = TensorActivations(planted(4_000, 16, 16)[0])
    start = saes.fit(x, replace(SMALL, n_latents=32, n_steps=5))
    with pytest.raises(DictionaryError, match=r"\[32, 1, 16\] and the training \[48, 1, 16\]"):
        saes.fit(x, replace(SMALL, n_latents=48, n_steps=5), start=start)
    with pytest.raises(DictionaryError, match="go on from another; found standard"):
        saes.fit(x, replace(SMALL, arch="standard", n_latents=32, n_steps=5), start=start)
