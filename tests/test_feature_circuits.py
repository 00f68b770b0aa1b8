"""Latents, errors and edges of feature circuits: laws, and a case worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saes.dictionary import Dictionary
from saes.transcoder import Transcoder
from tests.random_pairs import pairs
from tests.tiny_models import tiny_model
from workbench.circuits.feature_circuit import feature_scores
from workbench.circuits.feature_edges import ERROR, feature_edges
from workbench.circuits.feature_faithfulness import curve, exact_effects, foremost, kept_scores
from workbench.circuits.feature_model import FeatureModel, Kept, put
from workbench.circuits.feature_reach import latent_writers, latent_writes
from workbench.errors import Misuse
from workbench.points import MLP_IN, MLP_OUT, RESID_POST, Site

FAMILIES = ("llama", "gpt2", "gpt_neox", "qwen3")
EARLY, LATE = Site(0), Site(1)
D = 32


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return tiny_model(request.param, n_layers=2)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama", n_layers=2)


def a_transcoder():
    blank = torch.zeros
    return Transcoder(
        blank(1, D, 8), blank(8), blank(8, 1, D), blank(1, D), blank(8), torch.ones(1), ("m",), k=4
    )


def sae(W_enc, W_dec, threshold=0.0, b_enc=0.0, b_dec=0.0):
    f, d = W_dec.shape
    return Dictionary(
        W_enc[None], torch.full((f,), b_enc), W_dec[:, None].contiguous(), torch.full((1, d), b_dec),
        torch.full((f,), threshold), torch.ones(1), ("m",), k=4,
    )  # fmt: skip


def random_sae(seed=0, f=40, threshold=0.3):
    draw = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(f, D, generator=draw) / D**0.5
    return sae(W_dec.T.contiguous(), W_dec, threshold=threshold, b_dec=0.1)


def perfect_sae():
    """x = Σ_i ReLU(x_i) e_i + ReLU(−x_i) (−e_i)."""
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    return sae(both.T.contiguous(), both)


def test_latents_and_error_are_all_that_stands_at_a_site(family):
    """All kept is the clean run, none the corrupt one, whatever the dictionaries; padding counts for nothing."""
    p = pairs(ragged=True)
    model = FeatureModel(family, {LATE: random_sae(1), EARLY: random_sae()})
    assert model.sites == [EARLY, LATE]
    everything = [(site, j) for site in model.sites for j in range(40)]
    m, between = kept_scores(model, p, [(everything, True), ((), False)])
    assert np.abs(m[0] - between.full).max() < 1e-4
    with torch.no_grad():
        own = model.m(p.corrupt, p).numpy()
    assert np.abs(between.none - own).max() < 1e-4
    assert np.abs(m[1] - own).max() < 1e-4
    assert np.abs(between.full - between.none).max() > 0.1


@pytest.mark.parametrize("point", [RESID_POST, MLP_OUT])
def test_integrated_gradients_add_up_to_the_whole_site(llama, point):
    site = Site(0, point)
    found = feature_scores(FeatureModel(llama, {site: random_sae()}), pairs(ragged=True), 50)[site]
    assert found.residual < 0.02
    np.testing.assert_allclose(found.total, found.whole, atol=0.02 * np.abs(found.whole).max())


def test_attribution_is_the_derivative_of_patching(llama):
    """A little of one latent's way to its corrupt value, by finite differences."""
    p, model, step = pairs(2), FeatureModel(llama, {EARLY: random_sae()}), 1e-2
    found = feature_scores(model, p, 0)[EARLY]
    clean, corrupt = (model.read(ids)[EARLY] for ids in (p.clean, p.corrupt))
    for latent in np.argsort(-np.abs(found.mean))[:4]:
        gap = (corrupt.latents - clean.latents)[..., latent, None] * model.coders[EARLY].W_dec[latent]
        up, down = (model.m(p.clean, p, {EARLY: put(clean.x + s * step * gap)}) for s in (1, -1))
        by_hand = ((up - down) / (2 * step)).detach().numpy()
        np.testing.assert_allclose(found.latents[:, latent], by_hand, atol=2e-2 * np.abs(by_hand).max() + 1e-3)


def test_the_last_stream_by_hand(llama):
    """Above the last block stand a norm and the unembedding: ∂m/∂x_i = γ_i w_i / r − x_i (γw·x) / (d r³)."""
    site, p = Site(1), pairs(2)
    model = FeatureModel(llama, {site: perfect_sae()})
    found = feature_scores(model, p, 0)[site]
    x, x_corrupt = (model.read(ids)[site].x[:, -1].double() for ids in (p.clean, p.corrupt))
    W_U = llama.get_output_embeddings().weight.detach().double()
    along = (W_U[p.target] - W_U[p.foil]) * llama.model.norm.weight.detach().double()
    r = x.square().mean(dim=1, keepdim=True).sqrt()
    gradient = along / r - x * (along * x).sum(dim=1, keepdim=True) / (D * r**3)
    by_hand = (x_corrupt - x) * gradient
    np.testing.assert_allclose(
        found.latents[:, :D] + found.latents[:, D:], by_hand.numpy(), atol=1e-4, rtol=1e-4
    )
    held = ((x_corrupt - x) * along / r).sum(dim=1)
    direct = latent_writes(model, p, site, range(2 * D)).direct
    np.testing.assert_allclose(direct.sum(axis=0), held.numpy(), atol=1e-4, rtol=1e-4)


def test_a_perfect_dictionary_leaves_no_error(llama):
    model, p = FeatureModel(llama, {EARLY: perfect_sae()}), pairs(4)
    scores = feature_scores(model, p, 20)
    found = scores[EARLY]
    assert np.abs(found.errors).max() < 1e-5
    assert abs(found.error_share.value) < 1e-5
    f = curve(model, scores, p, sizes=(0, 2, 8))
    assert f.sizes[:3] == [0, 2, 8]
    assert f.with_errors[0].f == pytest.approx(0, abs=1e-4)
    assert f.without_errors[-1].f == pytest.approx(1, abs=1e-4)
    for with_errors, without in zip(f.with_errors, f.without_errors, strict=True):
        assert with_errors.f == pytest.approx(without.f, abs=1e-4)
    assert f.with_errors[-1].f > 0.99


def test_a_useless_dictionary_is_all_error(llama):
    silent = sae(torch.zeros(D, 4), torch.randn(4, D), threshold=1.0)
    found = feature_scores(FeatureModel(llama, {EARLY: silent}), pairs(), 10)[EARLY]
    assert found.error_share.value == 1
    assert (found.latents == 0).all()


def test_matched_latents_are_others(llama):
    model, p = FeatureModel(llama, {EARLY: random_sae(f=400)}), pairs(4)
    scores = feature_scores(model, p, 5)
    order = foremost(scores)
    worth = [abs(scores[EARLY].mean[j]) for _, j in order]
    assert worth == sorted(worth, reverse=True)
    f = curve(model, scores, p, sizes=(0, 3))
    assert [len(draws) for draws in f.matched[:2]] == [0, 5]
    assert f.reach[0][0] == 0
    assert f.reach[-1][0] == pytest.approx(1, abs=1e-6)
    with pytest.raises(Misuse, match="order of latents"):
        foremost(scores, "worst")


def test_a_latent_patched_alone(llama):
    """As by hand, and nothing where it does not change."""
    p, model = pairs(3), FeatureModel(llama, {EARLY: random_sae(threshold=2.0)})
    clean, corrupt = (model.read(ids)[EARLY] for ids in (p.clean, p.corrupt))
    gap = corrupt.latents - clean.latents
    moves = gap.abs().sum(dim=(0, 1))
    best, still = int(moves.argmax()), int((moves == 0).nonzero()[0])
    found = exact_effects(model, p, EARLY, [best, still])
    with torch.no_grad():
        moved = gap[..., best, None] * model.coders[EARLY].W_dec[best]
        by_hand = model.m(p.clean, p, {EARLY: put(clean.x + moved)}) - model.m(p.clean, p)
    np.testing.assert_allclose(found[0], by_hand.numpy(), atol=1e-4)
    assert np.abs(found[1]).max() < 1e-5


def test_edges_from_a_latent_sum_to_its_score(family):
    """Over all nodes of a later site that everything passes; a part of them, named, are the others' rest."""
    model, p = FeatureModel(family, {EARLY: random_sae(), LATE: random_sae(1)}), pairs(ragged=True)
    own = feature_scores(model, p, 0)[EARLY]
    found = feature_edges(model, p, EARLY, LATE, [3, 1, 4])
    assert found.weights.shape == (3 + 2, 40 + 1)
    assert found.residual < 1e-4
    np.testing.assert_allclose(found.early_scores[:-1], own.mean, atol=1e-5)
    assert found.early_scores[-1] == pytest.approx(own.errors.mean(), abs=1e-5)
    (u, d, weight), *_ = found.strongest(5)
    assert u in {ERROR, *range(40)}
    assert d in {3, 1, 4, ERROR}
    assert abs(weight) == pytest.approx(np.abs(found.weights[[0, 1, 2, 4]]).max())
    assert found.of(u, d).mean() == pytest.approx(weight, rel=1e-5)
    one = feature_edges(model, p[1:2], EARLY, LATE, [3, 1, 4])  # by pair: no pair reads another
    np.testing.assert_allclose(found.by_pair[1], one.by_pair[0], atol=1e-4, rtol=1e-3)
    with pytest.raises(Misuse, match="not computed before"):
        feature_edges(model, p, LATE, EARLY, [0])


def test_what_writes_a_latent_adds_up(family):
    model, p = FeatureModel(family, {LATE: random_sae()}), pairs(ragged=True)
    chosen = [int(j) for _, j in foremost(feature_scores(model, p, 0))[:3]]
    found = latent_writers(model, p, LATE, chosen)
    assert found.residual < 1e-4
    assert (found.n > 0).all()
    assert {"embedding", "head 0.0", "mlp 1"} <= set(found.components)
    one = latent_writers(model, p[1:2], LATE, chosen)
    np.testing.assert_allclose(found.sums[1], one.sums[0], atol=1e-4, rtol=1e-3)
    low, high = found.interval(0).T
    assert ((low <= found.delta[:, 0]) & (found.delta[:, 0] <= high)).mean() > 0.8
    assert np.abs(found.preactivation).max() > 0.01
    with pytest.raises(Misuse, match="only a resid_post"):
        latent_writers(FeatureModel(family, {Site(0, MLP_OUT): random_sae()}), p, Site(0, MLP_OUT), [0])


def test_only_saes_of_one_checkpoint_have_feature_circuits(llama):
    for coders in ({}, {Site(0, MLP_IN): random_sae()}, {EARLY: a_transcoder()}):
        with pytest.raises(Misuse, match="dictionary"):
            FeatureModel(llama, coders)


def test_kept_latents_are_those_of_the_run(llama):
    """At a second site the run's own values stay, not those of the clean prompt: else an earlier site's corruption
    would stop there."""
    p, model = pairs(3), FeatureModel(llama, {EARLY: random_sae(), LATE: random_sae(1)})
    corrupt = model.read(p.corrupt)
    nothing, everything = torch.zeros(3, 40, dtype=torch.bool), torch.ones(3, 40, dtype=torch.bool)
    found = model.m_keeping(p, corrupt, {EARLY: Kept(nothing, False), LATE: Kept(everything, True)})
    with torch.no_grad():
        torch.testing.assert_close(found, model.m(p.corrupt, p), atol=1e-4, rtol=1e-4)
