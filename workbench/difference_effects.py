"""The tables of what a comparison's differences consist of (components) and do (steering)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from saes.arrays import ActivationArrays, read
from workbench.activation_difference import DifferenceSums, half_differences, mean_difference
from workbench.difference_components import shuffled, spectrum, strongest
from workbench.difference_steering import (
    ALPHAS,
    DIRECTIONS,
    Steered,
    beginnings,
    pushes,
    sampled_windows,
    steered,
)
from workbench.difference_subject import WHOLE, Subject
from workbench.difference_tables import INTERVAL, PAIR, Bases
from workbench.intervals import quantiles, resampled_sums
from workbench.splice import tokens_per_batch

COMPONENT_TOKENS = 30_000
NAMED = 3  # components that are told by their tokens
CONTEXTS = 6  # documents of each end of those
BEFORE, AFTER = 12, 4  # tokens of a context
STEERED_TOKENS = 512  # of each domain
LENGTH = 32  # tokens of a window's beginning
RUNS = len(DIRECTIONS) * (len(ALPHAS) + 1)
CLOSED, STRAYED = "closed", "strayed"
OF = ("difference", "stream", "shuffled difference")
COMPONENTS: Mapping[str, Any] = {
    **PAIR, "of": pl.String, "component": pl.Int64, "share": pl.Float64, **INTERVAL, "n": pl.Int64,
}  # fmt: skip
CONTEXT: Mapping[str, Any] = {
    **PAIR, "component": pl.Int64, "end": pl.String, "place": pl.Int64, "score": pl.Float64, "text": pl.String,
    "token": pl.String, "following": pl.String, "document": pl.String, "domain": pl.String, "position": pl.Int64,
}  # fmt: skip
STEERING: Mapping[str, Any] = {
    **PAIR, "domain": pl.String, "figure": pl.String, "direction": pl.String, "alpha": pl.Float64,
    "own": pl.Boolean, "value": pl.Float64, **INTERVAL, "n": pl.Int64, "documents": pl.Int64,
}  # fmt: skip


def component_tables(subject: Subject, stored: ActivationArrays) -> tuple[pl.DataFrame, pl.DataFrame, Bases]:
    """Shares of variance, contexts of the first components, and their directions, one standard deviation long."""
    tokens = subject.tokens
    windows = tokens.sample_windows(COMPONENT_TOKENS, seed=3)
    rows = tokens.rows_of(windows)
    document = np.asarray(tokens.document)[rows]
    x = read(stored, rows)
    stream = {name: x[:, i].numpy() for i, name in enumerate(subject.models)}
    shares, contexts, bases = [], [], {}
    spectra = {name: spectrum(stream[name], document) for name in stream}
    for a, b in subject.pairs:
        apart = stream[b] - stream[a]
        found = spectrum(apart, document)
        for of, each in zip(OF, (found, spectra[a], spectrum(shuffled(apart), document)), strict=True):
            shares += [
                (a, b, of, i, *told, len(rows))
                for i, told in enumerate(
                    zip(each.share.tolist(), each.low.tolist(), each.high.tolist(), strict=True), 1
                )
            ]
        if np.isnan(found.share).any():
            continue
        scores = (apart - found.mean) @ found.basis[:NAMED].T
        bases[a, b] = found.basis[:NAMED] * scores.std(0)[:, None]
        contexts += [(a, b, *row) for row in _contexts(subject, rows, document, scores)]
    return (
        pl.DataFrame(shares, schema=COMPONENTS, orient="row"),
        pl.DataFrame(contexts, schema=CONTEXT, orient="row"),
        bases,
    )


def _contexts(
    subject: Subject, rows: np.ndarray, document: np.ndarray, scores: np.ndarray
) -> list[tuple[Any, ...]]:
    """component, end, place, score, text before, token, text after, document, domain, position."""
    tokens, names, found = subject.tokens, subject.tokens.documents["id"], []
    for i, values in enumerate(scores.T, 1):
        for end, signed in (("high", values), ("low", -values)):
            for place, at in enumerate(strongest(signed, document, CONTEXTS), 1):
                row = int(rows[at])
                window = tokens.window_of(row)
                start, stop = int(tokens.starts[window]), int(tokens.stops[window])
                shown = [
                    "".join(subject.vocabulary.shown(np.asarray(tokens.tokens[part]).tolist()))
                    for part in (
                        slice(max(start, row - BEFORE), row),
                        slice(row, row + 1),
                        slice(row + 1, min(stop, row + 1 + AFTER)),
                    )
                ]
                number = int(document[at])
                told = (float(values[at]), *shown, names[number], str(subject.domain[number]))
                found.append((i, end, place, *told, int(tokens.position[row])))
    return found


def steering_table(
    subject: Subject, sums: DifferenceSums, report: Callable[[int], None] = lambda n: None
) -> pl.DataFrame:
    """How far δ carries the earlier checkpoint of each pair, by domain; no rows where there is no difference."""
    tokens = subject.tokens
    windows = sampled_windows(tokens, subject.domain, STEERED_TOKENS, LENGTH, seed=5)
    at_once = min(map(tokens_per_batch, subject.models.values()))
    batches = list(beginnings(tokens, windows, LENGTH, at_once))
    part, rows = sums.group(WHOLE, WHOLE), []
    for a, b in subject.pairs:
        own = mean_difference(part, a, b).coherence
        apart = float(part.apart[a, b].sum() / part.n.sum())
        doses = pushes(half_differences(part, a, b), apart, own) if apart > 0 else []
        if not doses:
            continue
        models = subject.models[a], subject.models[b]
        document = np.asarray(tokens.document)
        found = steered(models, subject.site, doses, batches, document, subject.blocks % 2, report)
        for domain in (WHOLE, *np.unique(subject.domain)):
            inside = (found.n > 0) & ((subject.domain == domain) | (domain == WHOLE))
            counted = (int(found.n[inside].sum()), int(inside.sum()))
            for i, figure, *effect in _effects(found, inside):
                dose = (doses[i].direction, doses[i].alpha, doses[i].alpha == own)
                rows.append((a, b, domain, figure, *dose, *effect, *counted))
    return pl.DataFrame(rows, schema=STEERING, orient="row")


def _effects(found: Steered, inside: np.ndarray) -> list[tuple[int, str, float, float, float]]:
    """Push, figure, value, low, high: the share of the gap that is closed, and KL from what it was. Documents are
    resampled once for all."""
    gap, n = found.gap[inside], found.n[inside]
    closed, strayed = gap - found.to_after[:, inside], found.strayed[:, inside]
    drawn = resampled_sums(np.column_stack([gap, n, *closed, *strayed]))
    told = []
    for f, (figure, above, below) in enumerate(((CLOSED, closed, gap), (STRAYED, strayed, n))):
        for i, sums in enumerate(above):
            value = float(sums.sum() / below.sum()) if below.sum() > 0 else float("nan")
            told.append((i, figure, value, *quantiles(drawn[:, 2 + f * len(closed) + i], drawn[:, f], len(n))))
    return told
