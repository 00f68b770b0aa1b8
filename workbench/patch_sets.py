"""Which sets of latents are patched: in order of what they should do, and at random beside them.

    norm difference   ‖d_j^b − d_j^a‖ · rms f_j, the length of what b writes differently
    attribution       the share of each in what all of them take off the KL (integrated gradients)
    random            as many of those that fire on chats, several draws
    matched           as many others, each with as long a writing as one of the first by attribution
    shared            as many latents whose two decoders are equally long

The orders are found on other chats than those that judge them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from saes.dictionary import Dictionary
from workbench.comparison import SHARED as SHARED_KIND
from workbench.comparison import kinds
from workbench.mediation import size_matched
from workbench.patch_trial import CONTENT, MARKERS, OWN, Pair, Patch, Read, norm_differences
from workbench.patching import (
    ALL,
    ATTRIBUTION,
    BIAS,
    CONTENT_WHOLE,
    ERROR,
    EXACT,
    EXCLUSIVE,
    ITSELF,
    LATENTS_BIAS,
    MAIN,
    MARKERS_WHOLE,
    MATCHED,
    NONE,
    NORM,
    RANDOM,
    SHARED,
    SPECIFIC,
    MainSet,
)
from workbench.specificity import specific

SIZES = (1, 4, 16, 64, 256)
DOSES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
DRAWS = {RANDOM: 3, MATCHED: 2}  # sets of each size
ENOUGH = 0.5  # of what all latents recover: the main set is the fewest that do

Key = tuple[str | int | float, ...]


class Arm(NamedTuple):
    """One patch and the rows that it fills: `key` follows before, after and into in `table`."""

    table: str
    key: Key
    patch: Patch


class Candidates(NamedTuple):
    """Latents of one pair. `scores` by order; `orders`: those that score above 0, foremost first; `sizes`: how long
    each one's writing is in all."""

    scores: Mapping[str, Float[np.ndarray, "latent"]]
    orders: Mapping[str, list[int]]
    sizes: Float[np.ndarray, "latent"]
    shared: list[int]
    exclusive: list[int]
    specific: list[int]

    @property
    def firing(self) -> list[int]:
        """Those that write anything differently on these chats."""
        return [int(j) for j in np.flatnonzero(self.sizes)]

    def length(self, latents: Sequence[int]) -> float:
        """Their share of all that is written differently."""
        total = float(self.sizes.sum())
        return float(self.sizes[list(latents)].sum()) / total if total else 0.0


def candidates(pair: Pair, coder: Dictionary, reads: Sequence[Read], scaling: pl.DataFrame) -> Candidates:
    """What the searched chats, decoders and latent scaling say of the two checkpoints (the others left aside)."""
    before, after = pair.mover.parent, pair.mover.stage
    attributed, sizes = pair.attribution(reads)
    scores = {NORM: norm_differences(pair.mover, reads), ATTRIBUTION: attributed}
    orders = {
        name: [int(j) for j in np.argsort(-of, kind="stable") if of[j] > 0 and sizes[j] > 0]
        for name, of in scores.items()
    }
    norms = coder.decoder_norms()[:, [coder.model_index(before), coder.model_index(after)]]
    relative = (norms / norms.sum(dim=1, keepdim=True).clamp_min(1e-12)).double().cpu().numpy()
    kind = np.array(kinds(relative, (before, after)))
    own = scaling.filter(pl.col("own") == after, pl.col("other") == before)
    return Candidates(
        scores, orders, sizes,
        [int(j) for j in np.flatnonzero((kind == SHARED_KIND) & (sizes > 0))],
        np.flatnonzero(kind == f"exclusive:{after}").tolist(),
        specific(own, after),
    )  # fmt: skip


def baseline_arms(found: Candidates, n_latents: int) -> Iterator[Arm]:
    """What stands beside the curve, and the two identities."""
    everything = tuple(range(n_latents))
    patches = {
        NONE: Patch(),
        ALL: Patch(everything),
        BIAS: Patch(bias=True),
        LATENTS_BIAS: Patch(everything, bias=True),
        ERROR: Patch(error=True),
        EXACT: Patch(everything, bias=True, error=True),
        MARKERS_WHOLE: Patch(whole=MARKERS),
        CONTENT_WHOLE: Patch(whole=CONTENT),
        EXCLUSIVE: Patch(tuple(found.exclusive)),
        SPECIFIC: Patch(tuple(found.specific)),
        ITSELF: Patch(whole=OWN),
    }
    for name, patch in patches.items():
        yield Arm("baselines", (name, len(patch.latents)), patch)


def order_arms(found: Candidates, orders: Sequence[str]) -> Iterator[Arm]:
    """The first n of each order."""
    for name, size in itertools.product(orders, SIZES):
        if len(latents := found.orders[name][:size]) == size:
            yield Arm("curve", (name, 0, size, found.length(latents)), Patch(tuple(latents)))


def control_arms(found: Candidates, rng: np.random.Generator) -> Iterator[Arm]:
    """As many at random, matched, and of the shared ones."""
    firing, order = found.firing, found.orders[ATTRIBUTION]
    for size in SIZES:
        sets = [(SHARED, 0, _drawn(found.shared, size, rng))]
        sets += [(RANDOM, draw, _drawn(firing, size, rng)) for draw in range(DRAWS[RANDOM])]
        sets += [(MATCHED, draw, size_matched(order, found.sizes, size, rng)) for draw in range(DRAWS[MATCHED])]
        for name, draw, latents in sets:
            if len(latents) == size:
                yield Arm("curve", (name, draw, size, found.length(latents)), Patch(tuple(latents)))


def dose_arms(found: Candidates, main: MainSet, rng: np.random.Generator) -> Iterator[Arm]:
    """The main set by dose beside as many matched latents."""
    order = found.orders[main.order]
    matched = size_matched(order, found.sizes, main.size, rng)
    for name, latents in ((MAIN, order[: main.size]), (MATCHED, matched)):
        for dose in DOSES if len(latents) == main.size else ():
            patch = Patch(tuple(latents), dose=dose) if dose else Patch()
            yield Arm("doses", (name, main.size, dose), patch)


def main_set(pair: Pair, found: Candidates, reads: Sequence[Read], n_latents: int) -> MainSet | None:
    """The smallest of the curve's sets that recovers `ENOUGH` of what all latents do on the searched chats; of two
    orders the better."""
    tried = [MainSet(name, n) for name, order in found.orders.items() for n in SIZES if n <= len(order)]
    sets = [
        Patch(),
        Patch(tuple(range(n_latents))),
        *(Patch(tuple(found.orders[m.order][: m.size])) for m in tried),
    ]
    none, everything, *some = pair.kl(reads, sets).sum(axis=1)
    if not none > everything:
        return None
    enough = [
        (m.size, kl, m) for m, kl in zip(tried, some, strict=True) if none - kl >= ENOUGH * (none - everything)
    ]
    return min(enough)[2] if enough else None


def _drawn(latents: Sequence[int], size: int, rng: np.random.Generator) -> list[int]:
    """`size` of them at random; none where there are fewer."""
    return [int(j) for j in rng.choice(latents, size, replace=False)] if size <= len(latents) else []
