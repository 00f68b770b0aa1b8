"""Figures with their intervals: of dictionaries on held-out tokens, and of latents matched between seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from saes.arrays import Activations, read
from saes.dictionary import Dictionary
from saes.heldout import HeldoutSums, Ratio, heldout_sums
from saes.metrics import nearest_cosine
from saes.stability import BOUNDS, Matching, match, mean_cosines, random_matching
from workbench.dictionary_scores import MEAN, ZERO, reconstruction
from workbench.intervals import Interval, median_interval, ratio_interval, wilson
from workbench.points import Site
from workbench.quality import BY_CHANCE, SEEDS
from workbench.splice import Replacement, SplicedNats, spliced_nats
from workbench.tokens import TokenSet

Row = dict[str, Any]


class Subject(NamedTuple):
    """A dictionary under judgement and the held-out activations it is judged on."""

    name: str
    dictionary: Dictionary
    heldout: Activations
    reads_the_model: bool  # or activations of another origin, which cannot be put into it
    targets: Activations | None = None  # what it is to write, where that is not what it reads
    reads_stored: bool = False  # in the model too it reads `heldout`: not what the replaced module is given


class Judged(NamedTuple):
    """What one pass over the held-out tokens gave."""

    subject: Subject
    counted: HeldoutSums  # chat markers left out
    everything: HeldoutSums
    nearest: Float[np.ndarray, "latent"]


def judge(subject: Subject, token_set: TokenSet, report: Callable[[int], None] = lambda n: None) -> Judged:
    """Sums by document, with chat markers and without, and each latent's nearest neighbour."""
    group, special = np.asarray(token_set.document), np.asarray(token_set.special)
    dictionary, heldout, targets = subject.dictionary, subject.heldout, subject.targets
    plain = heldout_sums(dictionary, heldout, group, ~special, report, targets)
    everything = heldout_sums(dictionary, heldout, group, targets=targets) if special.any() else plain
    nearest = nearest_cosine(subject.dictionary, plain.alive).numpy(force=True)
    return Judged(subject, plain, everything, nearest)


def heldout_rows(judged: Judged, d_model: int) -> list[Row]:
    """FVU, L0, shrinkage, dead and alive latents, nearest neighbours.

    Ratios have intervals over documents; the dead share has Wilson's and the nearest cosine one over latents (see
    `workbench.intervals` for why documents would mislead there).
    """
    sums, name, dictionary = judged.counted, judged.subject.name, judged.subject.dictionary
    rows = []
    for m, checkpoint in enumerate(dictionary.names):
        ratios: dict[str, Ratio] = {
            "fvu": sums.fvu(m),
            "l0": sums.l0(),
            "shrinkage": sums.shrinkage(m),
            "fvu_all": judged.everything.fvu(m),
            "l0_all": judged.everything.l0(),
        }
        alive = int(sums.alive.sum())
        dead = wilson(dictionary.n_latents - alive, dictionary.n_latents)
        counts: dict[str, tuple[float, Interval | None]] = {
            "dead_share": (sums.dead_share, dead),
            "alive": (float(alive), None),
            "alive_per_dimension": (alive / d_model, None),
        }
        if alive > 1:
            near = judged.nearest[sums.alive].astype(float)
            counts["nearest_cosine"] = (float(np.median(near)), median_interval(near))
        for figure, ratio in ratios.items():
            n = judged.everything.n_tokens if figure.endswith("_all") else sums.n_tokens
            rows.append(_row(name, checkpoint, figure, ratio.value, ratio_interval(*ratio), n))
        rows += [_row(name, checkpoint, figure, *found, sums.n_tokens) for figure, found in counts.items()]
    return rows


def spliced_rows(
    subjects: Sequence[Subject],
    mean: Float[np.ndarray, "model d"],
    token_set: TokenSet,
    windows: np.ndarray,
    site: Site,
    load: Callable[[str], PreTrainedModel],
    report: Callable[[int], None] = lambda n: None,
) -> list[Row]:
    """CE score over zero and over mean ablation, and KL, of every subject that reads the model, in one pass. Where
    subjects have targets they make what the site's module writes from what it reads."""
    rows: list[Row] = []
    spliced = [s for s in subjects if s.reads_the_model]
    from_input = any(s.targets is not None for s in spliced)
    counted = ~np.asarray(token_set.special)
    for m, checkpoint in enumerate(spliced[0].dictionary.names):
        centre = torch.from_numpy(mean[m])
        variants: dict[str, Replacement] = {ZERO: _always(torch.zeros_like(centre)), MEAN: _always(centre)}
        variants |= {s.name: _replacement(s, m) for s in spliced}
        found = spliced_nats(
            load(checkpoint), site, token_set, windows, variants, report, from_input, counted=counted
        )
        for subject in spliced:
            rows += _spliced(found, subject.name, checkpoint)
    return rows


def _replacement(subject: Subject, m: int) -> Replacement:
    """What a subject puts in place of model m's activations."""
    if not subject.reads_stored:
        return reconstruction(subject.dictionary, subject.heldout, m)

    def stored(given: Tensor, rows: np.ndarray) -> Tensor:
        x = read(subject.heldout, rows).to(subject.dictionary.device)
        return subject.dictionary.reconstruct(x)[:, m].to(given)

    return stored


def _always(centre: Float[Tensor, " d"]) -> Replacement:
    """The same activation at every token."""
    return lambda given, at: centre.to(given).expand(len(given), -1)


def _spliced(found: SplicedNats, name: str, checkpoint: str) -> list[Row]:
    n = int(found.n_tokens.sum())
    return [
        _row(name, checkpoint, "ce_score", found.score(name), found.score_interval(name), n),
        _row(name, checkpoint, "ce_score_mean", found.score(name, MEAN), found.score_interval(name, MEAN), n),
        _row(name, checkpoint, "kl", found.mean_kl(name), found.kl_interval(name), n),
    ]


def _row(
    control: str, checkpoint: str, figure: str, value: float, interval: tuple[float, float] | None, n: int
) -> Row:
    low, high = (None, None) if interval is None else interval
    about = {"control": control, "checkpoint": checkpoint, "figure": figure}
    return {**about, "value": value, "low": low, "high": high, "n": n}


class Stability(NamedTuple):
    """Rows of `stability.parquet`, and each latent's cosine to its partners, real and by chance."""

    rows: list[Row]
    matched: Float[np.ndarray, "latent"]
    by_chance: Float[np.ndarray, "latent"]


def stability(
    one: Judged, others: Sequence[Judged], report: Callable[[int], None] = lambda n: None
) -> Stability:
    """Latents that fire, matched to those of each other seed, beside as many random directions.

    Intervals are by bootstrap over latents.
    """
    alive, width = one.counted.alive, one.subject.dictionary.n_models * one.subject.dictionary.d_out
    real, chance = [], []
    for number, other in enumerate(others):
        there = other.counted.alive
        real.append(match(one.subject.dictionary, other.subject.dictionary, alive, there))
        random = random_matching(int(alive.sum()), int(there.sum()), width, number)
        chance.append(_spread(random, alive))
        report(1)
    rows = _stability_rows(SEEDS, real, alive) + _stability_rows(BY_CHANCE, chance, alive)
    return Stability(rows, mean_cosines(real), mean_cosines(chance))


def _spread(found: Matching, alive: Bool[np.ndarray, "latent"]) -> Matching:
    """A matching of as many directions as there are latents alive, at those latents' places."""
    partner, cosine = np.full(len(alive), -1), np.zeros(len(alive))
    partner[alive], cosine[alive] = found.partner, found.cosine
    return Matching(partner, cosine, found.optimal)


def _stability_rows(
    subject: str, matchings: Sequence[Matching], alive: Bool[np.ndarray, "latent"]
) -> list[Row]:
    """Mean matched cosine and shares above the bounds; a latent's figure is its mean over the other seeds."""
    by_latent: Mapping[str, np.ndarray] = {"cosine": mean_cosines(matchings)[alive]} | {
        f"share_{bound:g}": np.mean([m.cosine[alive] >= bound for m in matchings], axis=0) for bound in BOUNDS
    }
    rows = []
    for figure, values in by_latent.items():
        ratio = Ratio(values.astype(float), np.ones(len(values)))
        low, high = ratio_interval(*ratio)
        about = {"subject": subject, "figure": figure}
        rows.append({**about, "value": ratio.value, "low": low, "high": high, "n": len(values)})
    return rows
