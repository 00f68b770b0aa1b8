"""Whether the foremost latents do the task: each patched for itself, and all others corrupt at once.

    exact effect of j   m with latent j corrupt at every position − m
    f(S) = (m(S) − m(∅)) / (m(M) − m(∅))       S the nodes kept as they are, ∅ none of them, M all

f is given with the errors kept and without: what it lacks then is what the dictionaries leave over. Controls are
as many other latents, each drawn from those whose writing changes about as much from clean to corrupt as that of
one of the foremost (`workbench.mediation.size_matched`). Where few change so much, the controls change less:
`reach` says by how much, and beyond that they are no match. The order is found on other pairs than those that judge
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from workbench.circuits.attribution import portions
from workbench.circuits.circuit import HELPING, TOP
from workbench.circuits.faithfulness import Ends, Measured, faithfulness
from workbench.circuits.feature_circuit import SiteScores
from workbench.circuits.feature_model import TOKENS_AT_ONCE, FeatureModel, Kept
from workbench.circuits.pairs import Pairs
from workbench.errors import unknown
from workbench.mediation import size_matched
from workbench.points import Site

SIZES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
DRAWS = 5

Node = tuple[Site, int]


class Curve(NamedTuple):
    """f of the foremost latents by number, with the errors kept and without, and of matched ones with the errors
    kept, a list of draws. Size 0 is that of the errors alone, the last one that of all latents, also of those that
    have no score because they change on none of the pairs that gave the order.
    `reach`: what share of all latents' change the foremost have, and the matched ones on average."""

    sizes: list[int]
    with_errors: list[Measured]
    without_errors: list[Measured]
    matched: list[list[Measured]]
    reach: list[tuple[float, float]]


def exact_effects(
    model: FeatureModel,
    pairs: Pairs,
    site: Site,
    latents: Sequence[int],
    done: Callable[[int], None] = lambda n: None,
) -> Float[np.ndarray, "latent pair"]:
    """m with one latent corrupt less m, for each of them; `done` is told how many prompts were run."""
    pairs = pairs.to(model.model.device)
    found = []
    for some in portions(pairs, TOKENS_AT_ONCE):
        corrupt = model.read(some.corrupt)
        everything = torch.ones(
            len(some), model.coders[site].n_latents, dtype=torch.bool, device=some.clean.device
        )
        with torch.no_grad():
            start = model.m(some.clean, some)
        rows = []
        for latent in latents:
            stay = everything.clone()
            stay[:, latent] = False
            rows.append(model.m_keeping(some, corrupt, {site: Kept(stay, True)}) - start)
            done(len(some))
        found.append(torch.stack(rows).double().cpu().numpy())
    return np.concatenate(found, axis=1)


def foremost(scores: Mapping[Site, SiteScores], how: str = TOP) -> list[Node]:
    """Latents of all sites that have a score, in order of |score| (`top`) or of how much they help (`helping`)."""
    if how not in (TOP, HELPING):
        raise unknown("order of latents", how, (TOP, HELPING))
    nodes = [(site, int(j)) for site, each in scores.items() for j in np.flatnonzero(each.mean)]
    worth = {node: float(scores[node[0]].mean[node[1]]) for node in nodes}
    return sorted(nodes, key=lambda node: -abs(worth[node]) if how == TOP else worth[node])


def curve(
    model: FeatureModel,
    scores: Mapping[Site, SiteScores],
    pairs: Pairs,
    how: str = TOP,
    sizes: Sequence[int] = SIZES,
    seed: int = 0,
    done: Callable[[int], None] = lambda n: None,
) -> Curve:
    """f on these pairs of the foremost latents that `scores` tell, beside matched ones; `done` is told how many
    prompts were run."""
    order, rng = foremost(scores, how), np.random.default_rng(seed)
    flat = [(site, j) for site, each in scores.items() for j in range(len(each.sizes))]
    sizes = [*(size for size in sizes if size < len(order)), *dict.fromkeys((len(order), len(flat)))]
    number = {node: i for i, node in enumerate(flat)}
    scored = set(order)
    order = [*order, *(node for node in flat if node not in scored)]
    ranked, lengths = [number[node] for node in order], np.concatenate([each.sizes for each in scores.values()])
    sets: list[tuple[list[Node], bool]] = [(order[:size], errors) for errors in (True, False) for size in sizes]
    drawn, reach = [], []
    for size in sizes:
        draws = [
            size_matched(ranked, lengths, size, rng) for _ in range(DRAWS if 0 < size <= len(scored) else 0)
        ]
        drawn.append([draw for draw in draws if len(draw) == size])
        sets += [([flat[i] for i in draw], True) for draw in drawn[-1]]
        beside = float(np.mean([lengths[draw].sum() for draw in drawn[-1]])) if drawn[-1] else float("nan")
        reach.append((float(lengths[ranked[:size]].sum() / lengths.sum()), beside / float(lengths.sum())))
    m, between = kept_scores(model, pairs, sets, done)
    f = iter([faithfulness(each, between) for each in m])
    with_errors, without = ([next(f) for _ in sizes] for _ in range(2))
    return Curve(sizes, with_errors, without, [[next(f) for _ in draws] for draws in drawn], reach)


def kept_scores(
    model: FeatureModel,
    pairs: Pairs,
    sets: Sequence[tuple[Sequence[Node], bool]],
    done: Callable[[int], None] = lambda n: None,
) -> tuple[Float[np.ndarray, "set pair"], Ends]:
    """m of every pair with only those latents, and the errors or not, as they are; and m with all and with none."""
    pairs = pairs.to(model.model.device)
    found = []
    for some in portions(pairs, TOKENS_AT_ONCE):
        corrupt = model.read(some.corrupt)
        rows = []
        for each in (*sets, ((), False)):
            rows.append(model.m_keeping(some, corrupt, _kept(model, len(some), *each)))
            done(len(some))
        with torch.no_grad():
            rows.append(model.m(some.clean, some))
        found.append(torch.stack(rows).double().cpu().numpy())
    m = np.concatenate(found, axis=1)
    return m[:-2], Ends(full=m[-1], none=m[-2])


def _kept(model: FeatureModel, n_pairs: int, nodes: Sequence[Node], errors: bool) -> dict[Site, Kept]:
    found = {}
    for site, coder in model.coders.items():
        stay = torch.zeros(coder.n_latents, dtype=torch.bool, device=coder.device)
        stay[[j for at, j in nodes if at == site]] = True
        found[site] = Kept(stay.expand(n_pairs, -1), errors)
    return found
