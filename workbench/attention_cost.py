"""What attention costs against the length of the text: one forward pass, timed, with two ways to do the same sum.

`eager` writes the whole [head, query, key] matrix of every layer down, as a page that draws it needs; `sdpa` is
torch's fused `scaled_dot_product_attention`, which does not. Attention is O(n²) in the length and all else O(n):
on doubly logarithmic axes a slope of 1 says that the rest still dominates, a slope of 2 that attention does, and a
slope below 1 that what a pass costs at any length (calls, allocation) does. The slope is that of the least-squares
line through log seconds against log length over the longest lengths, its interval a bootstrap over the runs.
Runs of the two alternate, so that a change of the machine's load falls on both.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import Misuse
from workbench.site import attention_kind
from workbench.timing import Seconds, timed

if TYPE_CHECKING:
    import polars as pl
    from transformers import PreTrainedModel

KINDS = ("eager", "sdpa")
LONGEST = 512  # tokens
TOLERANCE = 1e-4  # of the largest logit, or of 1 where that is smaller
REPEATS = 7
FITTED = 3  # a slope is fitted over so many of the longest lengths
RESAMPLED = 2_000


class Cost(NamedTuple):
    """One kind of attention at one length."""

    kind: str
    tokens: int
    seconds: Seconds
    took: tuple[float, ...] = ()  # seconds of every run


class Slope(NamedTuple):
    """Time grows with the length to the power `value` over `tokens`; 95 % interval."""

    value: float
    low: float
    high: float
    tokens: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class AttentionCost:
    """`parted`: the largest difference of any logit between the kinds, as a share of the largest logit (of 1 where
    that is smaller); `kinds`: those that the family has."""

    costs: tuple[Cost, ...]
    parted: float
    kinds: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Both kinds gave the same logits within `TOLERANCE`."""
        return self.parted <= TOLERANCE

    def slope(self, kind: str, seed: int = 0) -> Slope | None:
        """Of one kind over the longest `FITTED` lengths; None where there are fewer than two."""
        last = sorted((c for c in self.costs if c.kind == kind), key=lambda cost: cost.tokens)[-FITTED:]
        if len(last) < 2:
            return None
        tokens = tuple(cost.tokens for cost in last)
        rng, runs = np.random.default_rng(seed), np.array([cost.took for cost in last])
        again = np.take_along_axis(
            runs[None], rng.integers(runs.shape[1], size=(RESAMPLED, *runs.shape)), axis=2
        )
        value = _power(tokens, np.median(runs, axis=1))
        low, high = np.quantile(_power(tokens, np.median(again, axis=2)), (0.025, 0.975))
        return Slope(float(value), float(low), float(high), tokens)

    def faster(self) -> dict[int, str | None]:
        """Of two kinds the quicker at each length; None where the middle halves of their runs overlap."""
        found: dict[int, str | None] = {}
        for n in sorted({cost.tokens for cost in self.costs}):
            quick, slow = sorted((c for c in self.costs if c.tokens == n), key=lambda c: c.seconds.median)
            found[n] = quick.kind if quick.seconds.high < slow.seconds.low else None
        return found

    def table(self) -> pl.DataFrame:
        """A row a kind and length."""
        import polars as pl

        rows = [(c.kind, c.tokens, *c.seconds) for c in self.costs]
        schema = ["attention", "tokens", "seconds", "low", "high", "runs"]
        return pl.DataFrame(rows, schema=schema, orient="row")


def _power(tokens: Sequence[int], seconds: Float[np.ndarray, "*again length"]) -> Float[np.ndarray, "*again"]:
    """The slope of log seconds against log length."""
    x = np.log(np.array(tokens, dtype=np.float64))
    x -= x.mean()
    return np.asarray((np.log(seconds) * x).sum(-1) / (x * x).sum())


def lengths(n_ctx: int) -> list[int]:
    """Powers of two from 16 up to 512 or the context; the context itself last where that is shorter."""
    longest = min(n_ctx, LONGEST)
    found = [2**k for k in range(4, 10) if 2**k <= longest]
    return found if found and found[-1] == longest else [*found, longest]


def available(model: PreTrainedModel) -> tuple[str, ...]:
    """The kinds that the model's family has."""
    found = []
    for kind in KINDS:
        with contextlib.suppress(ValueError, ImportError), attention_kind(model, kind):
            found.append(kind)
    return tuple(found)


@torch.inference_mode()
def attention_cost(
    model: PreTrainedModel, tokens: Sequence[int], repeats: int = REPEATS, seed: int = 0
) -> AttentionCost:
    """Forward passes of random ids at every length, after one of each kind that is not counted."""
    if repeats < 1 or not tokens or min(tokens) < 1:
        raise Misuse(
            f"expected lengths of 1 token or more and at least one run, found {list(tokens)}, {repeats}"
        )
    n_vocab = model.get_output_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(seed)
    kinds, costs, parted = available(model), [], 0.0
    for n in tokens:
        ids = torch.randint(n_vocab, (1, n), generator=generator).to(model.device)
        took: dict[str, list[float]] = {kind: [] for kind in kinds}
        for run in range(repeats + 1):
            for kind in kinds:
                with attention_kind(model, kind):
                    _, one = timed(_logits, model, ids)
                took[kind] += [one] if run else []
        costs += [Cost(kind, n, Seconds.of(took[kind]), tuple(took[kind])) for kind in kinds]
        parted = max(parted, _parted(model, ids, kinds))
    return AttentionCost(tuple(costs), parted, kinds)


def _logits(model: PreTrainedModel, ids: Tensor) -> Float[Tensor, "position vocab"]:
    out = model(ids, use_cache=False).logits[0]
    if out.device.type == "cuda":
        torch.cuda.synchronize(out.device)  # else only the launch would be timed
    return out


def _parted(model: PreTrainedModel, ids: Tensor, kinds: Sequence[str]) -> float:
    found = []
    for kind in kinds:
        with attention_kind(model, kind):
            found.append(_logits(model, ids))
    scale = max(1.0, float(found[0].abs().max()))
    return max(float((other - found[0]).abs().max()) / scale for other in found)
