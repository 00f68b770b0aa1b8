"""All latents of a dictionary: search, table, and how often each fires."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, frame, show, theme

if TYPE_CHECKING:
    from workbench.features import FeatureTable

IN_EXAMPLES, IN_FACTOR, FIRES_ON = "texts it fires on", "its factor", "what fires on this text"
CLOSELY = 0.98  # AUROC
DENSE = 0.05  # share of tokens above which a latent says little about any of them
COLUMNS = ("latent", "top_tokens", "density", "max_activation", "factor", "factor_auroc", "promoted")


def view(table: FeatureTable, colour: str) -> int:
    """Search and table at the left, densities at the right; the chosen latent's number."""
    left, right = st.columns([3, 2], gap="large")
    default = telling(table.table)
    with left:
        found = _search(table)
        _table(found, table.name)
        chosen = st.number_input(
            "Latent (or choose a row, or click a point)",
            0,
            table.table.height - 1,
            default,
            key="latent",
            bind="query-params",
            width=300,
        )
    with right:
        frame.caption(
            f"How often each of the {table.table.height:,} latents fires, from the commonest to the rarest. "
            "Click one to see it."
        )
        ranked = table.table.sort("density", descending=True).select("latent", "density", "top_token")
        picture = _densities(ranked, int(chosen), colour)
        show.clickable(picture, "densities", f"density of every latent of {table.name}", ranked, "latent")
    return int(chosen)


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


def _search(table: FeatureTable) -> pl.DataFrame:
    text = st.text_input("Search", "", key="find", bind="query-params", placeholder="a word, a factor, a text")
    place = st.segmented_control(
        "Search in",
        [IN_EXAMPLES, IN_FACTOR, FIRES_ON],
        default=IN_EXAMPLES,
        required=True,
        key="where",
        bind="query-params",
        label_visibility="collapsed",
        wrap=True,
    )
    if not text:
        return table.table
    if place == IN_FACTOR:
        return table.table.filter(pl.col("factor").str.to_lowercase().str.contains(text.lower(), literal=True))
    if place == FIRES_ON:
        fires = table.fires_on(text).select("latent", fires_with="value", on="token")
        return fires.join(table.table, on="latent", how="left", maintain_order="left")
    return table.search(text)


def _table(found: pl.DataFrame, name: str) -> None:
    if not len(found):
        frame.caption("No latent matches: try another word, or search in another place.")
        return
    extra = [c for c in ("fires_with", "on", "hits") if c in found.columns]
    shown = found.select("latent", *extra, *COLUMNS[1:])
    key = f"table-{name}"

    def choose() -> None:
        rows = st.session_state[key]["selection"]["rows"]
        if rows:
            st.session_state["latent"] = int(shown["latent"][rows[0]])

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
            "fires_with": st.column_config.NumberColumn("fires with", format="%.3g", width="small"),
            "on": st.column_config.TextColumn("on", width="small"),
            "hits": st.column_config.NumberColumn("texts", width="small"),
            "top_tokens": st.column_config.ListColumn("fires on", width=210),
            "density": st.column_config.NumberColumn("density", format="percent", width=72),
            "max_activation": st.column_config.NumberColumn("strongest", format="%.3g", width=76),
            "factor": st.column_config.TextColumn("best factor", width=170),
            "factor_auroc": st.column_config.NumberColumn("AUROC", format="%.2f", width=66),
            "promoted": st.column_config.ListColumn("promotes"),
        },
    )


def _densities(ranked: pl.DataFrame, chosen: int, colour: str) -> go.Figure:
    made = charts.figure(430)
    trace = go.Scattergl if len(ranked) > charts.WEBGL_ABOVE else go.Scatter
    firing = ranked.filter(pl.col("density") > 0).with_row_index("rank", offset=1)
    made.add_trace(
        trace(
            x=firing["rank"].to_list(),
            y=firing["density"].to_list(),
            mode="markers",
            marker={"color": colour, "size": 5, "opacity": 0.75},
            customdata=list(zip(firing["latent"], map(charts.plain, firing["top_token"]), strict=True)),
            hovertemplate="latent %{customdata[0]}: %{customdata[1]}<br>fires on %{y:.2~p}<extra></extra>",
        )
    )
    if len(row := firing.filter(pl.col("latent") == chosen)):
        ring = {"size": 16, "symbol": "circle-open", "color": theme.palette().ink, "line": {"width": 2.5}}
        spot = {"x": row["rank"].to_list(), "y": row["density"].to_list()}
        made.add_trace(go.Scatter(**spot, mode="markers", marker=ring, hoverinfo="skip"))
    made.update_xaxes(title="latents, commonest first")
    made.update_yaxes(title="share of tokens it fires on", type="log", tickformat=".1~p", nticks=8)
    return made
