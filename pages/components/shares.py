"""The crosscoder's latents by how much of each is whose; a click chooses one."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import polars as pl
import streamlit as st

from pages.components import frame, kept, pairwise, show, ternary, words
from pages.components.latent_table import most_frequent, sparse

if TYPE_CHECKING:
    from workbench.comparison import Comparison


def view(comparison: Comparison) -> int:
    """Picture at the left; filter, choice and bounds at the right. The chosen latent's number."""
    latents = comparison.latents
    kinds = ternary.kinds_in_order(latents)
    left, right = st.columns([5, 2], gap="large")
    with right:
        wanted = st.pills(
            "Kinds shown",
            kinds,
            selection_mode="multi",
            default=kinds,
            key="kinds",
            bind="query-params",
            format_func=words.kind,
        )
        chosen = number(comparison, "Latent (or click a point)")
        frame.caption(_bounds(comparison))
    shown = latents.filter(pl.col("kind").is_in(wanted))
    with left:
        if len(shown):
            _draw(comparison, shown, chosen)
        else:
            frame.caption("No kind is chosen: choose one at the right to see its latents.")
    return chosen


def number(comparison: Comparison, label: str, width: Literal["stretch"] | int = "stretch") -> int:
    """The choice of a latent alone."""
    latents = comparison.latents
    return int(
        st.number_input(
            label, 0, len(latents) - 1, telling(latents), key="joint", bind="query-params", width=width
        )
    )


def telling(latents: pl.DataFrame) -> int:
    """The latent to begin with: the most frequent of those that one checkpoint has alone, else of those that
    are not shared, else of all; one that fires on every other token only where there is no other."""
    firing = latents.filter(pl.col("density") > 0)
    alone = firing.filter(pl.col("kind").str.starts_with("exclusive"))
    apart = firing.filter(pl.col("kind") != "shared")
    preferred = [part for kind in (alone, apart, firing) for part in (sparse(kind), kind)]
    return most_frequent(*preferred, latents)


def cosines(comparison: Comparison, latent: int) -> dict[str, float]:
    """Cosines between the latent's decoders, by pair of checkpoints."""
    row = comparison.latents.filter(pl.col("latent") == latent).row(0, named=True)
    pairs = itertools.combinations(comparison.checkpoints, 2)
    return {f"{a} and {b}": row[f"cosine_{a}_{b}"] for a, b in pairs}


def _draw(comparison: Comparison, shown: pl.DataFrame, chosen: int) -> None:
    names, bounds = comparison.checkpoints, comparison.bounds
    if len(names) == 3:
        made = kept.picture(ternary.picture, shown, names, bounds, chosen)
        said = f"latents of {comparison.dictionary} between {', '.join(names)}; its place is whose norm it has"
    else:
        of = names[-1]
        if len(names) > 2:
            of = st.selectbox("Share of", names, index=len(names) - 1, key="of", bind="query-params", width=240)
        made = kept.picture(pairwise.picture, shown, names, of, bounds, chosen)
        said = f"latents of {comparison.dictionary} by the share of their norm that is {of}'s"
    show.clickable(made, "shares", said, shown, "joint")


def _bounds(comparison: Comparison) -> str:
    bounds, n = comparison.bounds, len(comparison.checkpoints)
    said = (
        f"A latent is shared where every checkpoint's part of its decoder norm is within {bounds['shared']:g} "
        f"of 1/{n}, only in one where that one has at least {bounds['exclusive']:g}"
    )
    if n > 2:
        said += (
            f", missing in one where that one has at most {bounds['absent']:g} and the others are within "
            f"{bounds['shared']:g} of 1/{n - 1}"
        )
    return (
        f"{said}; dotted lines show these bounds. It is a reading of norms, no proof that a feature is lacking."
    )
