"""Where is each of the world's factors readable: from which layer on, in which checkpoint, and by a linear probe?

A dozen frequent factors of different kinds, told of held-out tokens by logistic regression at every layer
(`workbench.linear_probes`): fitted on the tokens of one set of documents, C and the layer chosen on a second, all
figures on a third. Row "embedding" sees the token and nothing before it.

    readable from    the first layer whose AUROC, on the choosing documents, has 0.9 of the way from 0.5 to the best
    by context       AUROC at the chosen layer − AUROC at the embedding, mean over factors
    selectivity      balanced accuracy − that on a control task, word types at random [Hewitt and Liang 2019]

The null of an AUROC deals the factors' labels to other documents, all factors of a document together, and scores
the same probes; that of context is two probes that read equally well: documents at random are read by the other of
the two, by the ranks that each gives. That of selectivity is one control task against another. For the factors that
linear probes tell least, an MLP with one hidden layer stands beside them in the last of the checkpoints, against
MLPs of two seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from probes.kit.classifiers import MLP, auroc_samples, ends, fit
from probes.kit.commands import main
from probes.kit.factors import FactorCases, factor_cases
from probes.kit.finding import Figure, Finding, Null, Plot, beyond
from probes.kit.nulls import against, enough, shuffled
from probes.kit.plots import cells, heat, lines
from probes.kit.readings import row_names, streams
from probes.kit.settings import at_least
from workbench.checkpoint import Checkpoint
from workbench.lab import Lab
from workbench.linear_probes import Probe, auroc, control_labels, fit_probe

READS = ("activations",)
OF_THE_WAY = 0.9
DEALT, EXCHANGED = "labels of other documents", "the two probes exchanged by document"
TESTS = 2  # of a checkpoint


class Read(NamedTuple):
    """One checkpoint's probes: `auroc[f, l]` and its resamples on the scoring documents, the chosen layer, the one
    a factor is readable from, log odds at the embedding and at the chosen layer."""

    auroc: Float[np.ndarray, "factor layer"]
    samples: Float[np.ndarray, "factor layer resample"]
    chosen: Int[np.ndarray, " factor"]
    readable: Int[np.ndarray, " factor"]
    odds: Float[np.ndarray, "2 factor case"]
    selectivity: Float[np.ndarray, "factor resample"]  # the first is the figure itself
    control: Float[np.ndarray, " factor"]  # one control task less another
    mlp: dict[
        int, Float[np.ndarray, "2 resample"]
    ]  # AUROC of an MLP less the linear one's, less another seed's


def ask(
    lab: Lab,
    checkpoints: Sequence[Checkpoint],
    seed: int = 0,
    n_factors: int = 12,
    n_tokens: int = 500,
    n_mlp: int = 2,
    draws: int = 199,
) -> Finding:
    at_least(1, n_factors=n_factors)
    at_least(100, n_tokens=n_tokens)
    at_least(19, draws=draws)
    draws = enough(draws, TESTS * len(checkpoints))
    at_least(0, n_mlp=n_mlp, seed=seed)
    figures, rows, plots, curves = list[Figure](), list[dict[str, Any]](), list[Plot](), list[dict[str, Any]]()
    for checkpoint in checkpoints:
        cases = factor_cases(checkpoint, n_factors, (n_tokens, n_tokens // 2, 2 * n_tokens), seed)
        some = n_mlp if checkpoint is checkpoints[-1] else 0
        read = _read(streams(checkpoint, cases.rows), cases, seed, some)
        figures += _figures(checkpoint, cases, read, draws, seed)
        layers = row_names(checkpoint)
        rows += _rows(checkpoint, cases, read, layers)
        matrix = cells(cases.names, layers, read.auroc)
        told = f"AUROC of a linear probe for each factor at each layer of {checkpoint.address}"
        plots.append(heat(f"Factors readable in {checkpoint.address}", matrix, told, "AUROC", centre=0.5))
        for at, layer in enumerate(layers):
            low, high = ends(read.samples[:, at].mean(axis=0))
            place = {"series": checkpoint.address, "x": layer, "y": float(read.auroc[:, at].mean())}
            curves.append(place | {"low": low, "high": high})
    alt = "mean AUROC over factors by layer, a line a checkpoint; dashed: chance"
    plots.append(lines("Mean over factors", "layer", "AUROC", curves, alt, null=0.5))
    changes = (
        "Other factors or wordings: every factor here is of a world whose texts come from few patterns, so a "
        "probe may tell the pattern. More tokens to fit on raise what linear probes tell, MLPs more."
    )
    null = f"{DEALT} (AUROC), {EXCHANGED} (by context), one control task against another (selectivity)"
    return Finding(_claim(figures, rows), figures, null, changes, plots, rows)


def _read(x: Float[np.ndarray, "layer case d"], cases: FactorCases, seed: int, n_mlp: int) -> Read:
    _, choose, score = cases.parts
    n_layers, n = len(x), len(cases.names)
    groups = cases.document[score]
    chosen_by, found = np.zeros((n, n_layers)), np.zeros((n, n_layers))
    samples, odds, probes = [], np.zeros((n_layers, n, len(score))), list[list[Probe]]()
    for f in range(n):
        on = cases.on[f]
        probes.append([_fit(x[at], on, cases) for at in range(n_layers)])
        for at, probe in enumerate(probes[f]):
            chosen_by[f, at] = auroc(probe.odds(x[at, choose]), on[choose])
            odds[at, f] = probe.odds(x[at, score])
            found[f, at] = auroc(odds[at, f], on[score])
        samples.append([auroc_samples(odds[at, f], on[score], groups, seed) for at in range(n_layers)])
    best = chosen_by.argmax(axis=1)
    enough = chosen_by >= 0.5 + OF_THE_WAY * (chosen_by.max(axis=1, keepdims=True) - 0.5)
    selected = [_selectivity(x[best[f]], cases, f, probes[f][best[f]], seed) for f in range(n)]
    at_best = chosen_by.max(axis=1)
    hardest = np.argsort(at_best, kind="stable")[:n_mlp]
    mlp = {int(f): _mlp(x[best[f]], cases, int(f), odds[best[f], f], seed) for f in hardest}
    told = np.stack([odds[0], odds[best, np.arange(n)]])
    return Read(
        found, np.array(samples), best, enough.argmax(axis=1), told,
        np.array([s for s, _ in selected]), np.array([c for _, c in selected]), mlp,
    )  # fmt: skip


def _fit(x: np.ndarray, on: np.ndarray, cases: FactorCases) -> Probe:
    from threadpoolctl import threadpool_limits

    first, choose, _ = cases.parts
    with threadpool_limits(1):
        return fit_probe(x[first], on[first], x[choose], on[choose])


def _selectivity(
    x: np.ndarray, cases: FactorCases, f: int, probe: Probe, seed: int
) -> tuple[Float[np.ndarray, " resample"], float]:
    """Selectivity with its resamples, and the accuracy on one control task less that on another."""
    score = cases.parts.score
    own = _accuracies(probe, x[score], cases.on[f][score], cases.document[score], seed)
    controls = []
    for number in range(2):
        on = control_labels(cases.ids, int(cases.on[f].sum()), seed + 1000 * number + f)
        if all(on[part].any() for part in cases.parts):
            told = _fit(x, on, cases)
            controls.append(_accuracies(told, x[score], on[score], cases.document[score], seed))
    if not controls:
        return own - 0.5, 0.0  # no word type is in all three sets: nothing can be learned by heart
    return own - controls[0], float(controls[0][0] - controls[-1][0])


def _accuracies(probe: Probe, x: np.ndarray, on: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Balanced accuracy, and that of documents drawn with return."""
    told = probe.odds(x) >= probe.told
    names, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), 4))
    for column, each in enumerate((told & on, on, ~told & ~on, ~on)):
        np.add.at(sums[:, column], group, each)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), 400)
    right, of, right_off, off = np.concatenate([sums.sum(axis=0)[None], drawn @ sums]).T
    return (right / np.maximum(of, 1) + right_off / np.maximum(off, 1)) / 2


def _mlp(x: np.ndarray, cases: FactorCases, f: int, linear: np.ndarray, seed: int) -> np.ndarray:
    """AUROC of an MLP less that of the linear probe, and less that of an MLP of another seed; the figure itself,
    then that of documents drawn with return."""
    score, on = cases.parts.score, cases.on[f]
    groups = cases.document[score]

    def drawn(odds: np.ndarray) -> np.ndarray:
        samples = auroc_samples(odds, on[score], groups, seed)
        return np.concatenate([[auroc(odds, on[score])], samples])

    mlp, again = (drawn(fit(x, on, cases.parts, MLP, s).odds(x[score])) for s in (seed, seed + 1))
    return np.stack([mlp - drawn(linear), mlp - again])


def _figures(checkpoint: Checkpoint, cases: FactorCases, read: Read, draws: int, seed: int) -> list[Figure]:
    n, at = len(cases.names), np.arange(len(cases.names))
    groups = cases.document[cases.parts.score]
    documents = len(np.unique(groups))
    best = read.auroc[at, read.chosen]
    null = _dealt(read.odds[1], cases, draws, seed)
    first, later = read.samples[:, 0], read.samples[at, read.chosen]
    place: dict[str, Any] = {"n": documents, "of": "documents", "checkpoint": checkpoint.address}
    several = f"mean of {n} factors"
    value = float(best.mean())
    told = Figure(
        "AUROC", value, *ends(later.mean(axis=0)), null=against(value, null, DEALT), where=several, **place
    )
    value = float((best - read.auroc[:, 0]).mean())
    on = cases.on[:, cases.parts.score]
    context = against(value, exchanged(read.odds, on, groups, draws, seed), EXCHANGED)
    by_context = Figure(
        "by context", value, *ends((later - first).mean(axis=0)), null=context, where=several, **place
    )
    low, high = np.quantile(read.control, (0.025, 0.975))
    control = Null(float(read.control.mean()), float(low), float(high), n, "one control task less another")
    chosen = read.selectivity.mean(axis=0)
    figures = [
        told, by_context,
        Figure("selectivity", float(chosen[0]), *ends(chosen[1:]), null=control, where=several, **place),
    ]  # fmt: skip
    if read.mlp:
        gained, seeds = np.mean(list(read.mlp.values()), axis=0)
        none = Null(float(seeds[0]), *ends(seeds[1:]), documents, "MLPs of two seeds")
        hardest = f"the {len(read.mlp)} least linear"
        figures.append(Figure("MLP less linear AUROC", float(gained[0]), *ends(gained[1:]), null=none,
                              where=hardest, **place))  # fmt: skip
    return figures


def _dealt(
    odds: Float[np.ndarray, "factor case"], cases: FactorCases, draws: int, seed: int
) -> Float[np.ndarray, " draw"]:
    """Mean AUROC where documents have each other's labels."""
    from scipy.stats import rankdata

    score = cases.parts.score
    ranks, on = rankdata(odds, axis=1), cases.on[:, score]
    document = cases.document[score]
    dealt = (shuffled(np.arange(len(score)), document, seed + draw) for draw in range(draws))
    return np.array([mean_auroc(ranks, on[:, of]) for of in dealt])


def exchanged(
    odds: Float[np.ndarray, "2 factor case"],
    on: Bool[np.ndarray, "factor case"],
    document: Int[np.ndarray, " case"],
    draws: int,
    seed: int,
) -> Float[np.ndarray, " draw"]:
    """Mean AUROC of the second probes less that of the first where each document, all its factors together, is read
    by its own or by the other one at random."""
    from scipy.stats import rankdata

    ranks, (_, of) = rankdata(odds, axis=2), np.unique(document, return_inverse=True)
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        other = (rng.random(int(of.max()) + 1) < 0.5)[of]
        first, second = rankdata(np.where(other, ranks[::-1], ranks), axis=2)
        found.append(mean_auroc(second, on) - mean_auroc(first, on))
    return np.array(found)


def mean_auroc(ranks: Float[np.ndarray, "factor case"], on: Bool[np.ndarray, "factor case"]) -> float:
    """Mean over the factors that are on in some cases and off in others."""
    n_on, n = on.sum(axis=1), on.shape[1]
    above = (ranks * on).sum(axis=1) - n_on * (n_on + 1) / 2
    able = (n_on > 0) & (n_on < n)
    return float((above[able] / (n_on * (n - n_on))[able]).mean())


def _rows(checkpoint: Checkpoint, cases: FactorCases, read: Read, layers: list[str]) -> list[dict[str, Any]]:
    rows = []
    for f, name in enumerate(cases.names):
        low, high = ends(read.samples[f, read.chosen[f]])
        rows.append(
            {
                "checkpoint": checkpoint.address,
                "factor": name,
                "readable from": layers[read.readable[f]],
                "chosen layer": layers[read.chosen[f]],
                "AUROC": round(float(read.auroc[f, read.chosen[f]]), 3),
                "low": round(low, 3),
                "high": round(high, 3),
                "AUROC, embedding": round(float(read.auroc[f, 0]), 3),
                "selectivity": round(float(read.selectivity[f, 0]), 3),
                "MLP less linear": round(float(read.mlp[f][0, 0]), 3) if f in read.mlp else None,
                "tokens with it": int(cases.on[f][cases.parts.score].sum()),
            }
        )
    return rows


def _claim(figures: list[Figure], rows: list[dict[str, Any]]) -> str:
    found, told = beyond(figures), []
    shown_in = {f.checkpoint for f in found}
    for figure in (f for f in figures if f.name == "AUROC" and f.checkpoint in shown_in):
        own = [row for row in rows if row["checkpoint"] == figure.checkpoint]
        at_once = sum(row["readable from"] == "embedding" for row in own)
        gain = next((f for f in found if f.checkpoint == figure.checkpoint and f.name == "by context"), None)
        more = f", and context adds {gain.value:.2f}" if gain else ", and context is not shown to add anything"
        but = "" if figure in found else ", not shown beyond labels of other documents"
        told.append(
            f"{figure.checkpoint} with a mean AUROC of {figure.value:.2f}{but} ({at_once} of {len(own)} from the "
            f"token alone{more})"
        )
    if not told:
        return "No factor is shown to be readable beyond what labels of other documents give."
    return "A linear probe reads the world's factors in " + "; in ".join(told) + "."


if __name__ == "__main__":
    main(__file__)
