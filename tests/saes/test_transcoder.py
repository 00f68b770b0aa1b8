"""Transcoders recover a planted sparse map, equal a dense step in float64, open in SAELens, resume exactly."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import saes
from saes import DictionaryError, TensorActivations, TrainConfig
from saes.arrays import Paired, read
from saes.calibrate import measure
from saes.sparse_run import SparseRun
from saes.transcoder import Transcoder

SMALL = TrainConfig(n_latents=48, k=3, n_steps=40, batch_size=256, k_start=12, log_every=10)


def planted_mlp(n_tokens, n_features, d, d_out, seed=0):
    """x: sparse sums of unit directions; y = U ReLU(V x − bias) with one hidden unit a direction, written
    elsewhere: (x, y, what is read, what is written)."""
    rng = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize
    reads, writes = (unit(torch.randn(n_features, width, generator=rng), dim=1) for width in (d, d_out))
    on = torch.rand(n_tokens, n_features, generator=rng) < 3 / n_features
    x = (on * (1 + 0.3 * torch.rand(n_tokens, n_features, generator=rng))) @ reads
    y = 2 * torch.relu(x @ reads.T - 0.6) @ writes + 0.3
    return x[:, None], y[:, None], reads, writes


@pytest.fixture(scope="module")
def small():
    x, y, *_ = planted_mlp(4000, 32, 16, 12)
    return TensorActivations(x), TensorActivations(y)


def mcc(found, wanted):
    cosines = (torch.nn.functional.normalize(found, dim=1) @ wanted.T).abs().numpy()
    return cosines[linear_sum_assignment(-cosines)].mean()


@pytest.mark.parametrize("arch", ["batchtopk", "topk", "matryoshka_batchtopk"])
def test_a_planted_mlp_is_recovered(arch):
    x, y, reads, writes = planted_mlp(25_000, 32, 48, 40)
    (x, held_x), (y, held_y) = ((TensorActivations(part) for part in both.split(20_000)) for both in (x, y))
    config = TrainConfig(arch=arch, n_latents=64, k=3, n_steps=400, batch_size=512, k_start=12)
    made = saes.fit(x, config, targets=y, site="in", target_site="out")
    assert isinstance(made, Transcoder)
    assert (made.site, made.target_site, made.activation) == ("in", "out", "jumprelu")
    assert mcc(made.W_dec[:, 0], writes) >= 0.9
    assert mcc(made.W_enc[0].T, reads) >= 0.8
    scores = saes.evaluate(made, held_x, targets=held_y)
    assert scores.fvu["model0"] < 0.15
    assert scores.l0 == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("skip", [False, True])
def test_a_step_is_the_dense_step(small, skip):
    """The gradients behind one step, read from Adam's first moment, against autograd through dense products, in
    float64; AuxK off and on."""
    x, y = small
    config = replace(SMALL, skip=skip, grad_clip=1e9, aux_coeff=0.0)
    units = measure(x)
    run = SparseRun(units, config, measure(y))
    run._place({name: w.detach().double() for name, w in run.weights.items()}, run.silent_steps)
    for name in ("b_enc", "b_dec", *(["W_skip"] if skip else [])):
        run.weights[name].data.normal_(std=0.1)
    before = {name: w.detach().clone().requires_grad_() for name, w in run.weights.items()}
    both = read(Paired(x, y), np.arange(256)).double()
    z, t = units.normalise(both[:, :, :16]), run.target_units.normalise(both[:, :, 16:])
    pre = torch.relu(z @ before["W_enc"].T + before["b_enc"])
    scores = pre * before["W_dec"].detach().norm(dim=1)
    kept = scores >= scores.flatten().topk(round(config.k_at(0) * 256)).values.min()
    t_hat = (pre * kept) @ before["W_dec"] + before["b_dec"]
    if skip:
        t_hat = t_hat + z @ before["W_skip"].T
    loss = (t - t_hat).square().mean()
    loss.backward()
    report = run.advance(both)
    torch.testing.assert_close(report.loss, loss.detach())
    moments = {name: run.optimizer.state[w]["exp_avg"] for name, w in run.weights.items()}
    for name, weight in before.items():
        torch.testing.assert_close(moments[name] / 0.1, weight.grad, msg=name)


@pytest.mark.parametrize("skip", [False, True])
def test_folding_changes_nothing(small, skip):
    """The dictionary in raw units writes what the run wrote in normalised ones."""
    x, y = small
    config, units = replace(SMALL, skip=skip), measure(x)
    run = SparseRun(units, config, measure(y))
    both = Paired(x, y)
    for start in range(0, 2048, 256):
        run.advance(read(both, np.arange(start, start + 256)))
    made = run.dictionary(("m",), "")
    z = units.normalise(x.tensor[:500])
    with torch.no_grad():
        t_hat = torch.relu(z @ run.W_enc.T + run.b_enc) @ run.W_dec + run.b_dec
        if skip:
            t_hat = t_hat + z @ run.weights["W_skip"].T
    target = run.target_units
    expected = t_hat * target.scales[0] + target.mean[0]
    torch.testing.assert_close(made.reconstruct(x.tensor[:500])[:, 0], expected, atol=1e-4, rtol=1e-4)
    norms = made.W_dec.norm(dim=2)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_an_sae_is_the_transcoder_onto_its_input_from_the_same_start(small):
    """The two kinds of step are one: with equal weights, x onto x ends bit for bit where the SAE does."""
    x, _ = small
    units = measure(x)
    sae, transcoder = SparseRun(units, SMALL), SparseRun(units, SMALL, measure(x))
    transcoder._place({n: w.detach().clone() for n, w in sae.weights.items()}, sae.silent_steps.clone())
    both = Paired(x, x)
    for start in range(0, 2560, 256):
        rows = np.arange(start, start + 256)
        sae.advance(read(x, rows))
        transcoder.advance(read(both, rows))
    for name, weight in sae.weights.items():
        assert torch.equal(weight, transcoder.weights[name]), name


def test_a_skip_carries_what_is_linear():
    """y linear in x, and k too small for it: with the path almost nothing is left over, without it most."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(8000, 1, 12, generator=rng)
    y = torch.einsum("tmd,od->tmo", x, torch.randn(10, 12, generator=rng)) + 1
    config = replace(SMALL, n_steps=300, k=2)
    fvu = {}
    for skip in (False, True):
        made = saes.fit(TensorActivations(x), replace(config, skip=skip), targets=TensorActivations(y))
        fvu[skip] = saes.evaluate(made, TensorActivations(x), targets=TensorActivations(y)).fvu["model0"]
    assert fvu[True] < 0.05
    assert fvu[False] > 5 * fvu[True]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("skip", [False, True])
def test_sae_lens_opens_the_folder_and_agrees(small, tmp_path, skip):
    """The rival as oracle: same latents, same output, opened with nothing registered."""
    sae_lens = pytest.importorskip("sae_lens")
    x, y = small
    made = saes.fit(
        x,
        replace(SMALL, skip=skip),
        targets=y,
        site="blocks.1.mlp.hook_in",
        target_site="blocks.1.hook_mlp_out",
    )
    saes.save(made, tmp_path)
    theirs, again = sae_lens.SAE.load_from_disk(tmp_path), saes.load(tmp_path)
    assert theirs.cfg.architecture() == ("jumprelu_skip_transcoder" if skip else "jumprelu_transcoder")
    assert theirs.cfg.metadata.hook_name_out == "blocks.1.hook_mlp_out"
    assert isinstance(again, Transcoder)
    assert (again.site, again.target_site, again.k) == (made.site, made.target_site, 3)
    some = x.tensor[:500]
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(some[:, 0]), made.encode(some), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(theirs(some[:, 0]), made.reconstruct(some)[:, 0], atol=1e-5, rtol=1e-5)
        assert torch.equal(again.reconstruct(some), made.reconstruct(some))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["Transcoder", "SkipTranscoder", "JumpReLUTranscoder", "JumpReLUSkipTranscoder"]
)
def test_a_folder_that_sae_lens_wrote_opens(tmp_path, kind):
    module = pytest.importorskip("sae_lens.saes.transcoder")
    theirs = getattr(module, kind)(
        getattr(module, f"{kind}Config")(d_in=8, d_sae=20, d_out=6, apply_b_dec_to_input=False)
    )
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p.copy_(torch.rand_like(p) if name == "threshold" else torch.randn_like(p))
    theirs.save_model(tmp_path)
    ours, x = saes.load(tmp_path), torch.randn(50, 1, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(x), theirs.encode(x[:, 0]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.reconstruct(x)[:, 0], theirs(x[:, 0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("skip", [False, True])
def test_a_killed_run_resumes_bit_for_bit(small, tmp_path, skip):
    x, y = small
    config = replace(SMALL, skip=skip, state_every=7, log_every=1, aux_coeff=0.1, dead_after_share=0.05)
    whole = saes.fit(x, config, targets=y)
    first = saes.train(x, config, targets=y, state_dir=tmp_path)
    list(islice(first, 20))
    first.close()
    again = saes.fit(x, config, targets=y, resume=tmp_path)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", *(["W_skip"] if skip else [])):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name


def test_what_cannot_be(small):
    x, y = small
    with pytest.raises(DictionaryError, match="a transcoder is one of batchtopk"):
        saes.fit(x, replace(SMALL, arch="standard"), targets=y)
    with pytest.raises(DictionaryError, match="skip is a transcoder's linear path"):
        saes.fit(x, replace(SMALL, skip=True))
    with pytest.raises(DictionaryError, match="4000 rows of inputs and 3999 of targets"):
        saes.fit(x, SMALL, targets=TensorActivations(y.tensor[1:]))
    broken = y.tensor.clone()
    broken[7] = torch.inf
    with pytest.raises(DictionaryError, match="row 7"):
        saes.fit(x, SMALL, targets=TensorActivations(broken))
