"""One pass of a dictionary over held-out tokens, every sum kept by group (a document, say).

    FVU_m = Σ_t ‖x^m_t − x̂^m_t‖² / Σ_t ‖x^m_t − x̄^m‖²        L0 = active latents / tokens
    shrinkage_m = mean of ‖x̂^m − b_dec^m‖ / ‖x^m − b_dec^m‖

Sums by group are what a bootstrap over documents needs. Tokens that do not count (chat markers) are left out
before anything is summed, the mean included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.arrays import Activations, in_order, read
from saes.dictionary import Dictionary
from saes.errors import DictionaryError

TINY = 1e-12  # lengths below this are zero


class Ratio(NamedTuple):
    """Σ numerator / Σ denominator, both by group."""

    numerator: Float[np.ndarray, "group"]
    denominator: Float[np.ndarray, "group"]

    @property
    def value(self) -> float:
        below = self.denominator.sum()
        return float(self.numerator.sum() / below) if below else float("nan")


@dataclass(frozen=True)
class HeldoutSums:
    """What one pass found; `fires` over all tokens that count, the rest by group."""

    residual: Float[np.ndarray, "model group"]
    total: Float[np.ndarray, "model group"]
    lengths: Float[np.ndarray, "model group"]  # Σ ‖x̂ − b_dec‖ / ‖x − b_dec‖
    entries: Float[np.ndarray, "group"]
    tokens: Float[np.ndarray, "group"]
    fires: Int[np.ndarray, "latent"]

    def fvu(self, model: int) -> Ratio:
        """Fraction of variance unexplained."""
        return Ratio(self.residual[model], self.total[model])

    def shrinkage(self, model: int) -> Ratio:
        """Mean length of the reconstruction over that of the activation, both about b_dec."""
        return Ratio(self.lengths[model], self.tokens)

    def l0(self) -> Ratio:
        """Active latents a token."""
        return Ratio(self.entries, self.tokens)

    @property
    def n_tokens(self) -> int:
        return int(self.tokens.sum())

    @property
    def alive(self) -> Bool[np.ndarray, "latent"]:
        return self.fires > 0

    @property
    def dead_share(self) -> float:
        """Share of latents that fire on no token."""
        return float(1 - self.alive.mean())


def heldout_sums(
    dictionary: Dictionary,
    activations: Activations,
    group: Int[np.ndarray, "token"] | None = None,
    counted: Bool[np.ndarray, "token"] | None = None,
    report: Callable[[int], None] = lambda n: None,
    targets: Activations | None = None,
) -> HeldoutSums:
    """Sums over the tokens that are `counted` (all by default) by `group` (one by default).

    A second, cheap pass comes first for the mean. `report` is told the tokens done. x in the sums is what is to
    be reconstructed: for a transcoder the `targets`.
    """
    n = len(activations)
    group = np.zeros(n, dtype=np.int64) if group is None else np.asarray(group)
    counted = np.ones(n, dtype=bool) if counted is None else np.asarray(counted)
    if len(group) != n or len(counted) != n:
        raise DictionaryError(f"{n} tokens need as many groups and marks, found {len(group)}, {len(counted)}")
    n_counted, n_groups = int(counted.sum()), int(group.max()) + 1
    if n_counted < 2:
        raise DictionaryError(f"FVU needs at least 2 tokens, found {n_counted}")
    written = activations if targets is None else targets
    nothing = torch.zeros((), dtype=torch.double)
    mean = sum((x.double().sum(dim=0) for x, _ in counted_chunks(written, counted)), nothing) / n_counted
    residual, total, lengths = (np.zeros((dictionary.n_models, n_groups)) for _ in range(3))
    entries, tokens = np.zeros(n_groups), np.zeros(n_groups)
    fires = np.zeros(dictionary.n_latents, dtype=np.int64)
    for x, rows in counted_chunks(activations, counted):
        found = _token_sums(dictionary, x, x if targets is None else read(targets, rows), mean)
        where = group[rows]
        for m in range(dictionary.n_models):
            residual[m] += np.bincount(where, found.residual[:, m], minlength=n_groups)
            total[m] += np.bincount(where, found.total[:, m], minlength=n_groups)
            lengths[m] += np.bincount(where, found.lengths[:, m], minlength=n_groups)
        entries += np.bincount(where, found.entries, minlength=n_groups)
        tokens += np.bincount(where, minlength=n_groups)
        fires += found.fires
        report(len(rows))
    return HeldoutSums(residual, total, lengths, entries, tokens, fires)


class _TokenSums(NamedTuple):
    residual: Float[np.ndarray, "token model"]
    total: Float[np.ndarray, "token model"]
    lengths: Float[np.ndarray, "token model"]
    entries: Int[np.ndarray, "token"]
    fires: Int[np.ndarray, "latent"]


@torch.no_grad()
def _token_sums(
    dictionary: Dictionary,
    read_from: Float[Tensor, "token model d_in"],
    x: Float[Tensor, "token model d"],
    mean: Float[Tensor, "model d"],
) -> _TokenSums:
    read_from, x = read_from.to(dictionary.device), x.to(dictionary.device)
    code = dictionary.encode_sparse(read_from)
    x_hat = dictionary.output(code, read_from)
    long = (x - dictionary.b_dec).norm(dim=2).clamp_min(TINY)
    return _TokenSums(
        residual=(x - x_hat).double().square().sum(dim=2).cpu().numpy(),
        total=(x.cpu().double() - mean).square().sum(dim=2).numpy(),
        lengths=((x_hat - dictionary.b_dec).norm(dim=2) / long).double().cpu().numpy(),
        entries=np.bincount(code.rows.cpu().numpy(), minlength=len(x)),
        fires=np.bincount(code.latents.cpu().numpy(), minlength=dictionary.n_latents),
    )


def counted_chunks(
    activations: Activations, counted: Bool[np.ndarray, "token"]
) -> Iterator[tuple[Float[Tensor, "token model d"], Int[np.ndarray, "token"]]]:
    """The rows that count, in file order, a chunk at a time."""
    for x, rows in in_order(activations):
        keep = counted[rows]
        if keep.all():
            yield x, rows
        elif keep.any():
            yield x[torch.from_numpy(keep)], rows[keep]
