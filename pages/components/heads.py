"""Attention on the page: every head small, one large, tokens that show what they look back at."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import streamlit as st
from jaxtyping import Float

from pages.components import theme

if TYPE_CHECKING:
    from workbench.trace import Trace

ONE = 65_535  # the weight 1 of the enlarged head as it is sent
CELLS = 96  # a side of a small picture, which is no wider in pixels

_component = st.components.v2.component(
    "marble_heads",
    html='<div class="heads"></div>',
    css=theme.source("heads.css"),
    js=theme.source("dom.js", "heads.js"),
)


def packed(pattern: Float[np.ndarray, "query key"]) -> bytes:
    """Weights [query][key <= query] as 16 bits each, 65535 = 1: finer than the two decimals shown."""
    return np.rint(pattern[np.tril_indices(len(pattern))] * ONE).astype("<u2").tobytes()


def block(n: int) -> int:
    """Tokens to a cell of a small picture."""
    return -(-n // CELLS)


def small(attention: Float[np.ndarray, "layer head query key"]) -> bytes:
    """What small pictures are painted with: the square root of weights [layer][head][query][key <= query] as 8 bits
    each, 255 = 1, at most `CELLS` a side. A cell that holds several tokens has the largest of their weights."""
    size = block(n := attention.shape[-1])
    edge = -n % size
    made = []
    for layer in attention:  # one at a time: the weights of all heads are large
        cells = np.pad(layer, ((0, 0), (0, edge), (0, edge)))
        side = (n + edge) // size
        most = cells.reshape(-1, side, size, side, size).max((2, 4))
        query, key = np.tril_indices(side)
        made.append(np.rint(np.sqrt(most[:, query, key]) * 255).astype(np.uint8).tobytes())
    return b"".join(made)


def grid(trace: Trace, chosen: str, colour: str, key: str, chooser: str, names: Mapping[str, str]) -> None:
    """Draw all heads with `chosen` ("LAYER.HEAD") enlarged; a click sets the widget whose key is `chooser`.

    `names`: what some heads are called. Only keys up to the query are sent: the rest is masked; and weights to be
    read of the chosen head only, or a long text in a large model would be above what Streamlit sends.
    """

    def choose() -> None:
        if clicked := st.session_state[key].get("head"):
            st.session_state[chooser] = clicked

    n_layers, n_heads, _, _ = trace.attention.shape
    layer, head = (int(part) for part in chosen.split("."))
    data: dict[str, Any] = {
        "tokens": [token.shown for token in trace.prompt.tokens],
        "small": base64.b64encode(small(trace.attention)).decode(),
        "pattern": base64.b64encode(packed(trace.attention[layer, head])).decode(),
        "block": block(len(trace.prompt.tokens)),
        "n_layers": n_layers,
        "n_heads": n_heads,
        "layer": layer,
        "head": head,
        "names": dict(names),
        "colour": colour,
    }
    _component(key=key, data=data, on_head_change=choose)


def names(trace: Trace) -> list[str]:
    """Every head as "LAYER.HEAD"."""
    n_layers, n_heads, _, _ = trace.attention.shape
    return [f"{layer}.{head}" for layer in range(n_layers) for head in range(n_heads)]


def table(trace: Trace, chosen: str) -> pl.DataFrame:
    """One head's pattern as rows: query, key, weight (keys that get at least 0.01)."""
    layer, head = (int(part) for part in chosen.split("."))
    pattern = trace.attention[layer, head]
    tokens = [token.shown for token in trace.prompt.tokens]
    rows = [
        {
            "query": tokens[q],
            "at": int(q),
            "looks back at": tokens[k],
            "place": int(k),
            "weight": float(pattern[q, k]),
        }
        for q, k in np.argwhere(pattern >= 0.01)
    ]
    return pl.DataFrame(rows)
