"""Which entries of a batch a sparse code keeps: the k·B largest of the batch, or the k largest of each token.

What is dense in a step is one matrix product that proposes scores; a bound, a scan and a partition of what
passes it find the entries without sorting anything (`saes.sparse` has the milliseconds).
"""

from __future__ import annotations

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


class BatchTopK:
    """Finds the n entries of the batch with the largest scores ReLU(pre_tj)·s_j [Bussmann 2024].

    On a CPU the scores are proposed in bfloat16 where the processor multiplies it natively, entries above a
    bound just under the last step's threshold are scored again in float32, and a partition of those decides.
    The answer is that of the full sort: where the threshold found is not safely above the bound, the bound is
    lowered and the scan repeated. `bound` (a float) is all the state there is, and it changes speed, never
    the result. On other devices it is one `topk` of fixed size, so nothing waits for the device.
    """

    MARGIN = 0.94  # bound as a share of the last threshold: about 1.2 candidates an entry kept

    def __init__(self, proposal: torch.dtype | None = None):
        self.proposal = proposal
        self.bound = 0.0

    @torch.no_grad()
    def __call__(
        self,
        x: Float[Tensor, "token d"],
        W_enc: Float[Tensor, "latent d"],
        b_enc: Float[Tensor, " latent"],
        norms: Float[Tensor, " latent"],
        n: int,
    ) -> Selection:
        dtype = self.proposal or x.dtype
        scores = _scores(x, W_enc, b_enc, norms, dtype)
        if x.device.type != "cpu":
            flat = scores.flatten().topk(n, sorted=False).indices.sort().values
            pattern = _pattern(flat, scores.shape)
            return Selection(pattern, inner(pattern, x, W_enc) + b_enc[pattern.latents])
        bound = self.bound
        while True:
            candidates = _pattern(_above(scores, bound), scores.shape)
            pre = inner(candidates, x, W_enc).add_(b_enc.index_select(0, candidates.latents))
            exact = pre * norms.index_select(0, candidates.latents)
            if exact.numel() >= n:
                threshold, keep = _largest(exact, n)
                if bound == 0.0 or threshold >= bound * SAFETY.get(dtype, 1.0):
                    break
            elif bound == 0.0:  # fewer than n entries are positive at all
                threshold, keep = 0.0, torch.arange(exact.numel())
                break
            bound = bound * 0.8 if bound > 1e-6 else 0.0
        self.bound = max(threshold * self.MARGIN, 0.0)
        rows, latents = candidates.rows.index_select(0, keep), candidates.latents.index_select(0, keep)
        return Selection(Pattern(rows, latents, *scores.shape), pre.index_select(0, keep))


class TopK:
    """Finds each token's k entries with the largest scores ReLU(pre_tj)·s_j [Gao 2024].

    On a CPU no row is sorted. The latents are dealt into groups; the k-th largest of a row's group maxima is
    at most its k-th largest score, so entries below it (less a margin for the proposal's rounding) cannot be
    among the k. What is left, hardly more than k a row, is scored again in float32 and partitioned. (Only
    where a row has fewer than k clearly positive scores may one within the rounding of zero be missed.)
    """

    GROUP = 16  # latents whose maximum stands for them; smaller groups pass fewer candidates
    MARGIN = 8  # steps of bfloat16 that a proposed score may lie under its bound, 3 to 6 %
    bound = 0.0  # nothing is carried from step to step

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
        dtype = self.proposal or x.dtype
        k = max(1, round(n / x.shape[0]))
        scores = _scores(x, W_enc, b_enc, norms, dtype)
        if x.device.type != "cpu":
            best = scores.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
            rows = torch.arange(x.shape[0], device=x.device).repeat_interleave(k)
            pattern = Pattern(rows, best.flatten(), *scores.shape)
            return Selection(pattern, inner(pattern, x, W_enc) + b_enc[pattern.latents])
        candidates = _pattern(self._candidates(scores, k), scores.shape)
        pre = inner(candidates, x, W_enc).add_(b_enc.index_select(0, candidates.latents))
        exact = (pre * norms.index_select(0, candidates.latents)).numpy()
        keep = torch.from_numpy(_largest_by_row(exact, candidates, k))
        rows, latents = candidates.rows.index_select(0, keep), candidates.latents.index_select(0, keep)
        return Selection(Pattern(rows, latents, *scores.shape), pre.index_select(0, keep))

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


def _scores(x: Tensor, W_enc: Tensor, b_enc: Tensor, norms: Tensor, dtype: torch.dtype) -> Tensor:
    """Every pre_tj·s_j, [token, latent], in `dtype`: the one dense product of a step."""
    return torch.addmm((b_enc * norms).to(dtype), x.to(dtype), (W_enc * norms[:, None]).to(dtype).t())


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
