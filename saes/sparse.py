"""Sparse codes and the three products that train a dictionary without touching its silent latents.

A batch of B tokens over F latents keeps about k·B of the B·F entries. Encoding, decoding and their gradients
need only those entries (token t, latent j, value f):

    encode     f      = ReLU(⟨x_t, W_enc_j⟩ + b_j)        sampled dense-dense product
    decode     x̂_t    = Σ_j f_tj W_dec_j                   bag of rows, one bag a token
    gradients  ∂W_dec_j = Σ_t f_tj g_t,  ∂f_tj = ⟨g_t, W_dec_j⟩,  ∂W_enc_j = Σ_t ∂f_tj x_t

so the weight gradients are bags too, one bag a latent, over the same entries in latent order. What stays
dense is the proposal: one matrix product that finds *which* entries are kept (`BatchTopK` below).

Choice of kernels, one core, B 2048, d 128, F 2048, k 16, milliseconds: bag of rows (`embedding_bag` with
sorted offsets) 0.2, CSR @ dense 0.5, gather and `index_add_` 5; inner products by `sampled_addmm` 0.4, by two
gathers and einsum 8, by a dense product and a gather 12. Proposal 12 in float32, 5.4 in bfloat16; the k·B
largest of 4 M scores by `topk` 60, by a bound, a scan and a partition of what passes 2.5.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

with warnings.catch_warnings():
    # torch says once a process that CSR is young. We use one kernel of it, held to a dense reference by a test.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(
        torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1), check_invariants=False
    )


class Code(NamedTuple):
    """A sparse [token, latent] array, entries in token order (latents ascend within a token)."""

    rows: Int[Tensor, " entry"]
    latents: Int[Tensor, " entry"]
    values: Float[Tensor, " entry"]

    def dense(self, n_tokens: int, n_latents: int) -> Float[Tensor, "token latent"]:
        out = self.values.new_zeros(n_tokens, n_latents)
        out[self.rows, self.latents] = self.values
        return out


@dataclass(frozen=True)
class Pattern:
    """Where the entries of a code lie, in token order, and (derived once) the same entries in latent
    order."""

    rows: Int[Tensor, " entry"]
    latents: Int[Tensor, " entry"]
    n_tokens: int
    n_latents: int

    @cached_property
    def row_starts(self) -> Int[Tensor, " token_and_one"]:
        return _starts(self.rows, self.n_tokens)

    @cached_property
    def latent_starts(self) -> Int[Tensor, " latent_and_one"]:
        return _starts(self.latents, self.n_latents)

    @cached_property
    def by_latent(self) -> Int[Tensor, " entry"]:
        """The order that sorts entries by latent (stable, so tokens ascend within a latent)."""
        narrow = self.latents.to(torch.int16) if self.n_latents < 2**15 else self.latents
        return torch.argsort(narrow, stable=True)

    @cached_property
    def rows_by_latent(self) -> Int[Tensor, " entry"]:
        return self.rows[self.by_latent]

    @property
    def fires(self) -> Int[Tensor, " latent"]:
        """How many tokens of the batch each latent is on."""
        return self.latent_starts.diff()


def _starts(sorted_or_not: Tensor, n: int) -> Tensor:
    starts = torch.zeros(n + 1, dtype=torch.long, device=sorted_or_not.device)
    starts[1:] = _counts(sorted_or_not, n).cumsum(0)
    return starts


def _counts(index: Tensor, n: int) -> Tensor:
    if index.device.type == "cpu":
        return torch.bincount(index, minlength=n)
    return torch.zeros(n, dtype=torch.long, device=index.device).index_add_(0, index, torch.ones_like(index))


def _bags(index: Tensor, weights: Tensor, table: Tensor, starts: Tensor) -> Tensor:
    """Row b of the result is Σ weights[e]·table[index[e]] over the entries e of bag b."""
    if index.numel() == 0:
        return table.new_zeros(starts.numel() - 1, table.shape[1])
    return F.embedding_bag(index, table, starts[:-1], mode="sum", per_sample_weights=weights)


def _inner(pattern: Pattern, left: Tensor, right: Tensor) -> Tensor:
    """⟨left[t], right[j]⟩ for every entry (t, j)."""
    if pattern.rows.numel() == 0:
        return left.new_zeros(0)
    csr = torch.sparse_csr_tensor(
        pattern.row_starts,
        pattern.latents,
        left.new_zeros(pattern.rows.numel()),
        (pattern.n_tokens, pattern.n_latents),
        check_invariants=False,
    )
    return torch.sparse.sampled_addmm(csr, left.contiguous(), right.t(), beta=0.0).values()


class _SparseEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W_enc, b_enc, pattern, known):
        ctx.save_for_backward(x, W_enc)
        ctx.pattern = pattern
        if known is not None:
            return known
        return _inner(pattern, x, W_enc) + b_enc[pattern.latents]

    @staticmethod
    def backward(ctx, grad):
        x, W_enc = ctx.saved_tensors
        p = ctx.pattern
        grad_by_latent = grad[p.by_latent]
        grad_W = _bags(p.rows_by_latent, grad_by_latent, x, p.latent_starts)
        grad_b = grad.new_zeros(p.n_latents).index_add_(0, p.latents, grad)
        grad_x = _bags(p.latents, grad.contiguous(), W_enc, p.row_starts) if ctx.needs_input_grad[0] else None
        return grad_x, grad_W, grad_b, None, None


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, W_dec, pattern):
        ctx.save_for_backward(values, W_dec)
        ctx.pattern = pattern
        return _bags(pattern.latents, values, W_dec, pattern.row_starts)

    @staticmethod
    def backward(ctx, grad):
        values, W_dec = ctx.saved_tensors
        p = ctx.pattern
        grad = grad.contiguous()
        grad_values = _inner(p, grad, W_dec)
        grad_W = _bags(p.rows_by_latent, values[p.by_latent], grad, p.latent_starts)
        return grad_values, grad_W, None


def sparse_encode(
    x: Float[Tensor, "token d"],
    W_enc: Float[Tensor, "latent d"],
    b_enc: Float[Tensor, " latent"],
    pattern: Pattern,
    known: Float[Tensor, " entry"] | None = None,
) -> Float[Tensor, " entry"]:
    """Preactivations ⟨x_t, W_enc_j⟩ + b_enc_j at the entries of `pattern`; differentiable, gradients at them
    only.

    `known`: the same numbers where the selection has computed them already.
    """
    return _SparseEncode.apply(x, W_enc, b_enc, pattern, known)


def sparse_decode(
    values: Float[Tensor, " entry"], W_dec: Float[Tensor, "latent d"], pattern: Pattern
) -> Float[Tensor, "token d"]:
    """x̂_t = Σ_j f_tj W_dec_j over the entries of `pattern`; differentiable in the values and in W_dec."""
    return _SparseDecode.apply(values, W_dec, pattern)


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
            return Selection(pattern, _inner(pattern, x, W_enc) + b_enc[pattern.latents])
        bound = self.bound
        while True:
            candidates = _pattern(_above(scores, bound), scores.shape)
            pre = _inner(candidates, x, W_enc).add_(b_enc.index_select(0, candidates.latents))
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
            return Selection(pattern, _inner(pattern, x, W_enc) + b_enc[pattern.latents])
        candidates = _pattern(self._candidates(scores, k), scores.shape)
        pre = _inner(candidates, x, W_enc).add_(b_enc.index_select(0, candidates.latents))
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
