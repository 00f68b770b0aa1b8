"""Does the latent that follows a factor best also *act* as that factor? Clamp it and see what the model says.

In a text that the model goes on with rightly (p of at least `SURE`), four things are done at the tokens that
carry the factor; the other factor is another country, digit or operator (`workbench.counterfactuals`).

    clamp    the best latent of the other factor is set to its mean where that other factor is on
    swap     and the best latent of the factor that is truly there to 0
    code     all latents take the values that they have in the text with the other factor
    patch    all that stands where the dictionary writes (the whole residual stream, an MLP's whole output) is
             taken from there: what any edit at this place could do

If latents are what the model computes with, the other answer becomes likely and nothing else changes. Beside
each `N_RANDOM` other latents that fire, their decoders scaled to the same ‖Δ‖ at each token.

    p      probability of the other answer, at the one token that tells the answers apart
    aside  KL(clean ‖ clamped) per token, at every other position from the factor's last token to the end of the
           text: what follows the clamped token itself is among them

Latents are those with the best F1 on the first half of the ground truth's documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from workbench.clamping import Site, Texts
from workbench.counterfactuals import GROUPS, PREFIXES, Counterfactual, counterfactuals
from workbench.intervals import ratio_interval
from workbench.lexicon import World
from workbench.tokenizer import encode

CLAMP, SWAP, CODE, PATCH = MODES = ("clamp", "swap", "code", "patch")
SURE = 0.5
N_RANDOM = 4
PER_GROUP = 48  # texts that the model goes on with rightly
TRIED = 384  # texts of a group
BATCH = 64
SCHEMA: Mapping[str, Any] = {
    "group": pl.String,
    "mode": pl.String,
    "factor": pl.String,
    "other": pl.String,
    "latent": pl.Int32,  # clamped to `target`
    "target": pl.Float64,
    "text": pl.String,
    "clean": pl.Float64,  # p(other answer) before
    "p": pl.Float64,  # and with the latent clamped
    "p_random": pl.Float64,  # and with random latents, on average
    "kept": pl.Float64,  # p(true answer) with the latent clamped
    "kept_random": pl.Float64,
    "turned": pl.Float64,  # the other answer is now the likeliest of all tokens: 1 or 0
    "turned_random": pl.Float64,
    "aside": pl.Float64,
    "aside_random": pl.Float64,
}


class Best(NamedTuple):
    """The best latent of a factor and its mean activation where the factor is on and it fires."""

    latent: int
    target: float


class Case(NamedTuple):
    """A counterfactual as tokens: behind position `decisive` comes what tells the answers apart."""

    about: Counterfactual
    ids: list[int]
    at: list[int]
    other_ids: list[int]  # with the other factor; the same but for `at`
    decisive: int
    true_token: int
    other_token: int


class Effect(NamedTuple):
    """What a forward pass says of each text."""

    p_true: Float[Tensor, "text"]
    p_other: Float[Tensor, "text"]
    turned: Float[Tensor, "text"]
    aside: Float[Tensor, "text"]


def as_case(tokenizer: PreTrainedTokenizerFast, about: Counterfactual, n_ctx: int) -> Case | None:
    """None where the tokens do not tell the answers apart behind the text, do not fit, or do not stand in the
    same places with the other factor."""
    pairs = (
        (about.text, about.answer),
        (about.text, about.other_answer),
        (about.other_text, about.answer),
    )
    true, answered, moved = encode(tokenizer, [text + answer for text, answer in pairs], about.chat)
    start, stop = len(about.before), len(about.before) + len(about.here)
    at = [i for i, (a, b) in enumerate(true.offsets) if a < stop and b > start]
    differ = _differing(true.ids, answered.ids)
    if not differ or true.offsets[differ[0]][0] < len(about.text) or len(true.ids) > n_ctx:
        return None
    if len(true.ids) != len(moved.ids) or not set(_differing(true.ids, moved.ids)) <= set(at):
        return None
    first = differ[0]
    return Case(about, true.ids, at, moved.ids, first - 1, true.ids[first], answered.ids[first])


def _differing(left: Sequence[int], right: Sequence[int]) -> list[int]:
    return [i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b]


def causal_table(
    site: Site,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    best: Mapping[str, Best],
    alive: Int[np.ndarray, "latent"],
    n_ctx: int,
    report: Callable[[int], None] = lambda n: None,
) -> pl.DataFrame:
    """One row a text and mode (`SCHEMA`); none of a group whose factors have no latents, or that the model does
    not know how to go on with."""
    rows: list[dict[str, Any]] = []
    countries = [c for c in world.countries if f"{PREFIXES['country']}/{c}" in best]
    drawn = dict.fromkeys(counterfactuals(world, countries, TRIED))
    known = [a for a in drawn if a.factor in best and a.other in best]
    for group in GROUPS:
        cases = [c for a in known if a.group == group and (c := as_case(tokenizer, a, n_ctx)) is not None]
        right = _answered(site, cases)[:PER_GROUP]
        if right:
            rows += _clamped(site, right, best, alive)
        report(1)
    return pl.DataFrame(rows, schema=dict(SCHEMA))


def _answered(site: Site, cases: Sequence[Case]) -> list[Case]:
    """Those that the model goes on with rightly."""
    kept: list[Case] = []
    for at in range(0, len(cases), BATCH):
        batch = cases[at : at + BATCH]
        log_p = site.log_probabilities(_texts(batch))
        sure = [float(log_p[i, c.decisive, c.true_token].exp()) >= SURE for i, c in enumerate(batch)]
        kept += [c for c, is_sure in zip(batch, sure, strict=True) if is_sure]
        if len(kept) >= PER_GROUP:
            break
    return kept


def _texts(cases: Sequence[Case], other: bool = False) -> Texts:
    width = max(len(c.ids) for c in cases)
    ids = torch.zeros((len(cases), width), dtype=torch.long)
    at = torch.zeros((len(cases), width), dtype=torch.bool)
    for row, case in enumerate(cases):
        ids[row, : len(case.ids)] = torch.tensor(case.other_ids if other else case.ids)
        at[row, case.at] = True
    return Texts(ids, at)


def _clamped(
    site: Site, cases: Sequence[Case], best: Mapping[str, Best], alive: Int[np.ndarray, "latent"]
) -> list[dict[str, Any]]:
    texts = _texts(cases)
    clean_log_p = site.log_probabilities(texts)
    clean = _effect(cases, clean_log_p, clean_log_p)
    rng = np.random.default_rng(0)
    rows = []
    for mode in MODES:
        if mode in (CODE, PATCH):
            moved = site.patches(texts, _texts(cases, other=True), latents_only=mode == CODE)
        else:
            moved = site.differences(texts, [_targets(mode, c.about, best) for c in cases])
        effect = _effect(cases, clean_log_p, site.log_probabilities(texts, moved))
        randoms = []
        for _ in range(N_RANDOM):
            latents = torch.from_numpy(_others(rng, cases, best, alive))
            random = site.log_probabilities(texts, site.random_like(moved, latents))
            randoms.append(_effect(cases, clean_log_p, random))
        mean = Effect(*(torch.stack(part).mean(dim=0) for part in zip(*randoms, strict=True)))
        for i, case in enumerate(cases):
            about = case.about
            rows.append(
                {"group": about.group, "mode": mode, "factor": about.factor, "other": about.other}
                | {"latent": best[about.other].latent, "target": best[about.other].target, "text": about.text}
                | {"clean": float(clean.p_other[i])}
                | {"p": float(effect.p_other[i]), "p_random": float(mean.p_other[i])}
                | {"kept": float(effect.p_true[i]), "kept_random": float(mean.p_true[i])}
                | {"turned": float(effect.turned[i]), "turned_random": float(mean.turned[i])}
                | {"aside": float(effect.aside[i]), "aside_random": float(mean.aside[i])}
            )
    return rows


def _targets(mode: str, about: Counterfactual, best: Mapping[str, Best]) -> dict[int, float]:
    off = {best[about.factor].latent: 0.0} if mode == SWAP else {}
    return off | {best[about.other].latent: best[about.other].target}


def _others(
    rng: np.random.Generator,
    cases: Sequence[Case],
    best: Mapping[str, Best],
    alive: Int[np.ndarray, "latent"],
) -> Int[np.ndarray, "text"]:
    """A latent for each text that is neither of the two it is about."""
    own = [{best[c.about.factor].latent, best[c.about.other].latent} for c in cases]
    return np.array([rng.choice(alive[~np.isin(alive, list(pair))]) for pair in own])


def _effect(cases: Sequence[Case], clean: Tensor, log_p: Tensor) -> Effect:
    kl = (clean.exp() * (clean - log_p)).sum(-1)
    columns: list[list[float]] = [[], [], [], []]
    for i, case in enumerate(cases):
        there = log_p[i, case.decisive]
        aside = [t for t in range(max(case.at), len(case.ids) - 1) if t != case.decisive]
        columns[0].append(float(there[case.true_token].exp()))
        columns[1].append(float(there[case.other_token].exp()))
        columns[2].append(float(int(there.argmax()) == case.other_token))
        columns[3].append(float(kl[i, aside].mean()) if aside else 0.0)
    return Effect(*(torch.tensor(column) for column in columns))


BOUNDED = ("clean", "p", "p_random", "turned", "turned_random", "aside", "aside_random")


def causal_figures(table: pl.DataFrame) -> dict[str, Any]:
    """By group of two texts or more, and mode: n, means, the 95 % intervals over texts of those in `BOUNDED`, and
    how much more the latent does than random ones, to the answer (`ahead`) and aside (`ahead_aside`)."""
    figures: dict[str, Any] = {}
    for (group, mode), rows in sorted(table.group_by("group", "mode"), key=lambda item: item[0]):
        if rows.height < 2:
            continue
        means = {c: float(rows[c].mean()) for c, t in SCHEMA.items() if t == pl.Float64 and c != "target"}  # type: ignore[arg-type]
        figures.setdefault(str(group), {})[str(mode)] = {
            "n": rows.height,
            **means,
            "intervals": {column: _bounded(rows[column]) for column in BOUNDED},
            "ahead": _bounded(rows["p"] - rows["p_random"]),
            "ahead_aside": _bounded(rows["aside"] - rows["aside_random"]),
        }
    return figures


def _bounded(values: pl.Series) -> dict[str, float]:
    low, high = ratio_interval(values.to_numpy(), np.ones(len(values)))
    return {"mean": float(values.to_numpy().mean()), "low": low, "high": high}
