"""Parts of one checkpoint put into the other together, beside what each does by itself; both ways."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, circuit_export, circuit_store, frame, kept, show, theme, words
from pages.components.circuit_store import Of
from workbench.circuits.graph import LOGITS
from workbench.circuits.grids import Effects, Grid
from workbench.intervals import bracketed

TOGETHER, ADDED = "all together", "single ones added up"
FIGURES = ("m", "m_low", "m_high", "change", "low", "high", "effect", "effect_low", "effect_high")


def view(of: Of, before: str, after: str) -> None:
    """Choice of parts; a sentence a way; m with all of them, added up, and with each alone."""
    st.subheader("Several parts at once", anchor=False)
    found = circuit_store.found(of)
    options = list(found.graph.senders)
    for asked in st.query_params.get_all("parts"):
        if asked not in options:
            frame.note(f"There is no component {asked!r} in this model; it is left out.", error=True)
    usual = [node for node in found.circuit(after).nodes if ".h" in node and node != LOGITS]
    chosen = st.multiselect(
        f"Parts patched together (to begin with, the heads of {after}'s circuit)", options, usual, key="parts",
        bind="query-params", placeholder="none yet",
    )  # fmt: skip
    if not chosen:
        frame.note("Choose parts to see what they do together, and what each does by itself.")
        return
    ways = circuit_store.together(of, before, after, tuple(chosen))
    called = {f"{before} into {after}": ways.a_into_b, f"{after} into {before}": ways.b_into_a}
    rows = []
    for way, grid in called.items():
        _said(way, grid)
        rows += _rows(way, grid, list(chosen))
    schema = ["way", "parts", *FIGURES, "n"]
    table = pl.DataFrame(rows, schema=schema, orient="row")
    towards = dict(zip(called, (before, after), strict=True))
    looks = [
        {way: look([name])[name] for way, name in towards.items()} for look in (theme.colours, theme.symbols)
    ]
    ends = [(f"all of {name}", float(called[way].gap.value)) for way, name in towards.items()]
    show.chart(
        kept.picture(changes, table, looks[0], looks[1], ends), "cross-together",
        f"what parts of {before} change in {after}, and the other way: together, added up and singly", table,
        config=circuit_export.camera(f"{of.name}-{before}-{after}-together"),
    )  # fmt: skip
    frame.caption(
        f"By how much m = logit(target) − logit(foil) changes on the clean prompts, mean over {rows[0][-1]} pairs, "
        "95 % intervals over pairs; dotted: what the whole other checkpoint would change. Heads are put in at all "
        "positions (z), MLPs with what they write. Added up: what each part changes by itself, summed pair by "
        "pair. Where together goes further, the parts need each other; where it falls short, one does what another "
        "would do as well."
    )


def _said(way: str, grid: Grid) -> None:
    figures = [
        ("m =", grid.level()),
        ("changed by", grid.change()),
        *([("effect", grid.effect())] * grid.apart),
    ]
    told = "; ".join(
        f"{what} " + ", ".join(f"{name} {_at(effects, cell)}" for name, effects in figures)
        for cell, what in ((0, TOGETHER), (1, ADDED))
    )
    frame.caption(words.minus(f"{way}: {told}."))


def _at(effects: Effects, cell: int) -> str:
    return bracketed(*(float(part[cell]) for part in effects), 2)


def _rows(way: str, grid: Grid, parts: list[str]) -> list[tuple[object, ...]]:
    figures = [part for effects in (grid.level(), grid.change(), grid.effect()) for part in effects]
    return [
        (way, what, *(float(part[cell]) for part in figures), len(grid))
        for cell, what in enumerate((TOGETHER, ADDED, *parts))
    ]


def changes(
    table: pl.DataFrame, colours: dict[str, str], symbols: dict[str, str], ends: list[tuple[str, float]]
) -> go.Figure:
    """A row for all together, for the sum, for each part; a line at no change, and one each way for all of it."""
    made = charts.dots_with_intervals(
        table, "parts", "way", "change", colours, symbols, "change of m, logits", False
    )
    muted = theme.palette().muted
    made.add_vline(x=0, line={"color": muted, "width": 1})
    for name, at in ends:
        made.add_vline(
            x=at, line={"color": muted, "dash": "dot", "width": 1.5}, annotation_text=name,
            annotation_position="top right" if at > 0 else "top left",
        )  # fmt: skip
    made.add_trace(
        go.Scatter(  # no line of `add_vline` is in view for its own sake
            x=[at for _, at in ends], y=[0] * len(ends), mode="markers", marker={"opacity": 0, "size": 24},
            showlegend=False, hoverinfo="skip",
        )
    )  # fmt: skip
    made.update_layout(legend={"y": 1.08}, margin={"t": 70, "l": 90, "r": 90})
    return made
