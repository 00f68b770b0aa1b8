"""Muon beside torch's own, and what orthogonalising means."""

import copy

import pytest
import torch

from workbench.optimizer import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 40, 16), (2, 16, 40)])
def test_orthogonalised_keeps_singular_vectors_and_evens_singular_values(shape):
    u, _, v = torch.linalg.svd(
        torch.randn(shape, generator=torch.Generator().manual_seed(0)), full_matrices=False
    )
    matrices = u * torch.linspace(0.1, 1.0, min(shape[1:])) @ v
    made = orthogonalised(matrices, torch.float32)
    for before, after in zip(matrices, made, strict=True):
        u, _, v = torch.linalg.svd(before, full_matrices=False)
        inside = u.T @ after @ v.T
        assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-4)
        assert inside.diagonal().min() > 0.3
        assert inside.diagonal().max() < 1.3


def test_steps_are_torchs_but_for_its_rounding_to_bfloat16():
    shapes, rng = [(32, 32), (32, 32), (48, 32), (32, 48)], torch.Generator().manual_seed(1)
    ours = [torch.nn.Parameter(torch.randn(s, generator=rng)) for s in shapes]
    theirs = [torch.nn.Parameter(w.detach().clone()) for w in ours]
    start = [w.detach().clone() for w in ours]
    mine, peer = Muon(ours, lr=0.02), torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0)
    mine.dtype = torch.float32
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=rng)
            b.grad = a.grad.clone()
        mine.step()
        peer.step()
    for a, b, s in zip(ours, theirs, start, strict=True):
        assert (a - b).norm() < 0.02 * (a - s).norm()


def test_a_saved_state_goes_on_where_it_was():
    weights = [torch.nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))]
    copies = [torch.nn.Parameter(weights[0].detach().clone())]
    first, second = Muon(weights, lr=0.1), Muon(copies, lr=0.1)
    grads = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(3))
    for number, grad in enumerate(grads):
        if number == 2:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
            copies[0].data.copy_(weights[0].data)
            copies[0].grad = grad.clone()
            second.step()
        weights[0].grad = grad.clone()
        first.step()
    assert torch.equal(weights[0], copies[0])
