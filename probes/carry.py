"""Is the carry of a sum readable before it is written, and where?

Sums a + b of two two-digit numbers held out from all training, asked in the chat form, the answer begun with its
first step ("Step by step: 7&8="): 1 where the units add up to ten or more. Logistic regression reads the stream at
chosen tokens and every layer. The beginning of the answer is put in front of the model and not written by it: at
its "=" both unit digits stand right before (they need not be fetched from the question), and only "where the
question ends" is a place at which nothing of the answer is given. Sums with the same pair of units
are one case, and no pair is in two sets, so that a
pair's answer cannot be learned by heart. C, token and layer are chosen on pairs apart.

The digits themselves are in the stream, and from them alone a linear probe can add. So the control is a property of
the same digits that no sum needs, as frequent and as linear: π(units of a) + π(units of b) ≥ 10 with the ten digits
relabelled by a random permutation π.

    beyond the digits    AUROC of the carry − mean AUROC of the controls, at the chosen token and layer;
                         p is the rank of the carry among them: exact where the order of digits means nothing

p of N controls is never below 1 / (N + 1), so as many are drawn as all tests held to the level together need
(`n_controls=0`); C of the controls is the one that serves ten of them best on the choosing pairs.

Null of the AUROC: pairs of units are given each other's labels in the scoring set. With `shuffle` above 0 all pairs
are given each other's labels before anything.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from probes.kit.classifiers import Split, auroc_samples, ends, fit, split
from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, Plot, beyond
from probes.kit.nulls import against, enough, shuffled, tellable
from probes.kit.plots import cells, heat, lines, of_figures
from probes.kit.readings import row_names
from probes.kit.settings import at_least
from probes.kit.written_texts import asked, encoded, streams_at, token_at
from workbench.checkpoint import Checkpoint
from workbench.lab import Lab
from workbench.linear_probes import PENALTIES, auroc
from workbench.tasks import OPENINGS, sum_use

PLACES = ("units of a", "+", "tens of b", "units of b", "?", "before the answer", "first step, =")
ASKED = PLACES.index("before the answer")
UNWRITTEN = "labels of other pairs of units"
RELABELLED = "digits relabelled"
TESTS = 3  # of a checkpoint
LEAST_CONTROLS, TEN = 79, 10  # drawn; that choose C for all


class Sums(NamedTuple):
    """Sums and what is asked of them; `pair` numbers the unordered pairs of units."""

    a: Int[np.ndarray, " sum"]
    b: Int[np.ndarray, " sum"]
    pair: Int[np.ndarray, " sum"]
    on: Bool[np.ndarray, " sum"]


class Told(NamedTuple):
    """AUROC on the scoring set by token and layer; the layer chosen for each token, log odds there; the token and
    layer chosen of all, and AUROC of the controls there."""

    auroc: Float[np.ndarray, "place layer"]
    layers: Int[np.ndarray, " place"]
    odds: Float[np.ndarray, "place case"]
    at: tuple[int, int]
    controls: Float[np.ndarray, " control"]


def ask(
    lab: Lab, checkpoints: Sequence[Checkpoint], seed: int = 0, n: int = 400, n_controls: int = 0,
    draws: int = 999, shuffle: int = 0,
) -> Finding:  # fmt: skip
    at_least(110, n=n)
    at_least(19, draws=draws)
    at_least(0, n_controls=n_controls, seed=seed, shuffle=shuffle)
    draws = enough(draws, tests := TESTS * len(checkpoints))
    n_controls = n_controls or enough(LEAST_CONTROLS, tests)
    sums = held_out_sums(n, seed)
    if shuffle:
        sums = sums._replace(on=dealt(sums.on, sums.pair, shuffle))
    parts = split(sums.pair, seed)
    figures, rows, plots, curves = list[Figure](), list[dict[str, Any]](), list[Plot](), list[dict[str, Any]]()
    for checkpoint in checkpoints:
        x = read(checkpoint, n, seed)
        told = tell(x, sums, parts, n_controls, seed)
        figures += _figures(checkpoint, sums, parts, told, draws, seed, shuffle)
        curves += _by_token(checkpoint, sums, parts, told, seed)
        layers = row_names(checkpoint)
        for i, place in enumerate(PLACES):
            row = {layer: round(float(told.auroc[i, j]), 3) for j, layer in enumerate(layers)}
            rows.append({"checkpoint": checkpoint.address, "token": place} | row)
        matrix = cells(PLACES, layers, told.auroc)
        alt = f"AUROC of the carry at each token and layer of {checkpoint.address}"
        plots.append(heat(f"The carry in {checkpoint.address}", matrix, alt, "AUROC", centre=0.5))
    alt = "AUROC at each token with intervals over pairs of units, layer chosen on others, a line a checkpoint"
    plots = [
        of_figures("The carry, and beyond the digits", "AUROC", figures, "figures beside their nulls"),
        lines("The carry at each token, layer chosen on other pairs", "token", "AUROC", curves, alt, null=0.5),
        *plots,
    ]
    changes = (
        "Sums asked in other words or of longer numbers; a probe that is not linear; a test of use, since what can "
        "be read need not be used (patch the direction and see whether the tens change)."
    )
    null = f"{UNWRITTEN}; beyond the digits: the same property of {RELABELLED}"
    return Finding(_claim(figures), figures, null, changes, plots, rows)


def held_out_sums(n: int, seed: int) -> Sums:
    """`n` sums that no training had, as many of them from each pair of units as there are, drawn in turn."""
    rng = np.random.default_rng(seed)
    able = [(a, b) for a in range(10, 100) for b in range(10, 100) if sum_use(a, b) == "heldout"]
    order = rng.permutation(len(able))
    a, b = np.array(able)[order].T
    pair = pair_of(a, b)
    turn = np.zeros(len(pair), int)
    for each in np.unique(pair):
        rows = np.flatnonzero(pair == each)
        turn[rows] = np.arange(len(rows))
    chosen = np.sort(np.argsort(turn, kind="stable")[:n])
    a, b = a[chosen], b[chosen]
    return Sums(a, b, pair_of(a, b), carried(a, b))


def pair_of(a: Int[np.ndarray, " sum"], b: Int[np.ndarray, " sum"]) -> Int[np.ndarray, " sum"]:
    """A number for the unordered pair of units."""
    return np.minimum(a % 10, b % 10) * 10 + np.maximum(a % 10, b % 10)


def carried(
    a: Int[np.ndarray, " sum"], b: Int[np.ndarray, " sum"], worth: Int[np.ndarray, "10"] | None = None
) -> Bool[np.ndarray, " sum"]:
    """Whether the units add up to ten or more; with `worth`, whether what they are relabelled as does."""
    of = np.arange(10) if worth is None else worth
    return of[a % 10] + of[b % 10] >= 10


def dealt(on: Bool[np.ndarray, " sum"], pair: Int[np.ndarray, " sum"], seed: int) -> Bool[np.ndarray, " sum"]:
    """Labels of pairs given to other pairs; a sum has the label of its pair."""
    _, first, of = np.unique(pair, return_index=True, return_inverse=True)
    return shuffled(on[first], None, seed)[of]


@functools.lru_cache(maxsize=8)
def read(checkpoint: Checkpoint, n: int, seed: int) -> Float[np.ndarray, "layer sum place d"]:
    """The stream at `PLACES` of each of `held_out_sums`."""
    sums, texts, places = held_out_sums(n, seed), [], []
    for a, b in zip(sums.a.tolist(), sums.b.tolist(), strict=True):
        question = f"What is {a}+{b}?"
        text = asked(checkpoint, question, f"{OPENINGS['sums']} {a % 10}&{b % 10}=")
        start = text.index(question) + len("What is ")
        opening = text.index(OPENINGS["sums"])
        texts.append(text)
        places.append([start + 1, start + 2, start + 3, start + 4, start + 5, opening - 1, len(text) - 1])
    found = encoded(checkpoint, texts, chat=True)
    at = [[token_at(text, c) for c in where] for text, where in zip(found, places, strict=True)]
    return streams_at(checkpoint, [text.ids for text in found], np.array(at))


def tell(
    x: Float[np.ndarray, "layer sum place d"], sums: Sums, parts: Split, n_controls: int, seed: int
) -> Told:
    """Probes at every token and layer; controls where the carry is told best on the choosing set."""
    n_layers, _, n_places, _ = x.shape
    by_choice, found = np.zeros((n_places, n_layers)), np.zeros((n_places, n_layers))
    odds = np.zeros((n_places, n_layers, len(parts.score)))
    for place in range(n_places):
        for layer in range(n_layers):
            here = x[layer, :, place]
            probe = fit(here, sums.on, parts)
            by_choice[place, layer] = auroc(probe.odds(here[parts.choose]), sums.on[parts.choose])
            odds[place, layer] = probe.odds(here[parts.score])
            found[place, layer] = auroc(odds[place, layer], sums.on[parts.score])
    best, of = (int(i) for i in np.unravel_index(int(by_choice.argmax()), by_choice.shape))
    layers = by_choice.argmax(axis=1)
    own = odds[np.arange(n_places), layers]
    return Told(
        found,
        layers,
        own,
        (best, of),
        _controls(x[of, :, best], sums, parts, n_controls, seed),
    )


def _controls(
    x: Float[np.ndarray, "sum d"], sums: Sums, parts: Split, n: int, seed: int
) -> Float[np.ndarray, " control"]:
    rng, labels = np.random.default_rng(seed + 1), list[np.ndarray]()
    while len(labels) < n:
        on = carried(sums.a, sums.b, rng.permutation(10))
        if all(on[part].any() and not on[part].all() for part in parts):
            labels.append(on)

    def told(on: np.ndarray, penalty: float, part: np.ndarray) -> float:
        return auroc(fit(x, on, parts, penalties=(penalty,)).odds(x[part]), on[part])

    best = max(PENALTIES, key=lambda penalty: sum(told(on, penalty, parts.choose) for on in labels[:TEN]))
    return np.array([told(on, best, parts.score) for on in labels])


def _by_token(checkpoint: Checkpoint, sums: Sums, parts: Split, told: Told, seed: int) -> list[dict[str, Any]]:
    """AUROC at each token with its interval over pairs of units; the layer was chosen on other pairs."""
    on, pair, found = sums.on[parts.score], sums.pair[parts.score], []
    for place, odds in zip(PLACES, told.odds, strict=True):
        low, high = ends(auroc_samples(odds, on, pair, seed))
        point = {"series": checkpoint.address, "x": place, "y": auroc(odds, on)}
        found.append(point | {"low": low, "high": high, "n": len(np.unique(pair))})
    return found


def _figures(
    checkpoint: Checkpoint, sums: Sums, parts: Split, told: Told, draws: int, seed: int, shuffle: int
) -> list[Figure]:
    on, pair = sums.on[parts.score], sums.pair[parts.score]
    names, first = row_names(checkpoint), seed + 1 + shuffle * draws  # of the draws

    def figure(name: str, place: int) -> Figure:
        odds = told.odds[place]
        value = auroc(odds, on)
        null = against(value, [auroc(odds, dealt(on, pair, first + d)) for d in range(draws)], UNWRITTEN)
        low, high = ends(auroc_samples(odds, on, pair, seed))
        where = f"{PLACES[place]}, {names[told.layers[place]]}"
        n = len(np.unique(pair))
        return Figure(name, value, low, high, n, "pairs of units", null, checkpoint.address, where)

    carry, asked_ = figure("carry, AUROC", told.at[0]), figure("where the question ends, AUROC", ASKED)
    mean = float(told.controls.mean())
    return [
        carry,
        dataclasses.replace(
            carry, name="beyond the digits", value=carry.value - mean, low=carry.low - mean, high=carry.high - mean,
            null=against(carry.value - mean, told.controls - mean, RELABELLED),
        ),
        asked_,
    ]  # fmt: skip


def _claim(figures: list[Figure]) -> str:
    found = beyond(figures)
    shown_in = {f.checkpoint for f in found}
    told = [f for f in figures if f.name.startswith("carry") and f.checkpoint in shown_in]
    if not told:
        return "The carry is not shown to be readable beyond labels of other pairs of units."
    each, last = [], False
    for f in told:
        gain, end = (
            next(g for g in figures if g.checkpoint == f.checkpoint and g.name.startswith(name))
            for name in ("beyond", "where")
        )
        here, there = ("" if g in found else ", not shown beyond other pairs' labels" for g in (f, end))
        each.append(
            f"{f.checkpoint} {f.value:.2f} at {f.where}{here} ({verdict(gain, gain in found, figures)} the same "
            f"property of relabelled digits, {f.value - gain.value:.2f}; "
            f"where the question ends {end.value:.2f}{there})"
        )
        last = last or f.where.startswith(PLACES[-1])
    given = (
        " At that = both unit digits stand right before, since the beginning of the worked answer is put "
        "in front of the model and not written by it; only where the question ends is nothing of the answer given."
    )
    return f"The carry is readable with AUROC {'; '.join(each)}.{given if last else ''}"


def verdict(gain: Figure, passed: bool, figures: Sequence[Figure]) -> str:
    """What can be said of the carry and its controls; with too few of these nothing can."""
    if passed:
        return "more than"
    tests = sum(f.null.p is not None for f in figures)
    if not tellable(1 / (gain.null.n + 1), tests):
        return f"cannot be told with {gain.null.n} controls whether more than"
    return "not shown to be more than"


if __name__ == "__main__":
    main(__file__)
