"""The logit lens on the page: what each layer would say next, at every token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import streamlit as st

from pages.components import theme, words

if TYPE_CHECKING:
    from workbench.lens import Lens
    from workbench.trace import Trace

_component = st.components.v2.component(
    "marble_lens",
    html='<div class="lens"></div>',
    css=theme.source("lens.css"),
    js=theme.source("dom.js", "lens.js"),
)
SHOWN = 5


def grid(trace: Trace, lens: Lens, colour: str, label: str, key: str, chooser: str, position: int) -> None:
    """Draw a lens of one trace; a click on a cell sets the widget whose key is `chooser` to its position."""

    def choose() -> None:
        if (clicked := st.session_state[key].get("position")) is not None:
            st.session_state[chooser] = int(clicked)

    n_rows, n_positions, _ = lens.top_ids.shape
    cells = [[_cell(trace, lens, row, at) for at in range(n_positions)] for row in range(n_rows)]
    data: dict[str, Any] = {
        "rows": list(lens.rows),
        "tokens": [token.shown for token in trace.prompt.tokens],
        "cells": cells,
        "colour": colour,
        "label": label,
        "position": min(position, n_positions - 1),
    }
    _component(key=key, data=data, on_position_change=choose)


def _cell(trace: Trace, lens: Lens, row: int, position: int) -> dict[str, Any]:
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


def table(trace: Trace, lens: Lens) -> pl.DataFrame:
    """The lens as rows: layer, position, token, the likeliest next token, its probability, entropy."""
    rows = [
        {
            "layer": name,
            "position": position,
            "token": token.shown,
            "likeliest next": lens.top_shown[row, position, 0],
            "probability": float(lens.top_probabilities[row, position, 0]),
            "entropy (nats)": float(lens.entropy[row, position]),
            "rank of what follows": int(lens.rank[row, position]) + 1
            if lens.rank[row, position] >= 0
            else None,
        }
        for row, name in enumerate(lens.rows)
        for position, token in enumerate(trace.prompt.tokens)
    ]
    return pl.DataFrame(rows)
