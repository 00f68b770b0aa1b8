"""What a transcoder has to beat, each a `Transcoder` too, so that one scorer serves all.

    linear      ŷ = ȳ + Bᵀ(x − x̄), the best linear map from input to output: what needs no latents at all
    linear-k    the same of rank k (reduced-rank regression [Izenman 1975]): ŷ = ȳ + V Vᵀ Bᵀ(x − x̄)
    neurons     the MLP's own k neurons that write most: ŷ = ȳ + Σ_{i ∈ top k} (h_i − h̄_i) w_i, ranked by
                |h_i − h̄_i|·‖w_i‖; it reads the neurons h
    random      random unit encoder and decoder, one threshold such that L0 = k, scaled and shifted by least squares

    B = (Σ_xx + λ)⁻¹ Σ_xy,  V the k leading eigenvectors of Σ_yx B

Linear maps are written as latents of two signs that are all on, so their L0 is their rank. λ is so small that it
only keeps a singular covariance invertible: with hundreds of tokens a coefficient there is nothing to shrink.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from saes.arrays import Activations, in_order
from saes.calibrate import calibrated, measure
from saes.controls import random_directions, rescaled
from saes.errors import DictionaryError
from saes.transcoder import Transcoder

RIDGE = 1e-6  # λ as a share of the inputs' mean variance


def linear_maps(
    inputs: Activations, targets: Activations, ranks: tuple[int, ...], names: tuple[str, ...]
) -> tuple[Transcoder, ...]:
    """The best linear map of each rank (of `d` or more: of full rank), from one pass."""
    if len(inputs) != len(targets):
        raise DictionaryError(f"{len(inputs)} rows of inputs need as many of targets, found {len(targets)}")
    units, there = measure(inputs), measure(targets)
    n, x_sum, y_sum, xx, xy = 0, *(torch.zeros((), dtype=torch.double) for _ in range(4))
    for (x, _), (y, _) in zip(in_order(inputs), in_order(targets), strict=True):
        x, y = (x - units.mean)[:, 0].double(), (y - there.mean)[:, 0].double()
        n, x_sum, y_sum = n + len(x), x_sum + x.sum(dim=0), y_sum + y.sum(dim=0)
        xx, xy = xx + x.T @ x, xy + x.T @ y
    x_mean, y_mean = x_sum / n, y_sum / n
    S_xx, S_xy = xx / n - torch.outer(x_mean, x_mean), xy / n - torch.outer(x_mean, y_mean)
    ridge = RIDGE * S_xx.diagonal().mean() * torch.eye(len(S_xx), dtype=torch.double)
    B = torch.linalg.solve(S_xx + ridge, S_xy)
    V = torch.linalg.eigh(S_xy.T @ B).eigenvectors.flip(1)
    centre, out = x_mean + units.mean[0], (y_mean + there.mean[0]).float()
    most = min(S_xy.shape)
    return tuple(
        _all_on(B @ V[:, : min(rank, most)], V[:, : min(rank, most)], centre, out, there.scales, names)
        for rank in ranks
    )


def _all_on(
    W_enc: Float[Tensor, "d latent"],
    W_dec: Float[Tensor, "d_out latent"],
    centre: Float[Tensor, " d"],
    out: Float[Tensor, " d_out"],
    scales: Float[Tensor, " one"],
    names: tuple[str, ...],
    k: int | None = None,
) -> Transcoder:
    """ŷ = out + W_dec W_encᵀ(x − centre), of whose latents all are on, or the k farthest from zero."""
    return Transcoder(
        W_enc=W_enc.float()[None],
        b_enc=-(centre.double() @ W_enc.double()).float(),
        W_dec=W_dec.T.float()[:, None].contiguous(),
        b_dec=out[None],
        threshold=torch.zeros(W_enc.shape[1]),
        scales=scales,
        names=names,
        k=W_enc.shape[1] if k is None else min(k, W_enc.shape[1]),
        activation="abstopk",
    )


def largest_neurons(
    hidden: Activations,
    targets: Activations,
    W_out: Float[Tensor, "d_out neuron"],
    k: int,
    names: tuple[str, ...],
) -> Transcoder:
    """The k neurons that write most, the rest at their mean (`W_out` is the MLP's last matrix)."""
    n, total, written = 0, torch.zeros((), dtype=torch.double), torch.zeros((), dtype=torch.double)
    for (h, _), (y, _) in zip(in_order(hidden), in_order(targets), strict=True):
        n, total = n + len(h), total + h[:, 0].double().sum(dim=0)
        written = written + y[:, 0].double().sum(dim=0)
    norms = W_out.norm(dim=0).clamp_min(1e-12)
    scales = measure(targets).scales
    return _all_on(torch.diag(norms), W_out / norms, total / n, (written / n).float(), scales, names, k)


@torch.no_grad()
def random_transcoder(
    inputs: Activations,
    targets: Activations,
    n_latents: int,
    k: int,
    names: tuple[str, ...],
    seed: int = 0,
    calibration: Activations | None = None,
) -> Transcoder:
    """Random directions in and out; `calibration`: activations for the threshold (held back, if there are some)."""
    units, there = measure(inputs), measure(targets)
    d, d_out = units.mean.shape[1], there.mean.shape[1]
    W_enc = random_directions(n_latents, d, 2 * seed).T / units.scales
    raw = Transcoder(
        W_enc=W_enc[None].contiguous(),
        b_enc=-(units.mean[0] @ W_enc),
        W_dec=(random_directions(n_latents, d_out, 2 * seed + 1) * there.scales)[:, None].contiguous(),
        b_dec=torch.zeros(1, d_out),
        threshold=torch.zeros(n_latents),
        scales=there.scales,
        names=names,
        k=k,
    )
    held = calibrated(raw, inputs if calibration is None else calibration)
    made = rescaled(held, inputs, targets)
    assert isinstance(made, Transcoder)
    return made
