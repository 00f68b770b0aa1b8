"""Which entries of a batch a sparse code keeps: the k·B largest of the batch, or the k largest of each token.

What is dense in a step is one matrix product that proposes scores, and one pass over them that takes the
largest of every `GROUP` neighbours. Nothing is sorted: a bound tells which groups can hold an entry that is
kept, and a partition of what passes it decides (`saes.sparse` has the milliseconds).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saes.sparse import Pattern, inner


class Selection(NamedTuple):
    """The kept entries and their preactivations."""

    pattern: Pattern
    pre: Float[Tensor, " entry"]


GROUP = 16  # neighbouring latents whose largest score stands for them
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
            norm = norms.index_select(0, pattern.latents)
            # On a CPU float32 scores are exact, and candidates positive, so no norm is zero: no second scoring.
            if x.device.type == "cpu" and dtype == torch.float32:
                exact = scores.view(-1).index_select(0, flat)
                return Candidates(pattern, exact / norm, exact)
            pre = inner(pattern, x, W_enc).add_(b_enc.index_select(0, pattern.latents))
            return Candidates(pattern, pre, pre * norm)

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

    MARGIN = 0.97  # bound as a share of the last threshold: about 1.1 candidates an entry kept

    def _at_once(self, scores: Tensor, n: int) -> Tensor:
        return scores.flatten().topk(n, sorted=False).indices.sort().values

    def _chosen(
        self, scores: Tensor, n: int, rescored: Callable[[Tensor], Candidates]
    ) -> tuple[Candidates, Tensor]:
        bound, largest = self.bound, _group_maxima(scores)
        while True:
            candidates = rescored(_above(scores, largest, bound))
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

    On a CPU no row is sorted. The k-th largest of a row's group maxima is at most its k-th largest score, so
    entries below it (less a margin for the proposal's rounding) cannot be among the k. What is left, hardly
    more than k a row, is partitioned. (Only where a row has fewer than k
    clearly positive scores may one within the rounding of zero be missed.)
    """

    MARGIN = 2**-4  # share of its bound that a score proposed in bfloat16 may lie under it: 8 steps at the most

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
        largest = _group_maxima(scores)
        n = largest.shape[1]
        bound = np.partition(largest.numpy(), n - k, axis=1)[:, n - k] if n >= k else np.zeros(len(scores))
        if scores.dtype == torch.bfloat16:
            bound = bound * (1 - self.MARGIN)
        below = np.nextafter(np.maximum(bound, 0, dtype=np.float32), np.float32(-1))  # the k-th itself passes
        return _above(scores, largest, torch.from_numpy(np.maximum(below, 0)))


def _largest_by_row(values: np.ndarray, candidates: Pattern, k: int) -> np.ndarray:
    """Which candidates (in token order) are among their row's k largest and positive; of equal values at the
    edge the first are kept. Only rows with more than k candidates are looked into."""
    starts = candidates.row_starts.numpy()
    sizes = np.diff(starts)
    keep = values > 0
    crowded = np.flatnonzero(sizes > k)
    if len(crowded):
        width = int(sizes.max())
        at = starts[crowded, None] + np.arange(width)
        inside = np.arange(width) < sizes[crowded, None]
        table = np.where(inside, values[np.minimum(at, len(values) - 1)], values.dtype.type(-np.inf))
        edge = np.partition(table, width - k, axis=1)[:, width - k, None]
        room = k - (table > edge).sum(axis=1, keepdims=True)
        ties = table == edge
        dropped = (table < edge) | (ties & (ties.cumsum(axis=1) > room))
        keep[at[dropped & inside]] = False
    return np.flatnonzero(keep)


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


def _group_maxima(scores: Float[Tensor, "token latent"]) -> Float[Tensor, "token group"]:
    """The largest of each `GROUP` neighbours, in float32; the last group may have fewer."""
    if padding := -scores.shape[1] % GROUP:
        scores = F.pad(scores, (0, padding), value=-torch.inf)
    return F.max_pool1d(scores[:, None], GROUP)[:, 0].float()


def _above(
    scores: Float[Tensor, "token latent"],
    largest: Float[Tensor, "token group"],
    bound: Float[Tensor, " token"] | float,
) -> Tensor:
    """Flat indices, ascending, of the scores above `bound` ≥ 0 (of all, or of each row). Only groups whose
    largest is above it are looked into; numpy scans several times faster than torch here."""
    n_tokens, n_latents = scores.shape
    limit = torch.as_tensor(bound).expand(n_tokens)
    groups = torch.from_numpy(np.flatnonzero((largest > limit[:, None]).numpy()))
    rows = groups // largest.shape[1]
    if n_latents % GROUP:  # the last group of a row would run into the next
        first = (groups - rows * largest.shape[1]) * GROUP
        start = rows * n_latents + first
        offset = torch.arange(GROUP)
        inside = first[:, None] + offset < n_latents
        values = scores.flatten()[torch.where(inside, start[:, None] + offset, 0)]
        values = values.masked_fill(~inside, -torch.inf)
    else:
        start = groups * GROUP
        values = scores.view(-1, GROUP).index_select(0, groups)
    passing = values.float() > limit.index_select(0, rows)[:, None]
    found = torch.from_numpy(np.flatnonzero(passing.numpy()))
    return start.index_select(0, found // GROUP) + found % GROUP


def _largest(values: Tensor, n: int) -> tuple[float, Tensor]:
    """The n-th largest value, and where the n largest are; of equal values at the edge the first are kept."""
    array = values.numpy()
    threshold = np.partition(array, array.size - n)[array.size - n]
    keep = np.flatnonzero(array >= threshold)
    if keep.size > n:
        edge = np.flatnonzero(array[keep] == threshold)
        keep = np.delete(keep, edge[n - keep.size :])
    return float(threshold), torch.from_numpy(keep)
