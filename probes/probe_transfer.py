"""Do probes that were fitted on one checkpoint read another?

Linear probes for frequent factors of the world, fitted on the stream of checkpoint i at one layer, C chosen there
on other documents, read the stream of checkpoint j at the same layer and the same tokens of a third set of
documents, with their own mean, sd and threshold:

    gap(i → j) = accuracy(i → j) − accuracy(j → j)        balanced accuracy; below zero: i's probe tells less
    kept       = (accuracy(i → j) − 1/2) / (accuracy(j → j) − 1/2)

Balanced accuracy is a sum over documents, so that the gap is the mean of one value a document; its null flips their
signs: as if either probe had said what the other said. j's own probe is the ceiling, a probe fitted on i with the
labels of other documents the floor. The gap that a claim rests on is the mean over factors and layers, so that no
layer is chosen; the table has AUROC, which asks for no threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from threadpoolctl import threadpool_limits

from probes.kit.commands import main
from probes.kit.factors import FactorCases, factor_cases
from probes.kit.finding import Figure, Finding, Null, Plot, beyond
from probes.kit.nulls import LESS, mean_of, shuffled
from probes.kit.plots import bars, heat, lines
from probes.kit.readings import row_names, streams
from probes.kit.settings import at_least
from workbench.checkpoint import Checkpoint
from workbench.errors import Misuse
from workbench.intervals import ratio_interval
from workbench.lab import Lab
from workbench.linear_probes import PENALTIES, Probe, auroc, fit_probe, probe_of

READS = ("activations",)
LEAST_TOLD = 0.05  # of balanced accuracy above chance, that a share of it can be kept
FLIPPED = "either probe's answers, a document at a time"


def ask(
    lab: Lab, checkpoints: Sequence[Checkpoint], seed: int = 0, n_factors: int = 6, n_tokens: int = 500
) -> Finding:
    at_least(1, n_factors=n_factors)
    at_least(100, n_tokens=n_tokens)
    at_least(0, seed=seed)
    _check(lab, checkpoints)
    cases = factor_cases(checkpoints[0], n_factors, (n_tokens, n_tokens // 2, 2 * n_tokens), seed)
    x = {c.address: streams(c, cases.rows) for c in checkpoints}
    dealt = shuffled(np.arange(len(cases.document)), cases.document, seed + 1)
    fitted = {name: _probes(read, cases, cases.on) for name, read in x.items()}
    floor = {name: _probes(read, cases, cases.on[:, dealt], one_penalty=True) for name, read in x.items()}
    right, ranks = _scores(fitted, x, cases)
    low, _ = _scores(floor, x, cases)
    score = cases.parts.score
    _, group = np.unique(cases.document[score], return_inverse=True)
    whole = np.mean([accuracy_by_group(on, on, group) for on in cases.on[:, score]], axis=0)
    figures, rows = list[Figure](), list[dict[str, Any]]()
    layers = row_names(checkpoints[0])
    for i in x:
        for j in x:
            if i != j:
                figures.append(_gap(right[i, j] - right[j, j], i, j, seed))
                figures.append(_accuracy(right[i, j], low[i, j], whole, i, j, seed))
            rows += [
                {
                    "fitted on": i,
                    "scored on": j,
                    "layer": layer,
                    "accuracy": round(float(right[i, j][:, at].sum()), 3),
                    "own probe": round(float(right[j, j][:, at].sum()), 3),
                    "labels shuffled": round(float(low[i, j][:, at].sum()), 3),
                    "AUROC": round(float(ranks[i, j][:, at].mean()), 3),
                }
                for at, layer in enumerate(layers)
            ]
    changes = (
        "Factors that are rarer or need more context may be written anew where these are not; a probe that is "
        "refitted in its threshold alone would keep what a shift of the mean costs here."
    )
    null = "signs of each document's gap at random; floor: probes fitted on labels of other documents"
    n = len(cases.names)
    return Finding(_claim(figures, rows, n), figures, null, changes, _plots(figures, rows, layers), rows)


def _check(lab: Lab, checkpoints: Sequence[Checkpoint]) -> None:
    from workbench.likeness import headline, portraits, reasons

    names = [c.address for c in checkpoints]
    if len(names) < 2:
        raise Misuse(
            f"a probe is carried from one checkpoint to another, and only {', '.join(names)} was named: name two "
            "or more, such as --checkpoints base,sft"
        )
    if why := reasons(portraits(lab, names)):
        raise Misuse(f"{headline(names, why)}, and neither have probes: name checkpoints of one family")


def _probes(
    x: Float[np.ndarray, "layer case d"],
    cases: FactorCases,
    on: Bool[np.ndarray, "factor case"],
    one_penalty: bool = False,
) -> list[list[Probe]]:
    """A probe for each factor and layer; with `one_penalty` C is not chosen but that of the least cost."""
    first, choose, _ = cases.parts
    with threadpool_limits(1):
        return [
            [
                _once(layer[first], labels[first])
                if one_penalty
                else fit_probe(layer[first], labels[first], layer[choose], labels[choose])
                for layer in x
            ]
            for labels in on
        ]


def _once(x: np.ndarray, on: np.ndarray) -> Probe:
    if on.all() or not on.any():
        return Probe(np.zeros(x.shape[1]), 0.0, 0.0, 0.0)  # nothing to be told of labels that are all alike
    return probe_of(x, on, PENALTIES[0])


def _scores(
    fitted: dict[str, list[list[Probe]]], x: dict[str, np.ndarray], cases: FactorCases
) -> tuple[dict[tuple[str, str], np.ndarray], dict[tuple[str, str], np.ndarray]]:
    """For fitted and scored: what each document adds to balanced accuracy, mean over factors, [document, layer];
    AUROC [factor, layer]."""
    score = cases.parts.score
    _, group = np.unique(cases.document[score], return_inverse=True)
    right, ranks = {}, {}
    for i, probes in fitted.items():
        for j, read in x.items():
            added = np.zeros((int(group.max()) + 1, len(read)))
            area = np.zeros((len(probes), len(read)))
            for f, by_layer in enumerate(probes):
                on = cases.on[f, score]
                for at, probe in enumerate(by_layer):
                    odds = probe.odds(read[at, score])
                    added[:, at] += accuracy_by_group(odds >= probe.told, on, group) / len(probes)
                    area[f, at] = auroc(odds, on)
            right[i, j], ranks[i, j] = added, area
    return right, ranks


def accuracy_by_group(
    told: Bool[np.ndarray, " case"], on: Bool[np.ndarray, " case"], group: Int[np.ndarray, " case"]
) -> Float[np.ndarray, " group"]:
    """What each group adds to balanced accuracy: the sum over groups is the balanced accuracy."""
    weight = np.where(on, 1 / max(on.sum(), 1), 1 / max((~on).sum(), 1)) / 2
    return np.bincount(group, weight * (told == on))


def _gap(added: Float[np.ndarray, "document layer"], i: str, j: str, seed: int) -> Figure:
    """The mean over factors and layers of what i's probes tell less in j than j's own."""
    each = added.mean(axis=1) * len(added)
    value, low, high, null = mean_of(each, FLIPPED, seed, side=LESS)
    return Figure("gap", value, low, high, len(each), "documents", null, checkpoint=j, where=f"{i} → {j}")


def _accuracy(
    added: Float[np.ndarray, "document layer"],
    floor: Float[np.ndarray, "document layer"],
    whole: Float[np.ndarray, " document"],
    i: str,
    j: str,
    seed: int,
) -> Figure:
    """The mean over factors and layers of what i's probes tell in j, beside probes of shuffled labels; `whole` is
    what each document would add if all its tokens were told."""
    n = len(added)
    (value, ends), (none, bounds) = (
        (float(each.mean(axis=1).sum()), ratio_interval(each.mean(axis=1), whole, seed))
        for each in (added, floor)
    )
    null = Null(none, *bounds, n, "probes fitted on labels of other documents")
    return Figure("balanced accuracy", value, *ends, n, "documents", null, checkpoint=j, where=f"{i} → {j}")


def _plots(figures: list[Figure], rows: list[dict[str, Any]], layers: list[str]) -> list[Plot]:
    pairs = [row for row in rows if row["fitted on"] != row["scored on"]]
    curves = [
        {"series": f"{r['fitted on']} → {r['scored on']}", "x": r["layer"], "y": r["accuracy"] - r["own probe"]}
        for r in pairs
    ]
    last = [row for row in rows if row["layer"] == layers[-1]]
    cells = [{"row": r["fitted on"], "column": r["scored on"], "value": r["accuracy"]} for r in last]
    gaps = [
        {"row": f.where, "series": series, "x": v, "low": low, "high": high, "n": f.n}
        for f in gaps_of(figures)
        for series, v, low, high in (
            (f.checkpoint, f.value, f.low, f.high),
            ("null", f.null.value, f.null.low, f.null.high),
        )
    ]
    return [
        bars("Gap of each transfer", "balanced accuracy less that of own probes", gaps, "gaps, nulls", 0.0),
        lines("Gap by layer", "layer", "balanced accuracy", curves, "gap by layer, a line a transfer, "
              "without intervals (those are of the mean over layers)", null=0.0),
        heat(f"Fitted (rows), scored (columns), {layers[-1]}", cells, "balanced accuracy of each pair", "accuracy"),
    ]  # fmt: skip


def gaps_of(figures: Sequence[Figure]) -> list[Figure]:
    """Those that a claim rests on."""
    return [f for f in figures if f.name == "gap"]


def _claim(figures: list[Figure], rows: list[dict[str, Any]], n: int) -> str:
    kept = {}
    for f in gaps_of(figures):
        i, j = f.where.split(" → ")
        own = [row for row in rows if row["fitted on"] == i and row["scored on"] == j]
        accuracy, ceiling = (np.mean([row[key] for row in own]) for key in ("accuracy", "own probe"))
        if ceiling >= 0.5 + LEAST_TOLD:
            kept[f.where] = (accuracy - 0.5) / (ceiling - 0.5)
    lost = beyond(figures)
    if not lost:
        least = min(kept, key=lambda pair: kept[pair], default="")
        keeps = f" ({least} keeps {kept[least]:.0%})" if least else ""
        return (
            f"Probes of {n} factors are not shown to lose anything on another checkpoint beside its own probes"
            f"{keeps}."
        )
    told = "; ".join(
        f"{f.where} {f.value:+.3f}" + (f" (keeps {kept[f.where]:.0%})" if f.where in kept else "") for f in lost
    )
    same = [f.where for f in gaps_of(figures) if f not in lost]
    others = f"; {', '.join(same)} are not shown to lose anything" if same else ""
    return f"Probes of {n} factors lose on other checkpoints, in balanced accuracy: {told}{others}."


if __name__ == "__main__":
    main(__file__)
