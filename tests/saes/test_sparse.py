"""Sparse products against dense ones, in float64."""

import pytest
import torch

from saes.selection import BatchTopK, TopK
from saes.sparse import Code, Pattern, sparse_decode, sparse_encode

TOKENS, WIDTH, LATENTS = 13, 6, 17


@pytest.fixture(params=[0.0, 0.2, 1.0], ids=["empty", "sparse", "full"])
def case(request):
    rng = torch.Generator().manual_seed(0)
    mask = torch.rand(TOKENS, LATENTS, generator=rng) < request.param
    rows, latents = mask.nonzero(as_tuple=True)
    make = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64, requires_grad=True)  # noqa: E731
    weights = {"x": make(TOKENS, WIDTH), "W_enc": make(LATENTS, WIDTH), "b_enc": make(LATENTS)}
    weights |= {"W_dec": make(LATENTS, WIDTH)}
    return mask, Pattern(rows, latents, TOKENS, LATENTS), weights


def grads(loss, weights):
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {
        name: torch.zeros_like(w) if g is None else g
        for (name, w), g in zip(weights.items(), found, strict=True)
    }


def test_sparse_step_equals_dense_step(case):
    """Forward and every gradient, of the encoder too, as if the masked dense products had been taken."""
    mask, pattern, w = case
    target = torch.randn(TOKENS, WIDTH, dtype=torch.float64)
    values = torch.relu(sparse_encode(w["x"], w["W_enc"], w["b_enc"], pattern))
    sparse = (sparse_decode(values, w["W_dec"], pattern) - target).square().sum()
    latents = torch.relu(w["x"] @ w["W_enc"].T + w["b_enc"]) * mask
    dense = (latents @ w["W_dec"] - target).square().sum()
    torch.testing.assert_close(sparse, dense)
    torch.testing.assert_close(grads(sparse, w), grads(dense, w))


def test_gradcheck():
    rng = torch.Generator().manual_seed(1)
    rows, latents = (torch.rand(5, 7, generator=rng) < 0.4).nonzero(as_tuple=True)
    pattern = Pattern(rows, latents, 5, 7)
    values = torch.randn(len(rows), dtype=torch.float64, requires_grad=True)
    W_dec = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, w: sparse_decode(v, w, pattern), (values, W_dec))


@pytest.mark.parametrize("proposal", [None, torch.bfloat16])
@pytest.mark.parametrize("drift", [1.0, 0.8, 0.3, 3.0])
def test_selection_is_the_full_sort(proposal, drift):
    """Also where the scores fell or rose since the bound was set, and when the proposal is coarse."""
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(64, 16, generator=rng)
    W, b = torch.randn(200, 16, generator=rng), torch.randn(200, generator=rng)
    norms = torch.rand(200, generator=rng) + 0.5
    select = BatchTopK(proposal)
    for scale in (1.0, drift):
        pattern, pre = select(scale * x, W, scale * b, norms, 500)
        scores = (torch.relu(scale * x @ W.T + scale * b) * norms).flatten()
        expected = scores.topk(500).indices.sort().values
        assert torch.equal(pattern.rows * 200 + pattern.latents, expected)
        torch.testing.assert_close(pre * norms[pattern.latents], scores[expected])


def test_selection_takes_no_more_than_is_positive():
    x, W = torch.ones(3, 2), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    pattern, _ = BatchTopK()(x, W, torch.zeros(2), torch.ones(2), 5)
    assert pattern.latents.tolist() == [0, 0, 0]


def test_ties_keep_exactly_n():
    x, W = torch.ones(4, 2), torch.ones(3, 2)
    pattern, _ = BatchTopK()(x, W, torch.zeros(3), torch.ones(3), 5)
    assert pattern.rows.numel() == 5


@pytest.mark.parametrize("proposal", [None, torch.bfloat16])
@pytest.mark.parametrize(("latents", "k"), [(40, 3), (512, 8), (70, 60), (5, 5)])
def test_topk_is_the_full_sort_of_every_row(proposal, latents, k):
    """Where there are groups enough and where not, and where a row has fewer than k positive scores."""
    rng = torch.Generator().manual_seed(3)
    x, W = torch.randn(64, 16, generator=rng), torch.randn(latents, 16, generator=rng)
    b, norms = torch.randn(latents, generator=rng), torch.rand(latents, generator=rng) + 0.5
    x[7] = 0
    b[latents // 2 :] -= 2
    pattern, pre = TopK(proposal)(x, W, b, norms, k * len(x))
    scores = torch.relu(x @ W.T + b) * norms
    best = scores.topk(k, dim=1)
    expected = torch.zeros_like(scores).scatter(1, best.indices, best.values)
    found = Code(pattern.rows, pattern.latents, pre * norms[pattern.latents]).dense(len(x), latents)
    # A score within the coarse proposal's rounding of zero may be missed where a row has few others.
    torch.testing.assert_close(found, expected, atol=1e-5 if proposal is None else 0.02, rtol=1e-5)
    assert torch.equal(pattern.rows, pattern.rows.sort(stable=True).values)


def test_topk_ties_keep_exactly_k():
    pattern, _ = TopK()(torch.ones(4, 2), torch.ones(6, 2), torch.zeros(6), torch.ones(6), 8)
    assert pattern.rows.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert pattern.latents.tolist() == [0, 1] * 4


def test_code_dense():
    code = Code(torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([3.0, 4.0]))
    assert code.dense(2, 3).tolist() == [[0, 0, 3], [4, 0, 0]]
