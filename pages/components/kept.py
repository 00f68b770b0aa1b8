"""Pictures built once. Building a figure takes plotly a tenth of a second and more; its tables seldom change.

A picture is kept by what draws it, by all that this is given (tables by every row: Streamlit's own hash of one
reads its first and last ten) and by the theme.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import theme

P = ParamSpec("P")
MOST = 256  # pictures


class Kept(go.Figure):
    """A figure that changes no more: what is sent of it is made once, not copied at every run."""

    def to_dict(self) -> dict[str, Any]:
        """As plotly has it."""
        if getattr(self, "_sent", None) is None:
            self._sent = super().to_dict()
        return self._sent


def rows(table: pl.DataFrame) -> tuple[list[tuple[str, str]], bytes]:
    """What makes a table the one it is: its columns and all its rows."""
    columns = [(name, str(kind)) for name, kind in table.schema.items()]
    return columns, table.hash_rows(seed=0).to_numpy().tobytes()


@st.cache_resource(max_entries=MOST, show_spinner=False, hash_funcs={pl.DataFrame: rows})
def _kept(name: str, dark: bool, given: Any, _draw: Callable[[], go.Figure]) -> Kept:
    return Kept(_draw())


def picture(draw: Callable[P, go.Figure], *args: P.args, **kwargs: P.kwargs) -> go.Figure:
    """`draw(*args, **kwargs)`, drawn once. `draw` is a named function that looks at nothing else but the theme."""
    name = f"{draw.__module__}.{draw.__qualname__}"
    return _kept(name, theme.palette() is theme.DARK, (args, kwargs), lambda: draw(*args, **kwargs))
