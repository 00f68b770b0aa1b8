"""A word in several contexts on the page: how far apart its streams are, layer by layer, in each checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, frame, show, theme, token_store
from pages.components.tokens import Strip, Token, strips
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.token_contexts import Contexts, Curve

# `letter` is a thing that is sent and a letter of a word: the lab's text has both.
WORD = "letter"
SENTENCES = (
    "Mira sent a long letter to her brother.\n"
    "The President wrote a letter to the Senate.\n"
    "How many times does the letter a stand in banana?"
)
DASHES = {"your sentences": "solid", "same word, the lab's text": "dash", "random tokens": "dot"}


def view(lab: Lab, addresses: Sequence[str], colour: Mapping[str, str]) -> None:
    """The word, its sentences, and the curves."""
    st.header("The same word in several contexts", anchor=False)
    frame.caption(
        "A token enters with one row of W_E, whatever stands around it; every block moves it by what it "
        "has read. The curves are the cosine of its streams (resid_post) in two contexts, after each "
        "block."
    )
    left, right = st.columns([1, 3], gap="large")
    word = left.text_input("Word", WORD, key="context_word", bind="query-params")
    typed = right.text_area(
        "Sentences with the word, one a line", SENTENCES, key="contexts", bind="query-params", height=104
    )
    texts = tuple(line.strip() for line in typed.splitlines() if line.strip())
    found = {a: token_store.contexts(lab, a, word, texts) for a in addresses}
    base = {a: token_store.baselines(lab, a, word) for a in addresses}
    for address in addresses[: 1 if _alike(found) else None]:
        _read(found[address], address, colour[address])
    show.chart(
        _picture(found, base, colour),
        "contexts-chart",
        f"cosine of the streams of {word} between contexts, by layer, beside random pairs",
        _table(found, base),
    )
    _baselines(base, word)


def _alike(found: Mapping[str, Contexts]) -> bool:
    return len({each.tokens for each in found.values()}) == 1


def _read(found: Contexts, address: str, colour: str) -> None:
    """What is read of each sentence: up to the word, whose last token is marked."""
    drawn = []
    for text, tokens, at in zip(found.texts, found.tokens, found.at, strict=True):
        made = [
            Token(text=t.shown, value=float(i == at), lines=[f"id {t.id}"], special=t.special)
            for i, t in enumerate(tokens)
        ]
        drawn.append(Strip(tokens=made, head=[str(len(drawn) + 1), text], peak=at, label=text))
    strips(drawn, colour, f"contexts-{address}", boxed=True)


def _picture(
    found: Mapping[str, Contexts],
    base: Mapping[str, tuple[Curve | None, Curve | None]],
    colour: Mapping[str, str],
) -> go.Figure:
    made = charts.figure(420)
    for address, contexts in found.items():
        rows = _rows(contexts.places.shape[1])
        cosines = contexts.cosines()
        for (i, j), each in zip(contexts.pairs(), cosines.tolist(), strict=True):
            made.add_trace(
                go.Scatter(
                    x=rows,
                    y=each,
                    mode="lines+markers+text",
                    text=[""] * (len(rows) - 1) + [f"{i + 1}·{j + 1}"],
                    textposition="middle right",
                    cliponaxis=False,
                    name=f"{address}: sentences {i + 1} and {j + 1}",
                    line={"color": colour[address], "width": 2},
                    marker={"symbol": theme.symbols(list(found))[address], "size": 7},
                    showlegend=(i, j) == (0, 1),
                    legendgroup=address,
                    hovertemplate="%{x}: %{y:.3f}<extra>" + f"{address}, {i + 1} and {j + 1}" + "</extra>",
                )
            )
        for (name, dash), each in zip(list(DASHES.items())[1:], base[address], strict=True):
            if each is not None:
                made.add_trace(_line(f"{address}: {name}", rows, each, colour[address], dash))
    made.data[0].name = f"{next(iter(found))}: {next(iter(DASHES))}"
    for trace in made.data:
        trace.name = trace.name.replace("sentences 1 and 2", next(iter(DASHES)))
    made.update_xaxes(title="stream after")
    made.update_yaxes(title="cosine")
    charts.legend_above(made)
    return made


def _rows(n: int) -> list[str]:
    return ["embedding", *(f"block {layer}" for layer in range(n - 1))]


def _line(name: str, rows: list[str], curve: Curve, colour: str, dash: str) -> go.Scatter:
    bars = {
        "type": "data",
        "symmetric": False,
        "array": (curve.high - curve.mean).tolist(),
        "arrayminus": (curve.mean - curve.low).tolist(),
        "thickness": 1,
        "width": 3,
    }
    return go.Scatter(
        x=rows,
        y=curve.mean.tolist(),
        mode="lines+markers",
        name=name,
        line={"color": colour, "width": 1.5, "dash": dash},
        marker={"size": 4},
        error_y=bars,
        hovertemplate="%{x}: %{y:.3f}, n = " + f"{curve.n} pairs<extra>{name}</extra>",
    )


def _baselines(base: Mapping[str, tuple[Curve | None, Curve | None]], word: str) -> None:
    (same, others) = next(iter(base.values()))
    said = []
    if others is not None:
        said.append(f"Dotted: {others.n} pairs of different tokens at random places of the lab's held-out text")
    if same is not None:
        said.append(f"dashed: {same.n} pairs of {word} where it stands there")
    else:
        said.append(f"the lab's text has too few places of {word} for a curve of its own")
    frame.caption(
        "; ".join(said)
        + ". Bars are 95 % intervals over pairs. What is far below the dashed line has been told apart; "
        "what has come down to the dotted line is no nearer than any two tokens."
    )


def _table(
    found: Mapping[str, Contexts], base: Mapping[str, tuple[Curve | None, Curve | None]]
) -> pl.DataFrame:
    rows = []
    for address, contexts in found.items():
        names = _rows(contexts.places.shape[1])
        for (i, j), each in zip(contexts.pairs(), contexts.cosines().tolist(), strict=True):
            rows += [
                {"checkpoint": address, "pair": f"{i + 1} and {j + 1}", "after": n, "cosine": c, "pairs": 1}
                for n, c in zip(names, each, strict=True)
            ]
        for label, curve in zip(list(DASHES)[1:], base[address], strict=True):
            if curve is not None:
                rows += [
                    {"checkpoint": address, "pair": label, "after": n, "cosine": m, "low": lo, "high": hi,
                     "pairs": curve.n}
                    for n, m, lo, hi in zip(
                        names, curve.mean.tolist(), curve.low.tolist(), curve.high.tolist(), strict=True
                    )
                ]  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)
