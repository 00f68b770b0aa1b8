"""The Pareto plot of a sweep: L0 across, what is lost or recovered up, a line an architecture and width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saes.sweep import front

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = ("#2f6690", "#b97f12", "#b1445a", "#3e8e7e", "#7a5ba6", "#6f7b3a", "#5f6b76")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon")


def pareto_figure(
    rows: Sequence[Mapping[str, Any]],
    figure: str,
    title: str,
    more_is_better: bool = False,
    colours: Sequence[str] = COLOURS,
    baseline: Sequence[Mapping[str, Any]] = (),
    baseline_name: str = "PCA",
) -> go.Figure:
    """`rows` with `l0`, `arch`, `width`, `k`, `dead_share`, `figure`, and `<figure>_low`, `_high` if known.

    Points that no other beats are filled, the others hollow; `baseline` (`l0`, `figure`) is a dotted line.
    """
    import plotly.graph_objects as go

    made = go.Figure()
    sign = -1.0 if more_is_better else 1.0
    best = front(np.array([r["l0"] for r in rows], float), sign * np.array([r[figure] for r in rows], float))
    series = sorted({(r["arch"], r["width"]) for r in rows})
    for i, (arch, width) in enumerate(series):
        own = sorted(
            ((r, on) for r, on in zip(rows, best, strict=True) if (r["arch"], r["width"]) == (arch, width)),
            key=lambda of: of[0]["l0"],
        )
        colour, symbol = colours[i % len(colours)], SYMBOLS[i % len(SYMBOLS)]
        made.add_trace(_line(own, f"{arch}, width {width:,}", figure, colour, symbol))
    if baseline:
        ordered = sorted(baseline, key=lambda r: r["l0"])
        made.add_trace(
            go.Scatter(
                x=[r["l0"] for r in ordered],
                y=[r[figure] for r in ordered],
                mode="lines+markers",
                name=escape(baseline_name),
                line={"color": "#8a8c8e", "width": 1.5, "dash": "dot"},
                marker={"symbol": "x-thin-open", "size": 8, "color": "#8a8c8e"},
                hovertemplate="%{x:.3g} components: %{y:.4f}<extra>" + escape(baseline_name) + "</extra>",
            )
        )
    made.update_xaxes(title="latents on per token (L0)", type="log", automargin=True, tickvals=_ticks(rows))
    made.update_xaxes(ticktext=[f"{t:g}" for t in _ticks(rows)])
    made.update_yaxes(title=title, automargin=True, zeroline=False)
    made.update_layout(
        height=400, margin={"l": 8, "r": 12, "t": 28, "b": 8}, hovermode="closest",
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}, showlegend=True,
    )  # fmt: skip
    return made


def _line(own: list[tuple[Mapping[str, Any], Any]], name: str, figure: str, colour: str, symbol: str) -> Any:
    import plotly.graph_objects as go

    interval = {}
    if own and own[0][0].get(f"{figure}_low") is not None:
        interval["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [r[f"{figure}_high"] - r[figure] for r, _ in own],
            "arrayminus": [r[figure] - r[f"{figure}_low"] for r, _ in own],
            "color": colour,
            "thickness": 1.5,
            "width": 4,
        }
    return go.Scatter(
        x=[r["l0"] for r, _ in own],
        y=[r[figure] for r, _ in own],
        mode="lines+markers",
        name=escape(name),
        line={"color": colour, "width": 1.5},
        marker={
            "symbol": [symbol if on else f"{symbol}-open" for _, on in own],
            "size": 10,
            "color": colour,
            "line": {"width": 2, "color": colour},
        },
        customdata=[[r["k"], r["dead_share"]] for r, _ in own],
        hovertemplate="k %{customdata[0]}, L0 %{x:.1f}: %{y:.4f}; %{customdata[1]:.1%} silent<extra>"
        + escape(name)
        + "</extra>",
        **interval,
    )


def _ticks(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Powers of two around the L0 that were reached: half of the first to twice the last."""
    low, high = min(r["l0"] for r in rows), max(r["l0"] for r in rows)
    return [2.0**p for p in range(int(np.floor(np.log2(max(low, 0.5)))), int(np.ceil(np.log2(high))) + 1)]


def write_html(path: Path, figures: Sequence[go.Figure], title: str) -> None:
    """One page that opens without a network: plotly's script is in it once."""
    parts = [f.to_html(full_html=False, include_plotlyjs=(i == 0)) for i, f in enumerate(figures)]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><h1 style="font-family:sans-serif">'
    path.write_text(f"<!doctype html>{head}{escape(title)}</h1>" + "".join(parts), encoding="utf-8")
