"""A sweep of toy models as tables: what the pictures by sparsity draw."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from saes.toy_model import Toy, dimensionality, features_per_dimension, represented

SPARSITY = "1/(1 − S)"
PER_DIMENSION = {SPARSITY: pl.Float64, "density": pl.Float64, "features per dimension": pl.Float64}
SHAPES = {
    SPARSITY: pl.Float64,
    "density": pl.Float64,
    "feature": pl.Int64,
    "dimensionality": pl.Float64,
}


def per_dimension(toys: Sequence[Toy]) -> pl.DataFrame:
    """One row a density; S is the share of zeros, so 1/(1 − S) is 1/density."""
    rows = [(1 / toy.density, toy.density, features_per_dimension(toy.W)) for toy in toys]
    return pl.DataFrame(rows, schema=PER_DIMENSION, orient="row").sort(SPARSITY)


def shapes(toys: Sequence[Toy]) -> pl.DataFrame:
    """One row a feature that is held, at each density."""
    rows = []
    for toy in toys:
        own = dimensionality(toy.W).tolist()
        rows += [(1 / toy.density, toy.density, i, own[i]) for i in represented(toy.W)]
    return pl.DataFrame(rows, schema=SHAPES, orient="row")
