"""Which entries of a batch a sparse code keeps: the k·B largest of the batch, or the k largest of each token.

What is dense in a step is one matrix product that proposes scores; a bound, a scan and a partition of what
passes it find the entries without sorting anything (`saes.sparse` has the milliseconds).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saes.sparse import Pattern, inner


class Selection(NamedTuple):
    """The kept entries and their preactivations."""

    pattern: Pattern
    pre: Float[Tensor, " entry"]


SAFETY = {torch.bfloat16: 1.02}  # how far above the bound a threshold must lie, for the proposal's rounding


class Candidates(NamedTuple):
    """Entries that may be kept, scored again in float32."""

    pattern: Pattern
    pre: Float[Tensor, " entry"]
    scores: Float[Tensor, " entry"]


class _Largest(ABC):
    """What both ways of choosing share. On a CPU scores are proposed, in bfloat16 where the processor
    multiplies it natively; `_chosen` narrows them to candidates and decides on their float32 scores. On other
    devices `_at_once` is one `topk` of fixed size, so nothing waits for the device."""

    bound = 0.0  # all that is carried from step to step; it changes speed, never the result

    def __init__(self, proposal: torch.dtype | None = None):
        self.proposal = proposal

    @torch.no_grad()
    def __call__(
        self,
        x: Float[Tensor, "token d"],
        W_enc: Float[Tensor, "latent d"],
        b_enc: Float[Tensor, " latent"],
        norms: Float[Tensor, " latent"],
        n: int,
    ) -> Selection:
        """About n entries of the batch: n / tokens a token on average."""
        dtype = self.proposal or x.dtype
        # Every pre_tj·s_j, [token, latent]: the one dense product of a step.
        scores = torch.addmm((b_enc * norms).to(dtype), x.to(dtype), (W_enc * norms[:, None]).to(dtype).t())

        def rescored(flat: Tensor) -> Candidates:
            pattern = _pattern(flat, scores.shape)
            pre = inner(pattern, x, W_enc).add_(b_enc.index_select(0, pattern.latents))
            return Candidates(pattern, pre, pre * norms.index_select(0, pattern.latents))

        if x.device.type != "cpu":
            return Selection(*rescored(self._at_once(scores, n))[:2])
        (pattern, pre, _), keep = self._chosen(scores, n, rescored)
        rows, latents = pattern.rows.index_select(0, keep), pattern.latents.index_select(0, keep)
        return Selection(Pattern(rows, latents, *scores.shape), pre.index_select(0, keep))

    @abstractmethod
    def _at_once(self, scores: Tensor, n: int) -> Tensor:
        """Flat indices of what is kept, ascending."""

    @abstractmethod
    def _chosen(
        self, scores: Tensor, n: int, rescored: Callable[[Tensor], Candidates]
    ) -> tuple[Candidates, Tensor]:
        """Candidates, and which of them are kept."""


class BatchTopK(_Largest):
    """Finds the n entries of the batch with the largest scores ReLU(pre_tj)·s_j [Bussmann 2024].

    Entries above a bound just under the last step's threshold are candidates, and a partition of those decides.
    The answer is that of the full sort: where the threshold found is not safely above the bound, the bound is
    lowered and the scan repeated.
    """

    MARGIN = 0.94  # bound as a share of the last threshold: about 1.2 candidates an entry kept

    def _at_once(self, scores: Tensor, n: int) -> Tensor:
        return scores.flatten().topk(n, sorted=False).indices.sort().values

    def _chosen(
        self, scores: Tensor, n: int, rescored: Callable[[Tensor], Candidates]
    ) -> tuple[Candidates, Tensor]:
        bound = self.bound
        while True:
            candidates = rescored(_above(scores, bound))
            exact = candidates.scores
            if exact.numel() >= n:
                threshold, keep = _largest(exact, n)
                if bound == 0.0 or threshold >= bound * SAFETY.get(scores.dtype, 1.0):
                    break
            elif bound == 0.0:  # fewer than n entries are positive at all
                threshold, keep = 0.0, torch.arange(exact.numel())
                break
            bound = bound * 0.8 if bound > 1e-6 else 0.0
        self.bound = max(threshold * self.MARGIN, 0.0)
        return candidates, keep


class TopK(_Largest):
    """Finds each token's k entries with the largest scores ReLU(pre_tj)·s_j [Gao 2024].

    On a CPU no row is sorted. The latents are dealt into groups; the k-th largest of a row's group maxima is
    at most its k-th largest score, so entries below it (less a margin for the proposal's rounding) cannot be
    among the k. What is left, hardly more than k a row, is partitioned. (Only where a row has fewer than k
    clearly positive scores may one within the rounding of zero be missed.)
    """

    GROUP = 16  # latents whose maximum stands for them; smaller groups pass fewer candidates
    MARGIN = 8  # steps of bfloat16 that a proposed score may lie under its bound, 3 to 6 %

    def _at_once(self, scores: Tensor, n: int) -> Tensor:
        best = scores.topk(_per_token(scores, n), dim=1, sorted=False).indices.sort(dim=1).values
        starts = torch.arange(0, scores.numel(), scores.shape[1], device=scores.device)
        return (starts[:, None] + best).flatten()

    def _chosen(
        self, scores: Tensor, n: int, rescored: Callable[[Tensor], Candidates]
    ) -> tuple[Candidates, Tensor]:
        k = _per_token(scores, n)
        candidates = rescored(self._candidates(scores, k))
        return candidates, torch.from_numpy(_largest_by_row(candidates.scores.numpy(), candidates.pattern, k))

    def _candidates(self, scores: Tensor, k: int) -> Tensor:
        """Flat indices of positive entries that may be among their row's k largest."""
        # A positive bfloat16 orders like its bits and a negative one is a negative int16 (see `_above`).
        narrow = scores.dtype == torch.bfloat16
        values = scores.view(torch.int16).numpy() if narrow else scores.numpy()
        n_groups = values.shape[1] // self.GROUP
        if n_groups < 2 * k:
            bound = np.partition(values, values.shape[1] - k, axis=1)[:, values.shape[1] - k]
        else:
            dealt = values[:, : n_groups * self.GROUP].reshape(len(values), self.GROUP, n_groups)
            largest = dealt.max(axis=1)
            bound = np.partition(largest, n_groups - k, axis=1)[:, n_groups - k]
        low = bound.astype(np.int32) - self.MARGIN if narrow else np.nextafter(bound, np.float32(-np.inf))
        bound = np.maximum(low, 0).astype(values.dtype)
        return torch.from_numpy(np.flatnonzero(values > bound[:, None]))


def _largest_by_row(values: np.ndarray, candidates: Pattern, k: int) -> np.ndarray:
    """Which candidates (in token order) are among their row's k largest and positive; of equal values at the
    edge the first are kept."""
    rows, starts = candidates.rows.numpy(), candidates.row_starts.numpy()
    sizes = np.diff(starts)
    width = int(sizes.max(initial=0))
    if width <= k:
        return np.flatnonzero(values > 0)
    table = np.full((candidates.n_tokens, width), -np.inf, dtype=values.dtype)
    table[rows, np.arange(len(rows)) - starts[rows]] = values
    edge = np.maximum(np.partition(table, width - k, axis=1)[:, width - k], 0)
    above = values > edge[rows]
    at_edge = (values == edge[rows]) & (values > 0)
    room = k - np.bincount(rows[above], minlength=candidates.n_tokens)
    before = np.cumsum(at_edge) - at_edge
    first = before[np.minimum(starts[:-1], max(len(before) - 1, 0))][rows]
    return np.flatnonzero(above | (at_edge & (before - first < room[rows])))


def _per_token(scores: Tensor, n: int) -> int:
    return max(1, round(n / scores.shape[0]))


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (elsewhere it is emulated, and slower than
    float32)."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())


def _pattern(flat: Tensor, shape: torch.Size) -> Pattern:
    rows = flat // shape[1]
    return Pattern(rows, flat - rows * shape[1], *shape)


def _above(scores: Tensor, bound: float) -> Tensor:
    """Flat indices of the scores above `bound` ≥ 0. numpy compares and scans several times faster than torch
    here."""
    if scores.dtype == torch.bfloat16:
        # A positive bfloat16 orders like its bits, a negative one is a negative int16: compare as integers.
        bits = torch.tensor(bound, dtype=torch.bfloat16).view(torch.int16).numpy()
        return torch.from_numpy(np.flatnonzero(scores.view(torch.int16).numpy() > bits))
    return torch.from_numpy(np.flatnonzero(scores.numpy() > bound))


def _largest(values: Tensor, n: int) -> tuple[float, Tensor]:
    """The n-th largest value, and where the n largest are; of equal values at the edge the first are kept."""
    array = values.numpy()
    threshold = np.partition(array, array.size - n)[array.size - n]
    keep = np.flatnonzero(array >= threshold)
    if keep.size > n:
        edge = np.flatnonzero(array[keep] == threshold)
        keep = np.delete(keep, edge[n - keep.size :])
    return float(threshold), torch.from_numpy(keep)
