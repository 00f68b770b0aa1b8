"""Latents of a crosscoder in a triangle: each corner a checkpoint, each point a latent's relative norms.

Drawn on plain axes rather than plotly's ternary ones, which cannot use WebGL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import polars as pl

from pages.components import charts, theme, words

HEIGHT = 3**0.5 / 2
LARGEST = 22  # pixels across


def place(w: Sequence[float]) -> tuple[float, float]:
    """Where barycentric (w_0, w_1, w_2) lies: corner 0 at the left, 1 at the right, 2 on top."""
    return w[1] + w[2] / 2, w[2] * HEIGHT


def regions(bounds: Mapping[str, float], names: Sequence[str]) -> dict[str, list[tuple[float, ...]]]:
    """Outlines of the kinds, in barycentric coordinates; see `workbench.comparison` for what they mean."""
    b, edge, low = bounds["shared"], bounds["exclusive"], bounds["absent"]
    third, half = 1 / 3, 1 / 2
    turns = [(1, 0, -1), (0, 1, -1), (-1, 1, 0), (-1, 0, 1), (0, -1, 1), (1, -1, 0)]
    found = {"shared": [tuple(third + b * t for t in turn) for turn in turns]}
    for m, name in enumerate(names):
        others = [i for i in range(3) if i != m]

        def corner(at: float, first: float, m: int = m, others: Sequence[int] = others) -> tuple[float, ...]:
            w = [0.0, 0.0, 0.0]
            w[m], w[others[0]], w[others[1]] = at, first, 1 - at - first
            return tuple(w)

        found[f"exclusive:{name}"] = [corner(1.0, 0.0), corner(edge, 0.0), corner(edge, 1 - edge)]
        found[f"absent:{name}"] = [
            corner(0.0, half - b),
            corner(0.0, half + b),
            corner(low, half + b - low),
            corner(low, half - b),
        ]
    return found


def picture(
    latents: pl.DataFrame,
    names: Sequence[str],
    bounds: Mapping[str, float],
    chosen: int | None,
    height: int = 620,
) -> go.Figure:
    """Points coloured by kind, sized by density, the bounds of the kinds drawn."""
    made = charts.figure(height)
    palette = theme.palette()
    _outline(made, [(1, 0, 0), (0, 1, 0), (0, 0, 1)], palette.muted, 1.3)
    for outline in regions(bounds, names).values():
        _outline(made, outline, palette.muted, 1, "dot")
    _corners(made, names)
    largest = max([1e-9, *latents["density"].to_list()])
    for kind in kinds_in_order(latents):
        _points(made, latents.filter(pl.col("kind") == kind), kind, names, largest)
    if chosen is not None and len(row := latents.filter(pl.col("latent") == chosen)):
        x, y = place([row[f"w_{name}"][0] for name in names])
        ring = {"size": LARGEST + 6, "symbol": "circle-open", "color": palette.ink, "line": {"width": 2.5}}
        made.add_trace(
            go.Scatter(x=[x], y=[y], mode="markers", marker=ring, hoverinfo="skip", showlegend=False)
        )
    made.update_xaxes(visible=False, range=[-0.12, 1.12])
    made.update_yaxes(visible=False, range=[-0.08, HEIGHT + 0.07], scaleanchor="x", scaleratio=1)
    made.update_layout(
        showlegend=True,
        legend={"x": 0, "y": 1, "itemsizing": "constant"},
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        dragmode="pan",
    )
    return made


def kinds_in_order(latents: pl.DataFrame) -> list[str]:
    """The kinds there are, the commonest first, so that rarer ones are drawn on top."""
    counts = latents["kind"].value_counts(sort=True)
    return counts["kind"].to_list()


def marker(kind: str) -> dict[str, object]:
    """Colour and shape of a kind: filled in a checkpoint's colour where only there, hollow where missing."""
    what, _, checkpoint = kind.partition(":")
    palette = theme.palette()
    if what == "exclusive":
        return {
            "color": theme.colours([checkpoint])[checkpoint],
            "symbol": theme.symbols([checkpoint])[checkpoint],
        }
    if what == "absent":
        symbol = theme.symbols([checkpoint])[checkpoint]
        return {"color": theme.colours([checkpoint])[checkpoint], "symbol": f"{symbol}-open"}
    return {"color": palette.ink if what == "shared" else palette.muted, "symbol": "circle"}


def _points(made: go.Figure, latents: pl.DataFrame, kind: str, names: Sequence[str], largest: float) -> None:
    shares = latents.select([f"w_{name}" for name in names]).rows()
    x, y = zip(*(place(w) for w in shares), strict=True)
    said = [" · ".join(f"{n} {words.share(v)}" for n, v in zip(names, w, strict=True)) for w in shares]
    labels = [charts.plain(label) for label in latents["label"]]
    trace = go.Scattergl if len(latents) > charts.WEBGL_ABOVE else go.Scatter
    made.add_trace(
        trace(
            x=x,
            y=y,
            mode="markers",
            name=f"{words.kind(kind)} ({len(latents):,})",
            marker=marker(kind)
            | {
                "size": latents["density"].to_list(),
                "sizemode": "area",
                "sizeref": 2 * largest / LARGEST**2,
                "sizemin": 3,
                "opacity": 0.45 if kind in ("shared", "between") else 0.9,
            },
            customdata=list(zip(latents["latent"], labels, said, latents["density"], strict=True)),
            hovertemplate="latent %{customdata[0]}: %{customdata[1]}<br>%{customdata[2]}"
            "<br>fires on %{customdata[3]:.2~%} of tokens<extra>" + words.kind(kind) + "</extra>",
        )
    )


def _outline(
    made: go.Figure, corners: Sequence[Sequence[float]], colour: str, width: float, dash: str = "solid"
) -> None:
    x, y = zip(*(place(w) for w in [*corners, corners[0]]), strict=True)
    line = {"color": colour, "width": width, "dash": dash}
    made.add_trace(
        go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False, opacity=0.8)
    )


def _corners(made: go.Figure, names: Sequence[str]) -> None:
    colours = theme.colours(names)
    spots = ((0, -0.02, "top"), (1, -0.02, "top"), (0.5, HEIGHT + 0.015, "bottom"))
    for name, (x, y, anchor) in zip(names, spots, strict=True):
        made.add_annotation(
            x=x, y=y, text=name, showarrow=False, yanchor=anchor, font={"size": 16, "color": colours[name]}
        )
