"""The logit lens on the page: what each layer would say next, at every token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import streamlit as st

from pages.components import theme, words

if TYPE_CHECKING:
    from workbench.trace import Trace

_component = st.components.v2.component(
    "marble_lens",
    html='<div class="lens"></div>',
    css=theme.source("lens.css"),
    js=theme.source("dom.js", "lens.js"),
)
SHOWN = 5


def grid(trace: Trace, colour: str, label: str, key: str) -> None:
    """Draw the lens of one trace."""
    lens = trace.lens
    n_rows, n_positions, _ = lens.top_ids.shape
    cells = [[_cell(trace, row, position) for position in range(n_positions)] for row in range(n_rows)]
    data: dict[str, Any] = {
        "rows": list(lens.rows),
        "tokens": [token.shown for token in trace.prompt.tokens],
        "cells": cells,
        "colour": colour,
        "label": label,
    }
    _component(key=key, data=data)


def _cell(trace: Trace, row: int, position: int) -> dict[str, Any]:
    lens = trace.lens
    names = lens.top_shown[row, position, :SHOWN].tolist()
    probabilities = [round(p, 4) for p in lens.top_probabilities[row, position, :SHOWN].tolist()]
    rank = int(lens.rank[row, position])
    if rank < 0:
        truth = "This is the last token: nothing is known to follow."
    else:
        following = trace.prompt.tokens[position + 1].shown
        p = float(lens.next_probability[row, position])
        truth = f"What does follow, {following}, has rank {rank + 1} and probability {words.number(p)}."
    return {"top": list(zip(names, probabilities, strict=True)), "hit": rank == 0, "truth": truth}


def table(trace: Trace) -> pl.DataFrame:
    """The lens as rows: layer, position, token, the likeliest next token, its probability, entropy."""
    lens = trace.lens
    rows = [
        {
            "layer": name,
            "position": position,
            "token": token.shown,
            "likeliest next": lens.top_shown[row, position, 0],
            "probability": float(lens.top_probabilities[row, position, 0]),
            "entropy (nats)": float(lens.entropy[row, position]),
        }
        for row, name in enumerate(lens.rows)
        for position, token in enumerate(trace.prompt.tokens)
    ]
    return pl.DataFrame(rows)
