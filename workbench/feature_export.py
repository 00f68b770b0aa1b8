"""Latents as files: one with its examples, or the rows of a list, as JSON or CSV.

Tokens are written as `workbench.vocabulary` shows them (`␣the`), one-to-one with their bytes. In a CSV a list
stands in one cell, its parts apart by a space (a token holds none: ␣ stands for it).
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from workbench.dashboard import Dashboard


def latent_json(dictionary: str, found: Dashboard) -> str:
    """Everything a dashboard shows, and which dictionary it is of."""
    logits = {name: logits._asdict() for name, logits in found.logits.items()}
    told = found.annotations[found.latent]
    parts = {
        "dictionary": dictionary,
        "latent": found.latent,
        "row": found.row,
        "densities": dict(found.densities),
        "histogram": found.histogram._asdict(),
        "logits": logits,
        "star": told.star,
        "own_label": told.label,
        "explanation": found.explanation,
        "examples": [dataclasses.asdict(example) for example in found.examples],
        # intervals by their texts; factors, writers, sources, neurons, neighbours by their rows
        **{name: rows.drop("latent").to_dicts() for name, rows in found.parts.items()},
        "intervals": [dataclasses.asdict(interval) for interval in found.intervals],
    }
    return json.dumps(_finite(parts), ensure_ascii=False, indent=1)


def latent_csv(dictionary: str, found: Dashboard) -> str:
    """A row for each example: where it is from, its tokens and the activation on each."""
    rows = [
        {
            "dictionary": dictionary,
            "latent": found.latent,
            "rank": rank,
            "value": example.values[example.peak],
            "token": example.tokens[example.peak],
            "domain": example.domain,
            "kind": example.kind,
            "tokens": " ".join(example.tokens),
            "values": " ".join(f"{value:.6g}" for value in example.values),
        }
        for rank, example in enumerate(found.examples)
    ]
    columns = ("dictionary", "latent", "rank", "value", "token", "domain", "kind", "tokens", "values")
    return pl.DataFrame(rows, schema=None if rows else list(columns)).write_csv()


def list_json(dictionary: str, rows: pl.DataFrame) -> str:
    """The rows of a list with the dictionary they are of."""
    return json.dumps(_finite({"dictionary": dictionary, "latents": rows.to_dicts()}), ensure_ascii=False)


def list_csv(rows: pl.DataFrame) -> str:
    """The rows of a list."""
    lists = [name for name, kind in rows.schema.items() if isinstance(kind, pl.List)]
    return rows.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join(" ") for name in lists).write_csv()


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
