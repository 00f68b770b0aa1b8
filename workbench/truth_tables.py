"""The ground truth of a dictionary as tables, one row a finding, names in place of numbers.

`threshold` is null where a metric has none; `low` and `high` bound 95 % intervals over documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from saes.absorption import Absorption
from saes.factors import FactorTable
from saes.ground_truth import GroundTruth
from saes.resampling import Resampled, interval
from saes.splitting import Composed, Split

UNITS: Mapping[str, Any] = {
    "pool": pl.String,
    "candidates": pl.Int32,  # units that the pool chose from
    "method": pl.String,  # unit, probe_1, probe_5
    "metric": pl.String,  # auroc, ap, f1
    "factor": pl.String,
    "unit": pl.Int32,  # of a probe the first
    "threshold": pl.Float64,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int32,  # tokens of the second half with the factor
}
MATCHED: Mapping[str, Any] = {
    "pool": pl.String,
    "candidates": pl.Int32,
    "factor": pl.String,
    "unit": pl.Int32,
}
ABSORPTION: Mapping[str, Any] = {
    "pool": pl.String,
    "parent": pl.String,
    "child": pl.String,
    "parent_latent": pl.Int32,
    "child_latent": pl.Int32,
    "n": pl.Int32,
    "missed": pl.Int32,
    "share": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
SPLITTING: Mapping[str, Any] = {
    "pool": pl.String,
    "factor": pl.String,
    "latents": pl.List(pl.Int32),
    "f1_alone": pl.Float64,
    "f1_together": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
COMPOSITION: Mapping[str, Any] = {
    "pool": pl.String,
    "latent": pl.Int32,
    "first": pl.String,
    "second": pl.String,
    "single": pl.String,
    "n": pl.Int32,
    "f1_pair": pl.Float64,
    "f1_single": pl.Float64,
    "composed": pl.Boolean,
}


def _table(rows: Iterable[Mapping[str, Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    table = pl.DataFrame(list(rows), schema=dict(schema))
    floats = [name for name, type_ in schema.items() if type_ == pl.Float64]
    return table.with_columns(pl.col(floats).fill_nan(None))


def _bounds(measured: Resampled) -> dict[str, float]:
    return interval(measured.samples)._asdict()


def unit_table(truth: GroundTruth, table: FactorTable) -> pl.DataFrame:
    """Every pool's best unit and probes for every factor, at every number of candidates."""
    positives = table.positives
    return _table(
        (
            {"pool": asked.pool, "candidates": asked.candidates, "method": found.method, "metric": found.metric}
            | {"factor": table.names[found.factor], "unit": found.unit, "threshold": found.threshold}
            | {"value": found.measured.value, **_bounds(found.measured), "n": int(positives[found.factor])}
            for asked in truth.asked
            for found in asked.found
        ),
        UNITS,
    )


def matched_table(truth: GroundTruth, table: FactorTable) -> pl.DataFrame:
    """Which unit was matched to which factor."""
    return _table(
        (
            {"pool": a.pool, "candidates": a.candidates, "factor": table.names[factor], "unit": unit}
            for a in truth.asked
            for unit, factor in a.matched
        ),
        MATCHED,
    )


def absorption_table(found: Mapping[str, Absorption], names: Sequence[str]) -> pl.DataFrame:
    """Every held parent with each of its children."""
    return _table(
        (
            {"pool": pool, "parent": names[pair.parent], "child": names[pair.child]}
            | {"parent_latent": pair.parent_latent, "child_latent": pair.child_latent}
            | {"n": pair.n, "missed": pair.missed, "share": pair.share.value, **_bounds(pair.share)}
            for pool, absorbed in found.items()
            for pair in absorbed.pairs
        ),
        ABSORPTION,
    )


def splitting_table(found: Mapping[str, Sequence[Split]], names: Sequence[str]) -> pl.DataFrame:
    """The latents of every factor."""
    return _table(
        (
            {"pool": pool, "factor": names[split.factor], "latents": list(split.latents)}
            | {"f1_alone": split.alone.value, "f1_together": split.together.value, **_bounds(split.together)}
            for pool, splits in found.items()
            for split in splits
        ),
        SPLITTING,
    )


def composition_table(found: Mapping[str, Sequence[Composed]], names: Sequence[str]) -> pl.DataFrame:
    """The best pair of factors of every latent."""
    return _table(
        (
            {"pool": pool, "latent": c.latent, "first": names[c.factors[0]], "second": names[c.factors[1]]}
            | {"single": names[c.single], "n": c.n, "f1_pair": c.pair_f1, "f1_single": c.single_f1}
            | {"composed": c.composed}
            for pool, latents in found.items()
            for c in latents
        ),
        COMPOSITION,
    )
