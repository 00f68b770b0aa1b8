"""Where tensors live: the first CUDA device if there is one, else the processor."""

from __future__ import annotations


def best_device() -> str:
    """`cuda` or `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
