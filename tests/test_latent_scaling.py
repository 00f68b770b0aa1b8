"""Latent scaling against planted truths: what is exclusive, what only looks so, and why."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from saes.arrays import TensorActivations
from saes.dictionary import Dictionary
from saes.errors import DictionaryError
from saes.latent_scaling import Stand, latent_scaling

N, D = 4_000, 24
SHARED, SHRUNK, DECOUPLED, CARRIER, EXCLUSIVE, SILENT = range(6)


def planted(noise: float = 0.02) -> tuple[torch.Tensor, Dictionary]:
    """Two models with six orthogonal features. `a` has all but EXCLUSIVE. The dictionary lacks `a`'s decoder of
    SHRUNK (its part of `a` is left over) and of DECOUPLED (another latent, CARRIER, writes it there)."""
    rng = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(D, D, generator=rng)).Q[:6]
    strengths = torch.rand(N, 6, generator=rng) + 0.5
    on = torch.rand(N, 6, generator=rng) < 0.2
    on[:, SILENT] = False
    on[:, CARRIER] = on[:, DECOUPLED]
    f = strengths * on
    f[:, CARRIER] = f[:, DECOUPLED]
    in_a, in_b = torch.ones(6), torch.ones(6)
    in_a[[EXCLUSIVE, CARRIER]] = 0
    in_b[CARRIER] = 0
    x = torch.stack([(f * weight) @ directions for weight in (in_a, in_b)], dim=1)
    x += noise * torch.randn(x.shape, generator=rng)
    # read off by a coordinate of its own, so that encoding is exact and the two models' rows stay what they are
    x = torch.cat([x, f[:, None].expand(-1, 2, -1)], dim=2)
    W_dec = torch.zeros(6, 2, D + 6)
    W_dec[:, 0, :D] = directions * in_a[:, None]
    W_dec[:, 1, :D] = directions * in_b[:, None]
    W_dec[SHRUNK, 0] = 0
    W_dec[DECOUPLED, 0] = 0
    W_dec[CARRIER, 0, :D] = directions[DECOUPLED]
    W_enc = torch.zeros(2, D + 6, 6)
    W_enc[:, D:] = torch.eye(6) / 2
    dictionary = Dictionary(
        W_enc,
        torch.zeros(6),
        W_dec,
        torch.zeros(2, D + 6),
        torch.full((6,), 1e-3),
        torch.ones(2),
        ("a", "b"),
        k=3,
    )
    return x, dictionary


def test_ratios_are_what_was_planted() -> None:
    x, dictionary = planted()
    found = latent_scaling(dictionary, TensorActivations(x))
    error, rest = found.error.ratio[:, 1, 0], found.reconstruction.ratio[:, 1, 0]
    expected_error = {SHARED: 1, SHRUNK: 1, DECOUPLED: 0, EXCLUSIVE: 0}
    expected_rest = {SHARED: 1, SHRUNK: 0, DECOUPLED: 1, EXCLUSIVE: 0}
    for latent in expected_error:
        assert error[latent] == pytest.approx(expected_error[latent], abs=0.02)
        assert rest[latent] == pytest.approx(expected_rest[latent], abs=0.02)
    assert found.specific("b").tolist() == [latent == EXCLUSIVE for latent in range(6)]
    assert np.isnan(error[SILENT])
    assert found.fires[SILENT] == 0


def test_relative_norms_alone_call_three_latents_exclusive() -> None:
    """What latent scaling is for: two of the three are in the other model as well."""
    _, dictionary = planted()
    norms = dictionary.relative_norms()
    assert (norms[:, 1] > 0.8).nonzero().flatten().tolist() == [SHRUNK, DECOUPLED, EXCLUSIVE]


def test_beta_is_the_least_squares_coefficient() -> None:
    x, dictionary = planted(noise=0.3)
    found = latent_scaling(dictionary, TensorActivations(x))
    f = dictionary.encode(x)
    rest = x[:, 0] - dictionary.decode(f)[:, 0] + f[:, SHRUNK, None] * dictionary.W_dec[SHRUNK, 0]
    design = (f[:, SHRUNK, None] * dictionary.W_dec[SHRUNK, 1]).flatten()[:, None]
    solved = torch.linalg.lstsq(design.double(), rest.flatten()[:, None].double()).solution
    assert found.error.beta[SHRUNK, 1, 0] == pytest.approx(float(solved), rel=1e-4)


def test_a_model_against_itself_has_ratio_one() -> None:
    x, dictionary = planted(noise=0.3)
    ratio = latent_scaling(dictionary, TensorActivations(x)).error.ratio
    fires = np.arange(6) != SILENT
    assert ratio[fires, 1, 1] == pytest.approx(np.where(np.isnan(ratio[fires, 1, 1]), np.nan, 1.0), nan_ok=True)


def test_scales_do_not_matter() -> None:
    """One model's activations three times as long, its scale too: the same ratios."""
    x, dictionary = planted(noise=0.1)
    longer = dataclasses.replace(
        dictionary,
        W_dec=dictionary.W_dec * torch.tensor([3.0, 1.0])[:, None],
        W_enc=dictionary.W_enc / torch.tensor([3.0, 1.0])[:, None, None],
        scales=torch.tensor([3.0, 1.0]),
    )
    stretched = x * torch.tensor([3.0, 1.0])[:, None]
    one, other = (
        latent_scaling(dictionary, TensorActivations(x)),
        latent_scaling(longer, TensorActivations(stretched)),
    )
    np.testing.assert_allclose(one.error.ratio, other.error.ratio, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(one.reconstruction.ratio, other.reconstruction.ratio, rtol=1e-3, atol=1e-3)


def test_intervals_hold_the_truth_and_shrink_with_more_documents() -> None:
    x, dictionary = planted(noise=0.3)
    widths = []
    for n_documents in (50, 400):
        group = np.arange(N) * n_documents // N
        keep = np.arange(N) < (N if n_documents == 400 else N // 8)
        found = latent_scaling(dictionary, TensorActivations(x), group, keep)
        low, high = found.error.low[EXCLUSIVE, 1, 0], found.error.high[EXCLUSIVE, 1, 0]
        assert low <= found.error.ratio[EXCLUSIVE, 1, 0] <= high
        widths.append(high - low)
    assert widths[1] < widths[0]


def test_a_model_beside_is_compared_by_its_error() -> None:
    """A control that has the exclusive feature after all: it is not the stage that brought it."""
    x, dictionary = planted()
    without, with_it = x[:, 0:1], x[:, 1:2]
    beside = {"sham": Stand(TensorActivations(without), "a"), "sibling": Stand(TensorActivations(with_it), "a")}
    found = latent_scaling(dictionary, TensorActivations(x), beside=beside)
    error = dict(zip(found.names, found.error.ratio[EXCLUSIVE, 1], strict=True))
    assert error["sham"] == pytest.approx(0, abs=0.02)
    assert error["sibling"] == pytest.approx(1, abs=0.02)
    assert found.specific("b", ["a", "sham"])[EXCLUSIVE]
    assert not found.specific("b", ["a", "sibling"])[EXCLUSIVE]


def test_what_cannot_be_compared_is_refused() -> None:
    x, dictionary = planted()
    activations = TensorActivations(x)
    with pytest.raises(DictionaryError, match="'sham' has 10 tokens, the crosscoder's models 4000"):
        latent_scaling(dictionary, activations, beside={"sham": Stand(TensorActivations(x[:10, :1]), "a")})
    found = latent_scaling(dictionary, activations)
    with pytest.raises(DictionaryError, match="no model 'c' here: choose a, b"):
        found.specific("b", ["c"])
    with pytest.raises(DictionaryError, match="name a model that 'b' is compared with"):
        found.specific("b", ["b"])
    with pytest.raises(DictionaryError, match="no token counts"):
        latent_scaling(dictionary, activations, counted=np.zeros(N, dtype=bool))
