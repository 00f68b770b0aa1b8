"""Is it readable whether a statement about a capital is true?

Every country of the world with its own capital and with another's, in each of the world's wordings; the stream at
the last token. No country is in two sets, and every capital is named as often in true as in false statements, so
that neither name tells. Two readers of truth [Marks and Tegmark 2023]:

    difference of means    θ = mean(true) − mean(false) of the countries fitted on
    logistic regression    C chosen on the choosing countries

Figure: the share of pairs (one country, one wording) whose true statement lies further along θ than its false one,
by country; the layer is chosen on the choosing countries. Null: in each country true and false change places (sign
flips about 1/2). The same for θ fitted on half of the wordings and read in the other half, and for θ of one
checkpoint read in another, at the same layer. Beside it what describes: θ where the second of the two names ends,
and the ceiling, the share of pairs whose true statement the checkpoint itself holds for more probable.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from probes.kit.classifiers import Split, auroc_samples, ends, fit, split
from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, beyond
from probes.kit.nulls import GREATER, described, mean_figure, tellable
from probes.kit.plots import heat, lines, of_figures
from probes.kit.readings import opened, row_names
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from probes.kit.written_texts import encoded, streams_at, token_at
from workbench.bits_per_byte import model_nats
from workbench.checkpoint import Checkpoint
from workbench.lab import Lab
from workbench.lexicon import PEOPLE, make_world
from workbench.linear_probes import auroc
from workbench.stage_config import CorpusConfig
from workbench.world import CAPITAL_WORDINGS

READS = ("corpus",)
FLIPPED = "true and false change places by country"
LEAST = 12  # countries


class Statements(NamedTuple):
    """Statements in pairs: `2 i` is true, `2 i + 1` the same with another's capital; `parts` are of pairs."""

    texts: list[str]
    named: list[int]  # characters at which the second of the two names ends
    country: Int[np.ndarray, " pair"]
    wording: Int[np.ndarray, " pair"]
    parts: Split

    @property
    def true(self) -> Bool[np.ndarray, " statement"]:
        return np.arange(len(self.texts)) % 2 == 0


def ask(lab: Lab, checkpoints: Sequence[Checkpoint], seed: int = 0) -> Finding:
    at_least(0, seed=seed)
    stated = statements(lab, seed)
    both = {c.address: _read(c, stated) for c in checkpoints}
    x = {name: read[:, :, 1] for name, read in both.items()}
    figures, rows, curves = list[Figure](), list[dict[str, Any]](), list[dict[str, Any]]()
    chosen = {name: choose_layer(read, stated) for name, read in x.items()}
    for checkpoint in checkpoints:
        name, layers = checkpoint.address, row_names(checkpoint)
        figures += _within(name, x[name], chosen[name], layers, stated, seed)
        figures += _beside(checkpoint, both[name][:, :, 0], layers, stated, seed)
        for at, layer in enumerate(layers):
            row, curve = _layer(x[name][at], stated, seed)
            rows.append({"checkpoint": name, "layer": layer} | row)
            curves.append({"series": name, "x": layer} | curve)
    figures += _across(x, chosen, stated, seed)
    cells = [
        {
            "row": i,
            "column": j,
            "value": float(pairs_told(x[j][at], direction(x[i][at], stated), stated).mean()),
        }
        for i, at in chosen.items()
        for j in x
        if x[i].shape == x[j].shape
    ]
    alt = "share of pairs told by layer, a line a checkpoint; dashed: chance"
    plots = [
        lines("True from false, by layer", "layer", "share of pairs", curves, alt, null=0.5),
        of_figures("Truth of a capital", "share of pairs", figures, "figures beside their nulls"),
        heat("Direction of (row) read in (column)", cells, "share of pairs told", "share of pairs", 0.5),
    ]
    changes = (
        "Statements of another kind than capitals: a direction that tells a wrong capital may be one of surprise "
        "and not of truth; other wordings; more countries."
    )
    return Finding(_claim(figures), figures, FLIPPED, changes, plots, rows)


def statements(lab: Lab, seed: int) -> Statements:
    """Each set's countries exchange capitals among themselves, another way in each wording."""
    config = CorpusConfig(**lab.find("corpus", "text").config)
    world = make_world(config.n_countries, (), config.seed)
    names = world.countries
    if len(names) < LEAST:
        raise LackingError(
            f"the world of this lab has {len(names)} countries, fewer than the {LEAST} that a split by country "
            "needs: raise corpus.n_countries in the recipe and grow a lab"
        )
    rng, texts, named, country, wording = (
        random.Random(seed),
        list[str](),
        list[int](),
        list[int](),
        list[int](),
    )
    parts = split(np.arange(len(names)), seed)
    for part in parts:
        for number, words in enumerate(CAPITAL_WORDINGS):
            order = rng.sample(part.tolist(), len(part))
            for i, other in zip(order, [*order[1:], order[0]], strict=True):
                who = rng.choice(PEOPLE)
                for town in (world.capital_of[names[i]], world.capital_of[names[other]]):
                    texts.append(words.format(land=names[i], town=town, who=who))
                    named.append(max(texts[-1].rfind(name) + len(name) - 1 for name in (names[i], town)))
                country.append(i)
                wording.append(number)
    of = np.array(country)
    return Statements(
        texts, named, of, np.array(wording), Split(*(np.flatnonzero(np.isin(of, p)) for p in parts))
    )


def _read(checkpoint: Checkpoint, stated: Statements) -> Float[np.ndarray, "layer statement 2 d"]:
    """The stream where the second name ends, and at the last token."""
    found = encoded(checkpoint, stated.texts)
    places = [[token_at(e, c), len(e.ids) - 1] for e, c in zip(found, stated.named, strict=True)]
    return streams_at(checkpoint, [each.ids for each in found], np.array(places))


def direction(
    x: Float[np.ndarray, "statement d"], stated: Statements, wordings: Bool[np.ndarray, " pair"] | None = None
) -> Float[np.ndarray, " d"]:
    """θ of the pairs fitted on, of all wordings or of some."""
    pairs = stated.parts.fit if wordings is None else stated.parts.fit[wordings[stated.parts.fit]]
    return (x[2 * pairs] - x[2 * pairs + 1]).mean(axis=0)


def pairs_told(
    x: Float[np.ndarray, "statement d"],
    theta: Float[np.ndarray, " d"],
    stated: Statements,
    part: str = "score",
    wordings: Bool[np.ndarray, " pair"] | None = None,
) -> Float[np.ndarray, " country"]:
    """The share of a country's pairs whose true statement lies further along θ; equal ones count half."""
    pairs = getattr(stated.parts, part)
    pairs = pairs if wordings is None else pairs[wordings[pairs]]
    further = (x[2 * pairs] - x[2 * pairs + 1]) @ theta
    _, of = np.unique(stated.country[pairs], return_inverse=True)
    return np.bincount(of, (further > 0) + 0.5 * (further == 0)) / np.bincount(of)


def choose_layer(x: Float[np.ndarray, "layer statement d"], stated: Statements) -> int:
    """Where θ tells most pairs of the choosing countries."""
    return int(np.argmax([pairs_told(layer, direction(layer, stated), stated, "choose").mean() for layer in x]))


def _within(
    name: str, x: np.ndarray, layer: int, layers: list[str], stated: Statements, seed: int
) -> list[Figure]:
    here = x[layer]
    first = stated.wording % 2 == 0  # every other wording: the town is last in some of each half
    other = [
        pairs_told(here, direction(here, stated, half), stated, wordings=~half) for half in (first, ~first)
    ]
    known: dict[str, Any] = {
        "about": 0.5,
        "side": GREATER,
        "seed": seed,
        "checkpoint": name,
        "where": layers[layer],
    }
    told = pairs_told(here, direction(here, stated), stated)
    return [
        mean_figure("true from false", told, "countries", FLIPPED, **known),
        mean_figure("in wordings not fitted on", (other[0] + other[1]) / 2, "countries", FLIPPED, **known),
    ]


def _beside(
    checkpoint: Checkpoint, x: np.ndarray, layers: list[str], stated: Statements, seed: int
) -> list[Figure]:
    """θ where the second name ends, and what the checkpoint's own probabilities tell; these describe."""
    layer = choose_layer(x, stated)
    told = pairs_told(x[layer], direction(x[layer], stated), stated)
    rows = [np.array(each.ids) for each in encoded(checkpoint, stated.texts)]
    nats = model_nats(opened(checkpoint).model, rows, checkpoint.n_ctx, bos_id=int(rows[0][0]))
    log_p = -np.array([[each.sum()] for each in nats])
    likelier = pairs_told(log_p, np.ones(1), stated)
    found = []
    for name, values, where in (
        ("where the second name ends", told, layers[layer]),
        ("true one more probable", likelier, "its own prediction"),
    ):
        figure = mean_figure(name, values, "countries", FLIPPED, about=0.5, side=GREATER, seed=seed,
                             checkpoint=checkpoint.address, where=where)  # fmt: skip
        found.append(described(figure))
    return found


def _across(x: dict[str, np.ndarray], chosen: dict[str, int], stated: Statements, seed: int) -> list[Figure]:
    """θ of one checkpoint in another of its shape; these describe."""
    found = []
    for i, read in x.items():
        for j, other in x.items():
            if i == j or read.shape != other.shape:
                continue
            told = pairs_told(other[chosen[i]], direction(read[chosen[i]], stated), stated)
            figure = mean_figure("direction of another", told, "countries", FLIPPED, about=0.5, side=GREATER,
                                 seed=seed, checkpoint=j, where=f"{i} → {j}")  # fmt: skip
            found.append(described(figure))
    return found


def _layer(x: np.ndarray, stated: Statements, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """One layer's row of the table and its point of the curve."""
    told = pairs_told(x, direction(x, stated), stated)
    curve = mean_figure("", told, "countries", FLIPPED, about=0.5, seed=seed)
    both = Split(*(np.sort(np.concatenate([2 * part, 2 * part + 1])) for part in stated.parts))
    probe = fit(x, stated.true, both)
    odds, on = probe.odds(x[both.score]), stated.true[both.score]
    low, high = ends(auroc_samples(odds, on, stated.country[both.score // 2], seed))
    row = {
        "pairs told": round(float(told.mean()), 3),
        "logistic AUROC": round(auroc(odds, on), 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "countries": len(told),
    }
    return row, {"y": curve.value, "low": curve.low, "high": curve.high}


def _claim(figures: list[Figure]) -> str:
    found = beyond(figures)

    def of(name: str) -> str:
        return ", ".join(f"{f.checkpoint} {f.value:.2f} ({f.where})" for f in found if f.name == name)

    told, wordings = of("true from false"), of("in wordings not fitted on")
    own = ", ".join(f"{f.checkpoint} {f.value:.2f}" for f in figures if f.name == "true one more probable")
    if not told and not wordings:
        return (
            f"Whether a statement about a capital is true {_untold(figures)} readable at its end, of countries "
            f"that were not fitted on (the true one is more probable in {own} of pairs)."
        )
    more = f"; in wordings not fitted on {wordings}" if wordings else "; not shown in wordings not fitted on"
    across = [f"{f.where} {f.value:.2f}" for f in figures if f.name == "direction of another"]
    carried = f"; directions of one checkpoint in another: {', '.join(across)}" if across else ""
    return (
        "True statements about capitals lie apart from false ones, of countries never fitted on, in this share of "
        f"pairs: {told or 'not shown with all wordings at once'}{more}{carried} (the true one is more probable in "
        f"{own})."
    )


def _untold(figures: Sequence[Figure]) -> str:
    """What can be said where nothing passes: with too few countries nothing can."""
    n, tests = figures[0].n, sum(f.null.p is not None for f in figures)
    return "is not shown to be" if tellable(0.5**n, tests) else f"cannot be told from {n} countries to be"


if __name__ == "__main__":
    main(__file__)
