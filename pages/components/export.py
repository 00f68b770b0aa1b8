"""Buttons that save a latent, or the list a table is left with, as JSON, CSV or PNG. Files are made on a click."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import streamlit as st

from workbench import feature_export

if TYPE_CHECKING:
    from workbench.dashboard import Dashboard
    from workbench.features import FeatureTable

DRAWN = 12  # latents of a list that its picture holds
JSON, CSV, PNG = "application/json", "text/csv", "image/png"


def latent(dictionary: str, found: Dashboard) -> None:
    """One latent with all its dashboard shows; as CSV its examples; as PNG what a slide has room for."""
    stem = f"{dictionary}-{found.latent}"
    with st.container(horizontal=True):
        st.download_button(
            "This latent as JSON", lambda: feature_export.latent_json(dictionary, found), f"{stem}.json", JSON,
            key="latent-json", on_click="ignore", type="tertiary",
        )  # fmt: skip
        st.download_button(
            "Its texts as CSV", lambda: feature_export.latent_csv(dictionary, found), f"{stem}.csv", CSV,
            key="latent-csv", on_click="ignore", type="tertiary",
        )  # fmt: skip
        st.download_button(
            "Its picture as PNG", lambda: _picture(dictionary, found), f"{stem}.png", PNG,
            key="latent-png", on_click="ignore", type="tertiary",
        )  # fmt: skip


def _picture(dictionary: str, found: Dashboard) -> bytes:
    from workbench.latent_picture import latent_png

    return latent_png(dictionary, found)


def listed(table: FeatureTable, rows: pl.DataFrame) -> None:
    """All latents that the search and the filters leave, not only those shown."""
    if not len(rows):
        return
    with st.container(horizontal=True, horizontal_alignment="right"):
        st.download_button(
            "List as JSON", lambda: feature_export.list_json(table.name, rows), f"{table.name}.json", JSON,
            key="list-json", on_click="ignore", type="tertiary",
        )  # fmt: skip
        st.download_button(
            "List as CSV", lambda: feature_export.list_csv(rows), f"{table.name}.csv", CSV,
            key="list-csv", on_click="ignore", type="tertiary",
        )  # fmt: skip
        n = min(DRAWN, len(rows))
        st.download_button(
            f"The first {n} as PNG" if n > 1 else "It as PNG", lambda: _sheet(table, rows),
            f"{table.name}.png", PNG, key="list-png", on_click="ignore", type="tertiary",
        )  # fmt: skip


def _sheet(table: FeatureTable, rows: pl.DataFrame) -> bytes:
    from workbench.latent_picture import latents_png

    return latents_png(table.name, [table.dashboard(n) for n in rows["latent"].head(DRAWN)])
