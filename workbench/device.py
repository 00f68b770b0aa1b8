"""Where tensors live: the first CUDA device if there is one, else the processor, and how its memory is kept."""

from __future__ import annotations

import contextlib
import ctypes

SMALL = 256  # d_model of a model whose products one thread does soonest

# glibc's mallopt(3): parameter numbers from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def best_device() -> str:
    """`cuda` or `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def few_threads(d_model: int) -> contextlib.AbstractContextManager[object]:
    """One thread for a small model: its products are too small to share, and threads that wait for one another on
    busy cores took eight times as long."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1) if d_model <= SMALL and best_device() == "cpu" else contextlib.nullcontext()


def fast_bfloat16() -> bool:
    """Whether `best_device` multiplies bfloat16 in hardware. Processors without AVX512-BF16 or AMX emulate it:
    0.6 against 149 GFLOP/s in float32 on an EPYC of 2021."""
    import torch

    from saes.selection import native_bfloat16

    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else native_bfloat16()


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next tensor instead of handing it back to the kernel.

    A training step allocates and frees the same tens of megabytes again and again; each return costs its
    pages once more (24,000 page faults a step of `quick`'s base, a tenth of its time). Without glibc nothing
    happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
        libc.mallopt(_TOP_PAD, 64 << 20)
