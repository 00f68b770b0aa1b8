"""A picture on a page: the chart with its `alt` text, and the same figures as a table in an expander."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def clickable(figure: go.Figure, key: str, alt: str, table: pl.DataFrame) -> list[Any] | None:
    """Draw a chart whose points can be chosen; the chosen point's `customdata`, or None."""
    event = st.plotly_chart(figure, key=key, alt=alt, on_select="rerun", selection_mode="points", config=CONFIG)
    twin(table, key, "The same as a table")
    points = event["selection"]["points"]
    return list(points[0]["customdata"]) if points else None


def twin(table: pl.DataFrame, key: str, label: str = "The same as a table") -> None:
    """The figures behind a picture."""
    with st.expander(label):
        st.dataframe(table, key=f"{key}-table", hide_index=True)
