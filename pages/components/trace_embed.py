"""Embed: the row that a token enters with, its neighbours, all tokens on a plane; analogies; a word in contexts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import (
    asked,
    charts,
    frame,
    panels,
    show,
    theme,
    token_store,
    trace_analogies,
    trace_behind,
    trace_contexts,
    words,
)
from pages.components.panels import Panel, Row
from pages.components.trace_tokenize import kind_colours
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.embedding import Chance
    from workbench.feature_geometry import Plane
    from workbench.trace import Trace
    from workbench.vocabulary import TokenText

Dots = go.Scatter | go.Scattergl

NEAREST = 10
MOST_DRAWN = 20_000  # points that a browser still turns in time
# A new prompt moves the ring and has all points drawn anew: up to so many, elements are quicker than a WebGL scene
ELEMENTS = 4_000


def view(lab: Lab, question: asked.Question, traces: Mapping[str, Trace], colour: Mapping[str, str]) -> None:
    """The chosen token's neighbours and place; analogies; contexts."""
    st.header("Nearest tokens", anchor=False)
    (first, *_) = traces
    left, right = st.columns([2, 3], vertical_alignment="bottom")
    with left:
        place = trace_behind.place(traces)
    sought = right.text_input(
        "Or another token", "", key="sought", bind="query-params", placeholder="a word, or an id such as #365"
    )
    trace_behind.strip(traces[first].prompt, place, colour[first], "embed-tokens")
    with frame.sentences():
        chosen = {a: _chosen(lab, a, t, place, sought) for a, t in traces.items()}
        for column, address in zip(st.columns(len(traces), gap="large"), traces, strict=True):
            with column:
                _nearest(lab, address, chosen[address], colour[address])
        frame.caption(
            "Cosine of rows of the embedding W_E; where the unembedding W_U is a matrix of its own, of "
            "that too. The dotted line is what 97.5 % of random pairs of tokens stay below: embeddings "
            "share directions, so unrelated tokens have cosines far from zero too."
        )
        st.header("All tokens on a plane", anchor=False)
        _planes(lab, chosen, colour)
    with frame.sentences():
        trace_analogies.view(lab, list(traces), colour)
    with frame.sentences():
        trace_contexts.view(lab, list(traces), colour)
    trace_behind.view(lab, question, traces, colour, place)


def _chosen(lab: Lab, address: str, trace: Trace, place: int, sought: str) -> int:
    from workbench.embedding import find_token

    if sought:
        return find_token(token_store.reader(lab, address).tokenizer, sought)
    return trace.prompt.ids[min(place, len(trace.prompt.ids) - 1)]


def _nearest(lab: Lab, address: str, id_: int, colour: str) -> None:
    tokens, _ = token_store.vocabulary(lab, address)
    found = token_store.spaces(lab, address)
    tied = "" if len(found) > 1 else "; W_U is the same matrix"
    frame.name_tag(address, colour, f"nearest to {tokens[id_].shown}{tied}")
    drawn = []
    for name, space in found.items():
        near, (_, chance) = space.neighbours(id_, NEAREST), token_store.laid_out(lab, address, name)
        shown = [tokens[i].shown for i in near.ids.tolist()]
        rows = [
            Row(label=token, value=cosine, text=f"{cosine:.2f}", colour=colour, said=[f"id {i}"])
            for token, cosine, i in zip(shown, near.cosines.tolist(), near.ids.tolist(), strict=True)
        ]
        caption = (
            f"{chance.n:,} random pairs: mean cosine {chance.mean:.2f}, the middle 95 % from {chance.low:.2f} to "
            f"{chance.high:.2f}. Its row has length {words.number(float(space.norms()[id_]))}, the median is "
            f"{words.number(float(space.median_norm))}."
        ) + _below(near.cosines, chance)
        table = pl.DataFrame({"token": shown, "id": near.ids, "cosine": near.cosines})
        made = panels.bars(rows, f"cosine in {name}", 0.0, 1.0, chance.high)
        drawn.append(
            Panel(made, f"tokens nearest to {tokens[id_].shown} in {name} of {address}", table, name, caption)
        )
    panels.draw(drawn, f"nearest-{address}")


def _below(cosines: np.ndarray, chance: Chance) -> str:
    """A sentence where neighbours are no nearer than chance."""
    n = chance.n_below(cosines)
    if n == len(cosines):
        return " All of these tokens lie below the dotted line: none is nearer than random pairs may be."
    return f" {n} of these {len(cosines)} lie below the dotted line." if n else ""


def _planes(lab: Lab, chosen: Mapping[str, int], colour: Mapping[str, str]) -> None:
    marked = st.text_input(
        "Mark tokens that contain", "", key="marked", bind="query-params", placeholder="capital", width=360
    )
    for column, (address, id_) in zip(st.columns(len(chosen), gap="large"), chosen.items(), strict=True):
        with column:
            frame.name_tag(address, colour[address])
            for name in token_store.spaces(lab, address):
                _plane(lab, address, name, id_, marked)


def _plane(lab: Lab, address: str, name: str, id_: int, marked: str) -> None:
    tokens, kinds = token_store.vocabulary(lab, address)
    plane, _ = token_store.laid_out(lab, address, name)
    n = len(plane.places)
    kept = np.arange(n)
    if n > MOST_DRAWN:
        kept = np.sort(np.random.default_rng(0).permutation(n)[:MOST_DRAWN])
    made, trace = charts.figure(460), go.Scattergl if len(kept) > ELEMENTS else go.Scatter
    for kind, hue in kind_colours().items():
        made.add_trace(_points(tokens, plane, kept[kinds[kept] == kind], kind, hue, trace))
    hits = [i for i, token in enumerate(tokens[:n]) if marked and marked in token.shown]
    if hits:
        made.add_trace(_hits(tokens, plane, hits, trace))
    made.add_trace(_ring(plane, id_, tokens[id_].shown))
    charts.legend_above(made)
    made.update_layout(legend={"itemsizing": "constant"})
    made.update_xaxes(title=f"first axis, {words.share(plane.shares[0])} of the variance")
    made.update_yaxes(title=f"second axis, {words.share(plane.shares[1])} of the variance")
    table = pl.DataFrame(
        {
            "token": [t.shown for t in tokens[:n]],
            "id": range(n),
            "kind": kinds[:n],
            "x": plane.places[:, 0],
            "y": plane.places[:, 1],
        }
    )
    show.chart(made, f"plane-{address}-{name}", f"map of {name} of {address}, coloured by kind of token", table)
    part = f" {MOST_DRAWN:,} of {n:,} tokens, drawn at random, are shown." if n > MOST_DRAWN else ""
    frame.caption(
        f"{name} on its two axes of largest variance (PCA). They hold {words.share(sum(plane.shares))} of "
        "it: tokens far apart here are apart, neighbours here need not be. The ring is "
        f"{tokens[id_].shown}{f'; {len(hits):,} tokens contain {marked}' if marked else ''}.{part}"
    )


def _points(
    tokens: list[TokenText], plane: Plane, ids: np.ndarray, kind: str, hue: str, trace: type[Dots]
) -> Dots:
    return trace(
        x=plane.places[ids, 0],
        y=plane.places[ids, 1],
        mode="markers",
        name=f"{kind} ({len(ids):,})",
        marker={"color": hue, "size": 5, "opacity": 0.6},
        hovertext=np.array([f"{charts.plain(tokens[i].shown)} (id {i})" for i in ids], dtype=object),
        hovertemplate="%{hovertext}<extra>" + kind + "</extra>",
    )


def _hits(tokens: list[TokenText], plane: Plane, ids: list[int], trace: type[Dots]) -> Dots:
    ink = theme.palette().ink
    named = len(ids) <= 40  # more names would cover one another
    return trace(
        x=plane.places[ids, 0],
        y=plane.places[ids, 1],
        mode="markers+text" if named else "markers",
        text=[charts.plain(tokens[i].shown) for i in ids] if named else None,
        textposition="top center",
        name=f"marked ({len(ids):,})",
        marker={"color": ink, "size": 8, "symbol": "circle-open", "line": {"width": 2}},
        hovertext=[f"{charts.plain(tokens[i].shown)} (id {i})" for i in ids],
        hovertemplate="%{hovertext}<extra>marked</extra>",
    )


def _ring(plane: Plane, id_: int, shown: str) -> go.Scatter:
    x, y = plane.places[id_].tolist()
    marker = {"size": 16, "symbol": "circle-open", "color": theme.palette().ink, "line": {"width": 2.5}}
    return go.Scatter(
        x=[x], y=[y], mode="markers+text", text=[charts.plain(shown)], textposition="top center", marker=marker,
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip
