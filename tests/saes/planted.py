"""Activations with a known dictionary inside."""

import torch
from torch import Tensor

from saes import Dictionary


def planted(n_tokens: int, n_features: int, d: int, n_models: int = 1, active: int = 3, seed: int = 0):
    """(activations [token, model, d], directions [feature, model, d]): sparse positive sums of unit
    directions."""
    rng = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(n_features, n_models, d, generator=rng), dim=2)
    on = torch.rand(n_tokens, n_features, generator=rng) < active / n_features
    strength = on * (1 + 0.3 * torch.rand(n_tokens, n_features, generator=rng))
    return torch.einsum("tf,fmd->tmd", strength, directions) + 0.5, directions


def random_dictionary(n_models: int = 1, d: int = 8, n_latents: int = 20, seed: int = 0) -> Dictionary:
    rng = torch.Generator().manual_seed(seed)
    W_dec: Tensor = torch.randn(n_latents, n_models, d, generator=rng)
    return Dictionary(
        W_enc=W_dec.permute(1, 2, 0).contiguous(),
        b_enc=0.1 * torch.randn(n_latents, generator=rng),
        W_dec=W_dec,
        b_dec=torch.randn(n_models, d, generator=rng),
        threshold=2 * torch.rand(n_latents, generator=rng),
        scales=torch.rand(n_models, generator=rng) + 0.5,
        names=tuple(f"m{i}" for i in range(n_models)),
        k=4,
        site="blocks.1.hook_resid_post",
    )
