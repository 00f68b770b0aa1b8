"""A distribution over next tokens as bars, with what sampling makes of it and, where given, how often each came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from pages.components import panels, theme, words
from pages.components.panels import RING, TICK, Mark, Panel, Row

if TYPE_CHECKING:
    from workbench.first_tokens import FirstToken
    from workbench.trace import Candidate

CUT = ("", "cut by top-k", "cut by top-p", "cut by min-p")


def panel(
    found: Sequence[Candidate],
    colour: str,
    alt: str,
    title: str = "",
    chosen: int | None = None,
    came: Mapping[int, FirstToken] | None = None,
) -> Panel:
    """Bars: the model's own probabilities, on one axis from 0 to 1 wherever they stand; rings: what is drawn from;
    ticks: shares of samples, if any.

    `chosen`: the id of the token that was drawn."""
    rows = [_row(c, colour, chosen, came) for c in found]
    table = {
        "token": [c.shown for c in found],
        "id": [c.id for c in found],
        "probability": [c.probability for c in found],
        "as drawn": [c.reshaped for c in found],
        "cut": [CUT[c.cut_by] for c in found],
    }
    if came is not None:
        drawn = [came.get(c.id) for c in found]
        table |= {"times first": [each.times if each else 0 for each in drawn]}
    return Panel(
        panels.bars(rows, "probability, from 0 to 1", low=0.0, high=1.0), alt, pl.DataFrame(table), title
    )


def _row(c: Candidate, colour: str, chosen: int | None, came: Mapping[int, FirstToken] | None) -> Row:
    muted = f"color-mix(in srgb, {colour} 35%, {theme.palette().panel})"
    marks = [Mark(symbol=RING, value=c.reshaped)] if not c.cut_by else []
    said = [f"id {c.id}", f"probability {words.decimals(c.probability)}"]
    said.append(CUT[c.cut_by] or f"as drawn {words.decimals(c.reshaped)}")
    text = words.decimals(c.probability)
    if came is not None:
        first = came.get(c.id)
        if first is not None:
            marks.append(Mark(symbol=TICK, value=first.share))
            said.append(
                f"first in {first.times} of {first.n}: {words.share(first.share)} "
                f"({words.share(first.low)} to {words.share(first.high)})"
            )
        text += f" · {first.times if first else 0} of {sum(f.times for f in came.values())}"
    label = f"▸ {c.shown}" if c.id == chosen else c.shown
    return Row(
        label=label,
        value=c.probability,
        text=text,
        colour=muted if c.cut_by else colour,
        marks=marks,
        said=said,
    )
