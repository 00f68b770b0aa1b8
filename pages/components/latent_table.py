"""All latents of a dictionary as a table: those that search and filters leave, in the order asked for."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import polars as pl
import streamlit as st

from pages.components import export, frame, glossary, latent_filters, store, theme, words
from workbench import feature_query as fq
from workbench.annotations import said
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.features import FeatureTable

CLOSELY = 0.98  # AUROC
DENSE = 0.05  # share of tokens above which a latent says little about any of them
PAGE = 200  # rows that the browser is sent at a time: all of sixteen thousand take it seconds
COLUMNS = (
    "label", "label_score", "top_tokens", "density", "max_activation", "factor", "factor_auroc", "promoted",
)  # fmt: skip
SELDOM = ("fires_with", "on", "hits", "change")  # where there are any, they come first


def view(lab: Lab, table: FeatureTable) -> tuple[int, str]:
    """Search, filters, table, and the choice of a latent: its number, and the text that was asked about, if any."""
    asked = latent_filters.view(table)
    found = store.searcher(lab, table.name).find(asked.query, asked.fires_on(lab, table))
    _said(len(found), table.table.height, asked)
    if len(found):
        start = _start(len(found))
        _table(_columns(found, asked, start), table.name, asked.query.order)
    doubts = st.container()
    _remember_doubt(table)
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        chosen = st.number_input(
            "Latent (or choose a row, or click a point)",
            0,
            table.table.height - 1,
            _first(table),
            key="latent",
            bind="query-params",
            width=300,
        )
        frame.caption(_whereabouts(table, found, int(chosen)))
    with right:
        export.listed(table, found)
    with doubts:
        _doubted(table, int(chosen))
    return int(chosen), asked.reads


def _whereabouts(table: FeatureTable, found: pl.DataFrame, chosen: int) -> str:
    """What the chosen latent is called, whether the table has it, and where to see it."""
    called = words.label(said(table.table.row(chosen, named=True), table.annotations[chosen]))
    listed = "" if found["latent"].is_in([chosen]).any() else "; it is not among those in the table"
    return f"Latent {chosen}, {called}{listed}. Its dashboard is below."


def _remember_doubt(table: FeatureTable) -> None:
    """Where the address, or the dictionary shown before, asks for a latent that this one does not have: the widget
    drops such a value from the address, and the page runs again without it."""
    asked, n = st.query_params.get("latent"), table.table.height
    if asked is not None and not (asked.isdecimal() and int(asked) < n):
        st.session_state["doubted"] = asked
    if int(st.session_state.get("latent") or 0) >= n:
        st.session_state["doubted"] = str(st.session_state.pop("latent"))


def _doubted(table: FeatureTable, chosen: int) -> None:
    """Say so as long as the latent that stands in for it is shown."""
    if (asked := st.session_state.get("doubted")) is None:
        return
    if chosen != _first(table):
        del st.session_state["doubted"]
        return
    n = table.table.height
    frame.note(
        f"there is no latent {asked!r}: {table.name} has latents 0 to {n - 1:,}; this is another one.",
        error=True,
    )


def colour_of(table: FeatureTable) -> str:
    """The colour of the checkpoint that a dictionary reads; the accent where it reads several."""
    if len(table.checkpoints) > 1:
        return theme.palette().accent
    return theme.colours(table.checkpoints)[table.checkpoints[0]]


@functools.lru_cache(maxsize=8)  # no more tables than the store keeps: each holds its index
def _first(table: FeatureTable) -> int:
    return telling(table.table)


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
    frame.caption(f"{what}{why}; filters, order and search act on all.")


def _start(n: int) -> int:
    """The first row of the page that is asked for; the choice of it where there is more than one."""
    pages = -(-n // PAGE)
    if pages == 1:
        return 0
    if int(st.session_state.get("table_page") or 1) > pages:  # fewer are left than when it was chosen
        st.session_state["table_page"] = pages
    page = st.number_input(
        f"Page of {pages:,}, {PAGE} latents each", 1, pages, key="table_page", bind="query-params", width=220
    )
    return (int(page) - 1) * PAGE


def _columns(found: pl.DataFrame, asked: latent_filters.Asked, start: int) -> pl.DataFrame:
    """What the table shows of a page of rows."""
    compared = [f"density_{name}" for name in asked.query.change or ()]
    first = [c for c in SELDOM if c in found.columns]
    own = ["own_label"] if found["own_label"].null_count() < len(found) else []
    star = pl.when("star").then(pl.lit("★")).otherwise(pl.lit("")).alias("star")
    return found.slice(start, PAGE).select("latent", star, *own, *first, *compared, *COLUMNS)


def next_order(column: str, present: str) -> str:
    """The order that a click on a column's heading asks for: by it, or the next one by it; else as it is."""
    known = fq.orders_of(column)
    if not known:
        return present
    return known[(known.index(present) + 1) % len(known)] if present in known else known[0]


def _table(shown: pl.DataFrame, name: str, order: str) -> None:
    key = f"table-{name}-{order}"  # another order is another table: no row stays chosen by its place

    def choose() -> None:
        chosen = st.session_state[key]["selection"]
        if chosen["columns"]:
            st.session_state["order"] = next_order(chosen["columns"][0], order)
        elif chosen["rows"]:
            st.session_state["latent"] = int(shown["latent"][chosen["rows"][0]])

    compared = {
        c: st.column_config.NumberColumn(c.replace("density_", "in "), format="percent", width=72)
        for c in shown.columns
        if c.startswith("density_")
    }
    explained = glossary.WORDS
    st.dataframe(
        shown.with_columns(pl.col("^(own_)?label$").fill_null("")),  # "None" would read as a label
        key=key,
        hide_index=True,
        height=430,
        on_select=choose,
        selection_mode=["single-row", "single-column"],
        alt=f"latents of {name}: strongest tokens, density, largest activation, best factor, promoted tokens",
        column_config={
            "latent": st.column_config.NumberColumn("latent", width=58, pinned=True),
            "star": st.column_config.TextColumn("★", width=32, help="You starred it."),
            "own_label": st.column_config.TextColumn("your label", width=150),
            "label": st.column_config.TextColumn("label", width=150, help=explained["label"]),
            "label_score": st.column_config.NumberColumn(
                "label r", format="%.2f", width=60, help=explained["label r"]
            ),
            "fires_with": st.column_config.NumberColumn(
                "fires with", format="%.3g", width=72, help="Its strongest activation on your text."
            ),
            "on": st.column_config.TextColumn("on", width=72, help="The token of your text where that is."),
            "hits": st.column_config.NumberColumn("hits", width=52, help="Places where the word was found."),
            "change": st.column_config.NumberColumn("change", format="× %.3g", width=80),
            **compared,
            "top_tokens": st.column_config.ListColumn("fires on", width=150, help=explained["fires on"]),
            "density": st.column_config.NumberColumn(
                "density", format="percent", width=70, help=explained["density"]
            ),
            "max_activation": st.column_config.NumberColumn(
                "strongest", format="%.3g", width=76, help="Its largest activation on held-out tokens."
            ),
            "factor": st.column_config.TextColumn("best factor", width=150, help=explained["factor"]),
            "factor_auroc": st.column_config.NumberColumn(
                "AUROC", format="%.2f", width=66, help=explained["AUROC"]
            ),
            "promoted": st.column_config.ListColumn("promotes", help=explained["promotes"]),
        },
    )
