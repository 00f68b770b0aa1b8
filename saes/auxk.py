"""AuxK: dead latents reconstruct what the living ones leave over [Gao 2024] (of the target, for a transcoder).

    L_aux = coeff · ‖e − ê‖² / ‖e‖²,  e = x − x̂ held constant,  ê = Σ_{j dead} TopK(ReLU(pre))_j d_j

Only the columns of latents that are dead enter (at most `aux_latents`, those silent longest), on the first
`aux_tokens` of the batch, which is shuffled: small dense products beside the sparse step. We depart from the
source in what "dead" means: silent for a share of *this run*, not for 10 million tokens.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from saes.config import TrainConfig


def auxk_loss(
    x: Float[Tensor, "token d"],
    target: Float[Tensor, "token d_out"],
    target_hat: Float[Tensor, "token d_out"],
    W_enc: Float[Tensor, "latent d"],
    b_enc: Float[Tensor, " latent"],
    W_dec: Float[Tensor, "latent d_out"],
    silent_steps: Int[Tensor, " latent"],
    config: TrainConfig,
) -> Float[Tensor, ""] | None:
    """The loss, or None (on a CPU) where no latent is dead. Elsewhere living columns are masked: no
    waiting."""
    stale, columns = silent_steps.topk(min(config.aux_latents, len(silent_steps)))
    dead = stale >= config.dead_after
    if x.device.type == "cpu":
        columns = columns[dead]
        if len(columns) == 0:
            return None
        dead = torch.ones(len(columns), dtype=torch.bool)
    n = min(config.aux_tokens, x.shape[0])
    residual = (target[:n] - target_hat[:n]).detach()
    pre = F.linear(x[:n], _rows(W_enc, columns), b_enc.index_select(0, columns))
    latents = F.relu(pre) * dead
    if len(columns) > config.aux_k:
        latents = latents * (latents >= _kth_largest(latents.detach(), config.aux_k))
    missed = residual - latents @ _rows(W_dec, columns)
    return config.aux_coeff * missed.square().sum() / residual.square().sum().clamp_min(1e-12)


def _rows(table: Float[Tensor, "latent d"], columns: Int[Tensor, " column"]) -> Float[Tensor, "column d"]:
    """Some rows. On a CPU their gradient is added to those rows alone; that of `index_select` is a whole table,
    zeros elsewhere."""
    return F.embedding(columns, table, sparse=table.device.type == "cpu")


def _kth_largest(latents: Float[Tensor, "token column"], k: int) -> Float[Tensor, "token 1"]:
    """The k-th largest of each row; on a CPU by partition, which takes a third of `topk`."""
    if latents.device.type != "cpu":
        return latents.topk(k, dim=1).values[:, -1:]
    at = latents.shape[1] - k
    return torch.from_numpy(np.partition(latents.numpy(), at, axis=1)[:, at : at + 1])
