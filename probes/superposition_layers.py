"""How crowded is the stream at each layer: how many factors are read from how few dimensions, and how do they
interfere?

On labelled held-out tokens, their documents dealt into halves, at each layer:

    effective dimension  (Σ λ)² / Σ λ²  of the activations' covariance C: tr(C)² / ‖C‖², beside d_model
    readable factors     AUROC ≥ 0.9 on the second half of w_f = (Σ + ε)⁻¹ (mean of f − mean), fitted on the first
    interference         mean |cos| of the factors' mean differences; pairs of one under the other left out
    polysemantic         factors an MLP neuron follows in both halves, AUROC ≥ 0.9 (`workbench.polysemy`)

SAEs of each layer would count latents; the lab has them of one, so this is told from activations. Nulls: labels
moved to other documents, w_f fitted again; directions drawn from the activations' own covariance, as many as
factors (a narrow covariance alone makes them lie close). More readable factors than effective dimensions, with
interference above that of the covariance's own directions, is what superposition looks like from here; orthogonal
factors would have none. [Elhage 2022; participation ratio: Gao 2017.]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm

from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, Null, beyond
from probes.kit.nulls import predicted, share_figure, shuffled
from probes.kit.plots import lines
from probes.kit.readings import held_out, labelled, opened, row_names, streams
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from saes.factors import FactorTable, Halves, halved
from workbench.checkpoint import Checkpoint
from workbench.intervals import wilson
from workbench.lab import Lab
from workbench.linear_probes import auroc
from workbench.neuron_factors import dense_aurocs
from workbench.neurons import neurons
from workbench.superposition import BOUND, followed

READS = ("activations",)
N_NULL = 20  # directions drawn from the covariance, sets of as many as factors
MOST_FACTORS = 100


class Layer(NamedTuple):
    """What is told of one layer of one checkpoint."""

    dimension: tuple[float, float, float]  # and its interval
    even: float  # of as many tokens of independent, equal dimensions
    n_documents: int
    aurocs: Float[np.ndarray, " factor"]
    permuted: Float[np.ndarray, " factor"]
    cosines: Float[np.ndarray, " pair"]
    random: list[float]  # mean |cos| of directions of the same covariance
    followed: Int[np.ndarray, " neuron"]  # factors each neuron follows; none at the embedding
    by_chance: Int[np.ndarray, " neuron"]


def ask(
    lab: Lab, checkpoints: Sequence[Checkpoint], n_tokens: int = 6_000, n_neurons: int = 40, seed: int = 0
) -> Finding:
    at_least(500, n_tokens=n_tokens)
    at_least(4, n_neurons=n_neurons)
    at_least(0, seed=seed)
    figures, rows = list[Figure](), list[dict[str, Any]]()
    for checkpoint in checkpoints:
        found = labelled(held_out(checkpoint), n_tokens)
        if len(np.unique(found.factors.document)) < 20:
            raise LackingError(
                f"{checkpoint.address!r} reads no held-out text whose factors are known: grow a lab with a world "
                "(corpus.world_characters in recipe.toml)"
            )
        dealt = halved(found.factors, seed)
        dealt = _fewer(dealt, found.factors)
        moved = _moved(dealt, seed)
        stream = streams(checkpoint, found.rows)
        for layer, name in enumerate(row_names(checkpoint)):
            told = read(stream[layer], dealt, moved, seed)
            if layer:
                here = _neurons(checkpoint, layer - 1, found.rows, dealt, moved, n_neurons, seed)
                told = told._replace(followed=here[0], by_chance=here[1])
            made = _figures(told, checkpoint, name)
            figures += made
            rows += _rows(made, checkpoint.address, name)
    plots = [
        lines(title, "layer", unit, [r for r in rows if r["name"] in names], alt)
        for title, unit, names, alt in (
            ("Dimensions", "dimensions", (DIMENSION,), "Effective dimension by layer and checkpoint"),
            ("Readable factors", "share of factors", (READABLE,), "Share of factors read by layer, with intervals; "
             "grey: labels moved"),
            ("Interference", "mean |cos|", (INTERFERENCE,), "Mean |cos| of factors by layer; "
             "grey: the covariance's own directions"),
        )
    ]  # fmt: skip
    kept = [{key: value for key, value in row.items() if key not in ("low", "high")} for row in rows]
    return Finding(
        _claim(figures, checkpoints),
        figures,
        "labels moved to other documents, fitted again; directions drawn from the activations' own covariance",
        "SAEs of every layer (`python -m workbench sae LAB --checkpoint NAME --site blocks.L.hook_resid_post`), "
        "whose latents count features that nobody labelled.",
        plots,
        kept,
    )


DIMENSION, READABLE, INTERFERENCE, POLYSEMANTIC = (
    "effective dimension", "readable factors", "interference", "polysemantic neurons",
)  # fmt: skip


def _fewer(dealt: Halves, table: FactorTable) -> Halves:
    """The `MOST_FACTORS` most frequent of the factors that count."""
    if dealt.first.n_factors == 0:
        raise LackingError(
            "no factor is on in enough held-out tokens: raise activations.heldout_tokens in recipe.toml and "
            "grow the lab"
        )
    kept = np.sort(np.argsort(-dealt.first.positives, kind="stable")[:MOST_FACTORS])
    return Halves(dealt.first_rows, dealt.second_rows, dealt.first.only(kept), dealt.second.only(kept))


def _moved(dealt: Halves, seed: int) -> Halves:
    """The same halves with each document's labels given to another document."""
    tables = []
    for i, half in enumerate((dealt.first, dealt.second)):
        rows = shuffled(np.arange(len(half)), half.document, seed + i)
        tables.append(FactorTable(half.labels[rows], half.document, half.names, half.parents))
    return Halves(dealt.first_rows, dealt.second_rows, *tables)


def read(x: Float[np.ndarray, "token d"], dealt: Halves, moved: Halves, seed: int) -> Layer:
    """One layer's activations against true labels and moved ones."""
    one, two = x[dealt.first_rows].astype(float), x[dealt.second_rows].astype(float)
    mean = one.mean(axis=0)
    covariance = (one - mean).T @ (one - mean) / len(one)
    deltas = differences(one, dealt.first)
    kept = unrelated(dealt.first)
    rng, (n, d) = np.random.default_rng(seed), deltas.shape
    spread = np.linalg.cholesky(covariance + 1e-6 * np.trace(covariance) / d * np.eye(d))
    drawn = [cosines(rng.standard_normal((n, d)) @ spread.T)[kept].mean() for _ in range(N_NULL)]
    return Layer(
        effective_dimension(one, dealt.first.document),
        d * len(one) / (d + len(one)),
        len(np.unique(dealt.first.document)),
        _read_off(one, two, deltas, covariance, dealt.second),
        _read_off(one, two, differences(one, moved.first), covariance, moved.second),
        cosines(deltas)[kept],
        [float(each) for each in drawn],
        np.zeros(0, int),
        np.zeros(0, int),
    )


def effective_dimension(
    x: Float[np.ndarray, "token d"], document: Int[np.ndarray, " token"], blocks: int = 10
) -> tuple[float, float, float]:
    """Participation ratio of the covariance, and its 95 % interval by jackknife over blocks of documents."""
    _, of = np.unique(document, return_inverse=True)
    block = of % blocks
    parts = [x[block == b] for b in range(blocks)]
    sums = np.array([[len(p), *p.sum(axis=0), *(p.T @ p).ravel()] for p in parts])
    total = sums.sum(axis=0)

    def told(moments: np.ndarray) -> float:
        n, d = moments[0], x.shape[1]
        mean = moments[1 : d + 1] / n
        covariance = moments[d + 1 :].reshape(d, d) / n - np.outer(mean, mean)
        return float(np.trace(covariance) ** 2 / np.square(covariance).sum())

    value, without = told(total), np.array([told(total - each) for each in sums])
    reach = 1.96 * float(np.sqrt((blocks - 1) / blocks * np.square(without - without.mean()).sum()))
    return value, value - reach, value + reach


def differences(x: Float[np.ndarray, "token d"], table: FactorTable) -> Float[np.ndarray, "factor d"]:
    """Mean with each factor less mean of all."""
    return np.asarray(table.labels.astype(float).T @ x) / table.positives[:, None] - x.mean(axis=0)


def cosines(directions: Float[np.ndarray, "factor d"]) -> Float[np.ndarray, "factor factor"]:
    """|cos| of every pair."""
    unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    return np.abs(unit @ unit.T)


def unrelated(table: FactorTable) -> np.ndarray:
    """Bool [factor factor]: each pair once, none of which one lies under the other."""
    n = table.n_factors
    kept = np.triu(np.ones((n, n), bool), 1)
    for factor in range(n):
        above = int(table.parents[factor])
        while above >= 0:
            kept[min(factor, above), max(factor, above)] = False
            above = int(table.parents[above])
    return kept


def _read_off(
    one: np.ndarray, two: np.ndarray, deltas: np.ndarray, covariance: np.ndarray, table: FactorTable
) -> Float[np.ndarray, " factor"]:
    """AUROC of every factor's own discriminant on the second half."""
    ridge = 1e-3 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    told = two @ np.linalg.solve(covariance + ridge, deltas.T)
    return np.array([auroc(told[:, f], table.column(f)) for f in range(table.n_factors)])


def _neurons(
    checkpoint: Checkpoint, layer: int, rows: np.ndarray, dealt: Halves, moved: Halves, n: int, seed: int
) -> list[Int[np.ndarray, " neuron"]]:
    """How many factors each of some neurons follows in both halves, and by chance."""
    values = neurons(opened(checkpoint).model, layer, held_out(checkpoint), rows)
    chosen = np.random.default_rng(seed).permutation(len(values))[:n]
    values = values[chosen].T.astype(np.float16)
    found = []
    for halves in (dealt, moved):
        parts = ((halves.first_rows, halves.first), (halves.second_rows, halves.second))
        both = (dense_aurocs(values[r], t.labels, np.ones(len(r), bool)) for r, t in parts)
        found.append((followed(*both) != 0).sum(axis=1))
    return found


def _figures(told: Layer, checkpoint: Checkpoint, where: str) -> list[Figure]:
    at: dict[str, Any] = {"checkpoint": checkpoint.address, "where": where}
    n, d = len(told.aurocs), checkpoint.d_model
    even = Null(told.even, told.even, told.even, d, "were all dimensions alike and independent")
    chance = (int((told.permuted >= BOUND).sum()) + 1) / (n + 2)
    readable = share_figure(
        READABLE, int((told.aurocs >= BOUND).sum()), n, "factors", chance, "labels moved", **at
    )
    spread = told.cosines.std() / np.sqrt(n)  # pairs share factors: no more independent cases than those
    value = float(told.cosines.mean())
    null = predicted(value, told.random, "directions of the same covariance")
    both = float(
        np.hypot(spread, np.std(told.random, ddof=1))
    )  # the factors are a sample too, as the draws are
    null = dataclasses.replace(null, p=float(2 * norm.sf(abs(value - null.value) / both)))
    crowd = Figure(INTERFERENCE, value, value - 1.96 * spread, value + 1.96 * spread, n, "factors", null, **at)
    found = [readable, crowd]
    found.append(Figure(DIMENSION, *told.dimension, told.n_documents, "documents", even, **at))
    if len(told.followed):
        many, by_chance, k = int((told.followed > 1).sum()), int((told.by_chance > 1).sum()), len(told.followed)
        null = Null(by_chance / k, *wilson(by_chance, k), k, "labels moved")
        found.append(Figure(POLYSEMANTIC, many / k, *wilson(many, k), k, "neurons", null, **at))
    return found


def _rows(figures: Sequence[Figure], series: str, layer: str) -> list[dict[str, Any]]:
    own = [
        {"name": f.name, "series": series, "x": layer, "y": f.value, "low": f.low, "high": f.high} for f in figures
    ]  # fmt: skip
    nulls = [
        {"name": f.name, "series": f"null {series}", "x": layer, "y": f.null.value, "low": f.null.low,
         "high": f.null.high}
        for f in figures if f.name in (INTERFERENCE, READABLE)
    ]  # fmt: skip
    return own + nulls


def _claim(figures: Sequence[Figure], checkpoints: Sequence[Checkpoint]) -> str:
    passed = {(f.checkpoint, f.name, f.where) for f in beyond(figures)}
    at = {(f.checkpoint, f.where, f.name): f for f in figures}
    parts = []
    for checkpoint in checkpoints:
        name, layers = checkpoint.address, row_names(checkpoint)
        read = [w for w in layers if (name, READABLE, w) in passed]
        n = at[name, layers[0], READABLE].n
        counts = _range([round(at[name, w, READABLE].value * n) for w in read])
        dimensions = _range([round(at[name, w, DIMENSION].value) for w in read])
        out_of = f"{dimensions} effective dimensions of {checkpoint.d_model}"
        said = f"{name} reads {counts} of {n} factors from {out_of}"
        said = said if read else f"{name} is not shown to read more factors at any layer than with labels moved"
        rest = [w for w in layers if w not in read]
        said += f" (not shown at {', '.join(rest)})" if read and rest else ""
        crowds = [at[name, w, INTERFERENCE] for w in layers if (name, INTERFERENCE, w) in passed]
        kinds = [
            f"they interfere {side} than directions of the same covariance at "
            + ", ".join(f"{f.where} ({f.value:.2f} against {f.null.value:.2f})" for f in of)
            for side, of in (
                ("more", [f for f in crowds if f.value > f.null.value]),
                ("less", [f for f in crowds if f.value <= f.null.value]),
            )
            if of
        ]
        none = "they are not shown to interfere more than directions of the same covariance at any layer"
        parts.append(f"{said}; {'; '.join(kinds) or none}")
    return f"{'. '.join(parts)}."


def _range(of: Sequence[int]) -> str:
    """`13 to 32`, of the layers at which something is readable; nothing of none."""
    ends = sorted({min(of), max(of)}) if of else []
    return " to ".join(map(str, ends))


if __name__ == "__main__":
    main(__file__)
