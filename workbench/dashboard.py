"""All that a page shows of one latent, put together from a feature artefact's memory maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import polars as pl

    from workbench.annotations import Annotations
    from workbench.features import FeatureTable

N_BINS = 40


class Histogram(NamedTuple):
    """Counts of the latent's activations (silent tokens left out) between `edges`, one more than counts."""

    edges: list[float]
    counts: list[int]


class Logits(NamedTuple):
    """Tokens that the latent's decoder raises and lowers most, with logits per unit of activation."""

    promoted: list[tuple[str, float]]
    suppressed: list[tuple[str, float]]


@dataclasses.dataclass(frozen=True)
class Example:
    """Tokens around a strong activation.

    `tokens` as `workbench.vocabulary` shows them; `values` the latent on each; `peak` the strongest one's
    place in them; `contributions[name][token]`: what checkpoint `name` adds to the preactivation
    (⟨x^m, W_enc^m_j⟩; the sum over checkpoints plus the bias is the preactivation).
    """

    tokens: list[str]
    values: list[float]
    peak: int
    domain: str
    kind: str
    source: dict[str, Any]
    contributions: dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Interval:
    """Random texts on which the latent is above `low` and up to `high`; `count` tokens are."""

    low: float
    high: float
    count: int
    examples: list[Example]


@dataclasses.dataclass(frozen=True)
class Dashboard:
    """One latent. `row` is its row of the feature table, `densities` its share of tokens by checkpoint, `parts`
    its rows of the tables of `workbench.feature_parts`; `annotations` what people say, `explanation` what a
    language model does."""

    latent: int
    row: dict[str, Any]
    examples: list[Example]
    intervals: list[Interval]
    parts: Mapping[str, pl.DataFrame]
    annotations: Annotations
    explanation: Mapping[str, Any] | None  # a language model's: text, model, balanced, f1, n
    histogram: Histogram
    logits: Mapping[str, Logits]
    densities: Mapping[str, float]


def make_dashboard(table: FeatureTable, latent: int) -> Dashboard:
    """Read everything about `latent`."""
    from workbench.explanations import read_explanations
    from workbench.features import DENSITY

    row = table.row(latent)
    import polars as pl

    parts = {name: part.filter(pl.col("latent") == latent) for name, part in table.parts.items()}
    counted = table.index.histogram(latent, N_BINS)
    return Dashboard(
        latent=latent,
        row=row,
        examples=_examples(table, latent, table.excerpts.filter(pl.col("latent") == latent).sort("rank")),
        intervals=_intervals(table, latent, parts["intervals"]),
        parts=parts | {"neighbours": _called(table, parts["neighbours"])},
        annotations=table.annotations,
        explanation=read_explanations(table).get(latent),
        histogram=Histogram(counted.edges.tolist(), counted.counts.tolist()),
        logits={name: _logits(table, name, latent) for name in table.checkpoints},
        densities={key.removeprefix(DENSITY): value for key, value in row.items() if key.startswith(DENSITY)},
    )


def _logits(table: FeatureTable, checkpoint: str, latent: int) -> Logits:
    ids, values = (np.asarray(array[latent]) for array in table.logit_arrays(checkpoint))
    vocabulary = table.token_set.vocabulary
    promoted, suppressed = (
        [(vocabulary[i], float(v)) for i, v in zip(ids[side], values[side], strict=True)] for side in (0, 1)
    )
    return Logits(promoted, suppressed)


def _intervals(table: FeatureTable, latent: int, found: pl.DataFrame) -> list[Interval]:
    """The intervals from the strongest down; one that no token lies in has no examples."""
    import polars as pl

    from workbench.examples import N_INTERVALS

    counted = table.index.histogram(latent, N_INTERVALS)
    if not counted.counts.any():
        return []
    return [
        Interval(
            float(counted.edges[place]),
            float(counted.edges[place + 1]),
            int(counted.counts[place]),
            _examples(table, latent, found.filter(pl.col("interval") == N_INTERVALS - 1 - place)),
        )
        for place in reversed(range(N_INTERVALS))
    ]


def _called(table: FeatureTable, neighbours: pl.DataFrame) -> pl.DataFrame:
    """Neighbours with what each is called by and how often it fires."""
    import polars as pl

    names = table.rows.select(
        other="latent", called=pl.coalesce("own_label", "label", "top_token"), other_density="density"
    )
    return neighbours.join(names, on="other", how="left", maintain_order="left")


def _examples(table: FeatureTable, latent: int, found: pl.DataFrame) -> list[Example]:
    from workbench.examples import values_between

    contributed = table.contributions(latent, [(r["start"], r["stop"]) for r in found.iter_rows(named=True)])
    examples = []
    for number, excerpt in enumerate(found.iter_rows(named=True)):
        start, stop = excerpt["start"], excerpt["stop"]
        document = table.token_set.documents.row(int(table.token_set.document[start]), named=True)
        examples.append(
            Example(
                tokens=[table.token_set.vocabulary[i] for i in table.token_set.tokens[start:stop]],
                values=values_between(table.index, latent, start, stop).tolist(),
                peak=excerpt["peak"] - start,
                domain=document["domain"],
                kind=document["kind"],
                source={k: v for k, v in document.items() if k not in ("start", "stop") and v is not None},
                contributions={name: values[number] for name, values in contributed.items()},
            )
        )
    return examples
