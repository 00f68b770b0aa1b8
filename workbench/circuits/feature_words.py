"""What a feature circuit says in words; knows no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.intervals import bracketed

if TYPE_CHECKING:
    import polars as pl

ERROR = -1
WITH_ERRORS, WITHOUT_ERRORS, MATCHED = "with errors", "without errors", "matched"
ALL_SITES = "all sites"
ENOUGH = 0.8  # of f: what a few latents are to do
NO_MATCH = 2  # times the matched ones' change that the foremost have: beyond, those are no controls


def node_name(node: int) -> str:
    """`latent 12`, or `error`."""
    return "error" if node == ERROR else f"latent {node}"


def site_sentences(figures: Mapping[str, Any], sites: pl.DataFrame, curve: pl.DataFrame) -> list[str]:
    """Of one site: what it is worth, the errors' share, how many latents do the task, whether scores are to be
    believed. `figures` of the manifest, rows of the tables `sites` and `curve`."""
    told = {(row["method"], row["figure"]): row for row in sites.to_dicts()}
    whole, share = told["IG", "whole"], told["IG", "error share"]
    agreement = ", ".join(f"{method} {_said(told[method, 'pearson'], 2)}" for method in ("IG", "AtP"))
    return [
        f"With the whole site corrupt m changes by {_said(whole, 2)} logits (n {whole['n']}); latents and errors "
        f"together miss that by {figures['residual']['IG']:.1%} of it.",
        f"The error node, what the dictionary leaves over, has {_said(share, 2)} of the effect of all nodes "
        f"(n {share['n']}).",
        *curve_sentences(curve),
        f"Scores against patching each of the foremost {len(figures['foremost'])} alone, Pearson: {agreement} "
        f"(n {whole['n']}).",
    ]


def curve_sentences(curve: pl.DataFrame) -> list[str]:
    """How few latents do the task, beside as many others."""
    if not len(curve):
        return []
    found = []
    for kind, said in ((WITH_ERRORS, "with the errors kept"), (WITHOUT_ERRORS, "without the errors")):
        rows = curve.filter(kind=kind).sort("size").to_dicts()
        size = fewest(rows)
        row = rows[-1] if size is None else next(each for each in rows if each["size"] == size)
        many = f"all {row['size']} latents" if row is rows[-1] else f"{row['size']} latents"
        lacks = "" if size is not None else ", which is not enough"
        told = f"{said} {many} do f = {_said(row, 2, 'f')} of the task{lacks}"
        matched = curve.filter(kind=MATCHED, size=row["size"])
        if kind == WITH_ERRORS and len(matched):
            told += _beside(row, matched)
        found.append(f"{told[:1].upper()}{told[1:]} (n {row['n']}).")
    return found


def _beside(row: Mapping[str, Any], matched: pl.DataFrame) -> str:
    f = matched["f"].to_list()
    reach = matched["reach"][0]
    told = f"; {len(f)} draws of as many other latents {min(f):.2f} to {max(f):.2f}"
    if reach and not math.isnan(reach) and row["reach"] > NO_MATCH * reach:
        told += f" (few change so much: they have {reach:.0%} of all change, the foremost {row['reach']:.0%})"
    return told


def fewest(rows: list[dict[str, Any]], f: float = ENOUGH) -> int | None:
    """The smallest of the sizes from which all have this f; `rows` by size."""
    found = None
    for row in rows:
        if row["f"] < f:
            found = None
        elif found is None:
            found = int(row["size"])
    return found


def _said(row: Mapping[str, Any], digits: int, name: str = "value") -> str:
    return bracketed(row[name], row["low"], row["high"], digits)
