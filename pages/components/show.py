"""A picture on a page: the chart with its `alt` text, and the same figures as a table in an expander."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import streamlit as st

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl

CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


def chart(
    figure: go.Figure,
    key: str,
    alt: str,
    table: pl.DataFrame,
    table_label: str = "The same as a table",
    config: Mapping[str, Any] = CONFIG,
) -> None:
    """Draw `figure` with its table twin."""
    st.plotly_chart(figure, key=key, alt=alt, config=dict(config))
    twin(table, key, table_label)


def clickable(
    figure: go.Figure,
    key: str,
    alt: str,
    table: pl.DataFrame,
    chooser: str,
    chosen: Callable[[Mapping[str, Any]], Any] | None = None,
    config: Mapping[str, Any] = CONFIG,
) -> None:
    """Draw a chart whose points can be chosen: `customdata[0]` of the point (as a number, unless `chosen` reads it)
    goes to widget `chooser`."""

    def choose() -> None:
        points = st.session_state[key]["selection"]["points"]
        if points:
            st.session_state[chooser] = (chosen or number_of)(points[0])

    st.plotly_chart(figure, key=key, alt=alt, on_select=choose, selection_mode="points", config=dict(config))
    twin(table, key)


def name_of(point: Mapping[str, Any]) -> str:
    """The first of a chosen point's `customdata`, as a name; see `number_of`."""
    data = point["customdata"]
    return str(next(iter(data.values())) if isinstance(data, Mapping) else data[0])


def number_of(point: Mapping[str, Any]) -> int:
    """The first of a chosen point's `customdata`. Where the figure was given an array, which travels as bytes, the
    browser sends a typed array back, and as JSON that is an object: {"0": 362}."""
    data = point["customdata"]
    return int(next(iter(data.values())) if isinstance(data, Mapping) else data[0])


def twin(table: pl.DataFrame, key: str, label: str = "The same as a table") -> None:
    """The figures behind a picture, sent when asked for: a table costs the browser as much as a chart."""
    with st.expander(label, key=f"{key}-twin", on_change="rerun") as unfolded:
        if unfolded.open:
            st.dataframe(table, key=f"{key}-table", hide_index=True)
