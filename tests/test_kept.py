"""Pictures that are built once: the same arguments, the same picture; any other argument, another."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from pages.components.kept import picture


def dots(table: pl.DataFrame, of: str) -> go.Figure:
    return go.Figure(go.Scatter(x=table["x"].to_list(), y=table["y"].to_list(), name=of))


def crosses(table: pl.DataFrame, of: str) -> go.Figure:
    return dots(table, of).update_traces(marker_symbol="x")


def table(n: int = 60) -> pl.DataFrame:
    return pl.DataFrame({"x": range(n), "y": [float(i % 7) for i in range(n)]})


def test_what_is_kept_is_what_would_be_drawn() -> None:
    kept = picture(dots, table(), "a")
    assert kept.to_dict() == dots(table(), "a").to_dict()
    assert kept.to_json() == dots(table(), "a").to_json()


def test_equal_arguments_are_drawn_once() -> None:
    first = picture(dots, table(), "a")
    assert picture(dots, table(), "a") is first
    assert picture(dots, table(), "a").to_dict() is first.to_dict()


def test_a_change_anywhere_is_another_picture() -> None:
    """Rows in the middle too: Streamlit's own hash would not see them."""
    first, same = picture(dots, table(), "a"), table()
    for changed in (
        same.with_columns(y=pl.when(pl.col("x") == 30).then(99.0).otherwise("y")),
        same.sort("x", descending=True),
        same.with_columns(pl.col("x").cast(pl.Float64)),
        same.head(59),
    ):
        assert picture(dots, changed, "a").to_dict() == dots(changed, "a").to_dict()
        assert picture(dots, changed, "a") is not first
    assert picture(dots, same, "b").data[0].name == "b"
    assert picture(crosses, same, "a").data[0].marker.symbol == "x"
