"""The tables of a comparison's differences, row by row: what `workbench.differences_build` writes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from workbench.activation_difference import DifferenceSums, mean_difference
from workbench.difference_lens import AT_MEAN, READINGS, Promoted, change, promoted, watched
from workbench.difference_subject import FIRST_PROSE, UNRELATED, WHOLE, Subject
from workbench.points import Site

MARKERS, ANSWERS = "chat markers", "answer openings"
COMPONENT = "component"  # the facet of the lens of components
PAIR: Mapping[str, Any] = {"before": pl.String, "after": pl.String}
INTERVAL: Mapping[str, Any] = {"low": pl.Float64, "high": pl.Float64}
MEANS: Mapping[str, Any] = {
    **PAIR, "site": pl.String, "facet": pl.String, "group": pl.String, "size": pl.Float64, **INTERVAL,
    "null": pl.Float64, "null_high": pl.Float64, "coherence": pl.Float64, "halves": pl.Float64, "n": pl.Int64,
    "blocks": pl.Int64,
}  # fmt: skip
LENS: Mapping[str, Any] = {
    **PAIR, "site": pl.String, "facet": pl.String, "group": pl.String, "head": pl.String, "reading": pl.String,
    "end": pl.String, "place": pl.Int64, "id": pl.Int64, "token": pl.String, "by": pl.Float64, "n": pl.Int64,
}  # fmt: skip
READOUT: Mapping[str, Any] = {
    **PAIR, "site": pl.String, "head": pl.String, "reading": pl.String, "class": pl.String, "id": pl.Int64,
    "token": pl.String, "rank": pl.Int64, **INTERVAL, "null": pl.Float64, "null_low": pl.Float64,
    "null_high": pl.Float64, "p": pl.Float64, "vocabulary": pl.Int64, "n": pl.Int64,
}  # fmt: skip
SCORES: Mapping[str, Any] = {
    **PAIR, "site": pl.String, "head": pl.String, "reading": pl.String, "class": pl.String, "score": pl.Float64,
    **INTERVAL, "null": pl.Float64, "null_high": pl.Float64, "p": pl.Float64, "tokens": pl.Int64, "n": pl.Int64,
}  # fmt: skip

Streams = Mapping[Site, DifferenceSums]
Bases = Mapping[tuple[str, str], Float[np.ndarray, "component d"]]


def means_table(subject: Subject, at: Streams) -> pl.DataFrame:
    """`mean_difference` of every pair, site and group."""
    rows = []
    for (a, b), (site, sums) in itertools.product(subject.pairs, at.items()):
        for facet, group, part in sums.groups():
            found = mean_difference(part, a, b)
            rows.append((a, b, site.name, facet, group, *found[1:]))
    return pl.DataFrame(rows, schema=MEANS, orient="row")


def lens_table(subject: Subject, at: Streams, bases: Bases) -> pl.DataFrame:
    """What δ of every group promotes through both heads, in both readings; and of a component, one standard way up,
    at the mean stream."""
    rows: list[tuple[Any, ...]] = []
    for (a, b), (site, sums) in itertools.product(subject.pairs, at.items()):
        for facet, group, part in sums.groups():
            delta, n = part.differences(a, b).sum(0) / part.n.sum(), int(part.n.sum())
            for head, reading in itertools.product((a, b), READINGS):
                added = change(subject.models[head], part.mean(a), delta[None], reading)[0]
                said = _said(subject, promoted(added) if delta.any() else promoted(added * 0))
                rows += [(a, b, site.name, facet, group, head, reading, *each, n) for each in said]
    for (a, b), basis in bases.items():
        part = at[subject.site].group(WHOLE, WHOLE)
        for head in (a, b):
            added = change(subject.models[head], part.mean(a), basis)
            for i, each in enumerate(added, 1):
                where = (a, b, subject.site.name, COMPONENT, str(i), head, AT_MEAN)
                rows += [(*where, *told, int(part.n.sum())) for told in _said(subject, promoted(each))]
    return pl.DataFrame(rows, schema=LENS, orient="row")


def _said(subject: Subject, found: Promoted) -> Iterator[tuple[str, int, int, str, float]]:
    """end, place, id, token, by."""
    for end, ids, by in (
        ("promoted", found.up, found.up_by),
        ("suppressed", found.down, found.down_by),
    ):
        for place, (id_, value) in enumerate(zip(ids.tolist(), by.tolist(), strict=True), 1):
            yield end, place, id_, subject.vocabulary[id_].shown, value


def readout_tables(
    subject: Subject, at: Streams, classes: Mapping[str, Sequence[int]]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ranks of watched tokens by δ of unrelated text, and each class's score; no rows where there is no prose, or
    no difference."""
    rows, scores = [], []
    for (a, b), (site, sums) in itertools.product(subject.pairs, at.items()):
        part = sums.group(UNRELATED, FIRST_PROSE)
        n, size = int(part.n.sum()), len(subject.tokens.vocabulary)
        for head, reading, (kind, ids) in itertools.product((a, b), READINGS, classes.items()):
            if not n or (found := watched(subject.models[head], part, a, b, ids, reading)) is None:
                continue
            where = (a, b, site.name, head, reading, kind)
            ranks, score = found
            for id_, *told in zip(ids, *(each.tolist() for each in ranks), strict=True):
                rows.append((*where, id_, subject.vocabulary[id_].shown, *told, size, n))
            scores.append((*where, *score, len(ids), n))
    return pl.DataFrame(rows, schema=READOUT, orient="row"), pl.DataFrame(scores, schema=SCORES, orient="row")
