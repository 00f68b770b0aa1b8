"""A picture on a page: the chart with its `alt` text, and the same figures as a table in an expander."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl

CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


def chart(
    figure: go.Figure, key: str, alt: str, table: pl.DataFrame, table_label: str = "The same as a table"
) -> None:
    """Draw `figure` with its table twin."""
    st.plotly_chart(figure, key=key, alt=alt, config=CONFIG)
    twin(table, key, table_label)


def clickable(figure: go.Figure, key: str, alt: str, table: pl.DataFrame, chooser: str) -> None:
    """Draw a chart whose points can be chosen: `customdata[0]` of the point goes to widget `chooser`."""

    def choose() -> None:
        points = st.session_state[key]["selection"]["points"]
        if points:
            st.session_state[chooser] = int(points[0]["customdata"][0])

    st.plotly_chart(figure, key=key, alt=alt, on_select=choose, selection_mode="points", config=CONFIG)
    twin(table, key)


def twin(table: pl.DataFrame, key: str, label: str = "The same as a table") -> None:
    """The figures behind a picture, sent when asked for: a table costs the browser as much as a chart."""
    with st.expander(label, key=f"{key}-twin", on_change="rerun") as unfolded:
        if unfolded.open:
            st.dataframe(table, key=f"{key}-table", hide_index=True)
