"""What a probe answers: figures with n, an interval and a null, a claim that stands or falls with them, pictures.

A figure that a claim rests on carries the chance p of one as far under its null. Several such figures of one
finding are held to the level together [Holm 1979]: sorted upwards, p_(i) · (m − i + 1), never below the one before.
A finding *claims* something where one of them is at or below `LEVEL`; else its sentence says that nothing was
found.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.intervals import bracketed

LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Null:
    """What a figure is where there is nothing to be found: its mean, the ends of the middle 95 %, and from how many
    draws or cases. `p` is the chance of a figure as far as the one observed; None where no claim rests on it."""

    value: float
    low: float
    high: float
    n: int
    what: str
    p: float | None = None


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number: `name` says of what, `low` and `high` bound its 95 % interval, `n` counts `of`.

    `checkpoint` is the one it is of, or empty; `where` a layer, a factor, a task.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    of: str
    null: Null
    checkpoint: str = ""
    where: str = ""

    def __post_init__(self) -> None:
        ends = (self.value, self.low, self.high, self.null.value)
        if not all(map(math.isfinite, ends)) or self.n < 1:
            title = told_where(self.name, self.where, self.checkpoint)
            raise ValueError(
                f"figure {title!r} is {self.value} [{self.low}, {self.high}], "
                f"n {self.n}, null {self.null.value}: every figure needs finite numbers and at least one case; "
                "leave out what could not be measured and say so in the claim"
            )


def told_figure(figure: Mapping[str, Any]) -> str:
    """A figure, read from where it is stored, in one line."""
    null = figure["null"]
    title = told_where(figure["name"], figure["where"], figure["checkpoint"])
    chance = f", p {null['p']:.3g}" if null["p"] is not None else ""
    return (
        f"{title}: {bracketed(figure['value'], figure['low'], figure['high'])}, n {figure['n']:,} {figure['of']}; "
        f"{null['what']} {bracketed(null['value'], null['low'], null['high'])}{chance}"
    )


def told_where(*parts: str) -> str:
    """What a figure is of, in words."""
    return ", ".join(part for part in parts if part)


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plotly figure as JSON (colours are the page's: a trace whose `name` is a checkpoint gets its colour), what
    it shows in words, and its numbers as rows."""

    title: str
    figure: Mapping[str, Any]
    alt: str
    rows: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Finding:
    """The answer to one question about some checkpoints.

    `claim` is a sentence, `changes` what would change the answer, `null` what the figures are held against,
    `rows` a table where one helps.
    """

    claim: str
    figures: Sequence[Figure]
    null: str
    changes: str
    plots: Sequence[Plot] = ()
    rows: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if not self.figures:
            raise ValueError("a finding needs at least one figure with n, an interval and a null")
        for plot in self.plots:
            if not isinstance(plot, Plot):
                raise ValueError(
                    f"a plot is {type(plot).__name__}, and Plot(title, figure, alt, rows) of probes.kit.finding is "
                    "expected; a plotly figure goes in as figure.to_plotly_json()"
                )
        for name in ("claim", "null", "changes"):
            if not str(getattr(self, name)).strip():
                raise ValueError(f"the finding's {name} is empty: one sentence is expected")

    @functools.cached_property
    def adjusted(self) -> list[float | None]:
        """`adjusted` p of each figure."""
        return adjusted(self.figures)

    @property
    def claims(self) -> bool:
        """Whether any figure lies beyond its null."""
        return any(p is not None and p <= LEVEL for p in self.adjusted)

    def told(self) -> dict[str, Any]:
        """For machines: everything but the pictures."""
        figures = [
            {**dataclasses.asdict(figure), "p_adjusted": p}
            for figure, p in zip(self.figures, self.adjusted, strict=True)
        ]
        about = {"claim": self.claim, "claims": self.claims, "level": LEVEL, "null": self.null}
        return {**about, "changes": self.changes, "figures": figures, "rows": [dict(row) for row in self.rows]}


def holm(chances: Sequence[float]) -> list[float]:
    """p-values adjusted for being several, in the order given [Holm 1979].

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    adjusted, least = [0.0] * len(chances), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, chances[i] * (len(chances) - rank)))
        adjusted[i] = least
    return adjusted


def adjusted(figures: Sequence[Figure]) -> list[float | None]:
    """p of each figure, held to the level together with the others; None where no claim rests on it."""
    tested = [(figure.null.p, i) for i, figure in enumerate(figures) if figure.null.p is not None]
    found: list[float | None] = [None] * len(figures)
    for (_, i), p in zip(tested, holm([p for p, _ in tested]), strict=True):
        found[i] = p
    return found


def beyond(figures: Sequence[Figure]) -> list[Figure]:
    """Those of the figures that a claim can rest on: p at or below `LEVEL`, held to it together."""
    found = zip(figures, adjusted(figures), strict=True)
    return [figure for figure, p in found if p is not None and p <= LEVEL]
