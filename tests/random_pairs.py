"""Pairs of random prompts that part at one early token."""

from __future__ import annotations

import torch

from tests.tiny_models import VOCAB
from workbench.circuits.pairs import Pairs


def pairs(n=3, length=6, seed=0, ragged=False):
    draw = torch.Generator().manual_seed(seed)
    clean = torch.randint(5, VOCAB, (n, length), generator=draw)
    corrupt = clean.clone()
    corrupt[:, 1] = (clean[:, 1] + 7) % (VOCAB - 5) + 5
    last = torch.full((n,), length - 1)
    if ragged:
        last[0] = length - 3
    target = torch.randint(5, 150, (n,), generator=draw)
    return Pairs("random", clean, corrupt, target, target + 100, last)
