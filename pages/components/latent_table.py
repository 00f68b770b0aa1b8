"""All latents of a dictionary as a table: those that search and filters leave, in the order asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import streamlit as st

from pages.components import export, frame, latent_filters, store, theme
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.features import FeatureTable

CLOSELY = 0.98  # AUROC
DENSE = 0.05  # share of tokens above which a latent says little about any of them
SHOWN = 200  # rows that the browser is sent; the order says which
COLUMNS = ("top_tokens", "density", "max_activation", "factor", "factor_auroc", "promoted")
SELDOM = ("label", "fires_with", "on", "hits", "change")  # where there are any, they come first


def view(lab: Lab, table: FeatureTable) -> int:
    """Search, filters, table, and the choice of a latent: its number."""
    asked = latent_filters.view(table)
    found = store.searcher(lab, table.name).find(asked.query, asked.fires_on(lab, table))
    _said(len(found), table.table.height, asked)
    if len(found):
        _table(_columns(found, asked), table.name)
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        chosen = st.number_input(
            "Latent (or choose a row, or click a point)",
            0,
            table.table.height - 1,
            telling(table.table),
            key="latent",
            bind="query-params",
            width=300,
        )
    with right:
        export.listed(table.name, found)
    return int(chosen)


def colour_of(table: FeatureTable) -> str:
    """The colour of the checkpoint that a dictionary reads; the accent where it reads several."""
    if len(table.checkpoints) > 1:
        return theme.palette().accent
    return theme.colours(table.checkpoints)[table.checkpoints[0]]


def telling(latents: pl.DataFrame) -> int:
    """The latent to begin with: of those that follow a factor closely and do not fire on every other token the
    most frequent (rarer ones can follow by chance); else the most frequent of all."""
    following = latents.filter(pl.col("factor_auroc") >= CLOSELY)
    return most_frequent(sparse(following), latents)


def sparse(latents: pl.DataFrame) -> pl.DataFrame:
    """Those that do not fire on every other token."""
    return latents.filter(pl.col("density") <= DENSE)


def most_frequent(*pools: pl.DataFrame) -> int:
    """The latent of the first pool that holds any which fires most."""
    pool = next(part for part in pools if len(part))
    return int(pool.sort("density", descending=True)["latent"][0])


def _said(n: int, of: int, asked: latent_filters.Asked) -> None:
    """How many there are, and how many of them the table holds."""
    if not n:
        frame.caption("No latent matches: try another word, search in another place, or loosen a filter.")
        return
    what = f"{n:,} of {of:,} latents" if asked.narrows else f"All {of:,} latents"
    why = f" for “{asked.text}”" if asked.text else ""
    cut = f", the first {SHOWN:,} of them here; the filters and the order reach the rest" if n > SHOWN else ""
    frame.caption(f"{what}{why}{cut}.")


def _columns(found: pl.DataFrame, asked: latent_filters.Asked) -> pl.DataFrame:
    """What the table shows of the first rows."""
    compared = [f"density_{name}" for name in asked.query.change or ()]
    first = [c for c in SELDOM if c in found.columns]
    return found.head(SHOWN).select("latent", *first, *compared, *COLUMNS)


def _table(shown: pl.DataFrame, name: str) -> None:
    key = f"table-{name}"

    def choose() -> None:
        rows = st.session_state[key]["selection"]["rows"]
        if rows:
            st.session_state["latent"] = int(shown["latent"][rows[0]])

    compared = {
        c: st.column_config.NumberColumn(c.replace("density_", "in "), format="percent", width=72)
        for c in shown.columns
        if c.startswith("density_")
    }
    st.dataframe(
        shown,
        key=key,
        hide_index=True,
        height=430,
        on_select=choose,
        selection_mode="single-row",
        alt=f"latents of {name}: strongest tokens, density, largest activation, best factor, promoted tokens",
        column_config={
            "latent": st.column_config.NumberColumn("latent", width=64, pinned=True),
            "label": st.column_config.TextColumn("label", width=170),
            "fires_with": st.column_config.NumberColumn("fires with", format="%.3g", width="small"),
            "on": st.column_config.TextColumn("on", width="small"),
            "hits": st.column_config.NumberColumn("hits", width=56),
            "change": st.column_config.NumberColumn("change", format="× %.3g", width=80),
            **compared,
            "top_tokens": st.column_config.ListColumn("fires on", width=210),
            "density": st.column_config.NumberColumn("density", format="percent", width=72),
            "max_activation": st.column_config.NumberColumn("strongest", format="%.3g", width=76),
            "factor": st.column_config.TextColumn("best factor", width=170),
            "factor_auroc": st.column_config.NumberColumn("AUROC", format="%.2f", width=66),
            "promoted": st.column_config.ListColumn("promotes"),
        },
    )
