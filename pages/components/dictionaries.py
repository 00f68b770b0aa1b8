"""The lab's dictionaries as small pictures: how sparse, how faithful, beside PCA with as many components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from pages.components import charts, frame, show, theme, words
from workbench.plan import Plan, Resolved
from workbench.quality import dead_on_few

_PANELS = (
    ("l0", None, "latents on per token (L0)"),
    ("fvu", "pca_fvu", "variance unexplained (FVU)"),
    ("ce_score", "pca_ce_score", "loss recovered (CE score)"),
    ("dead_share", None, "latents that never fire"),
)


def figures(resolved: Sequence[Resolved]) -> pl.DataFrame:
    """A row for each dictionary and checkpoint it reads, with the figures that the panels show."""
    names = [name for ours, pca, _ in _PANELS for name in (ours, pca) if name]
    rows = []
    for r in resolved:
        if r.step.kind != "dictionary" or r.artefact is None:
            continue
        for checkpoint in r.step.config["checkpoints"]:
            figures_ = r.artefact.figures.get("metrics", r.artefact.figures)
            values = {name: _for(figures_.get(name), checkpoint) for name in names}
            rows.append({"dictionary": r.step.name, "checkpoint": checkpoint, "k": r.step.config["k"]} | values)
    schema = {"dictionary": pl.String, "checkpoint": pl.String, "k": pl.Int64} | dict.fromkeys(
        names, pl.Float64
    )
    return pl.DataFrame(rows, schema=schema)


def _for(value: Any, checkpoint: str) -> float | None:
    """A figure of one checkpoint: a crosscoder's figures are maps, an SAE's plain."""
    found = value.get(checkpoint) if isinstance(value, Mapping) else value
    return None if found is None else float(found)


def pictures(plan: Plan, resolved: Sequence[Resolved], lab: str) -> None:
    """Four small panels, a row a dictionary; the hollow mark is PCA."""
    table = figures(resolved)
    missing = [d.name for d in plan.recipe.dictionaries if d.name not in set(table["dictionary"])]
    if not len(table):
        frame.caption(
            f"{_listed(missing)} will stand here once the checkpoints are grown and their activations read."
            if missing
            else "The recipe names no dictionary: `python -m workbench sae LAB --checkpoint NAME` adds one."
        )
        return
    frame.caption(
        "Measured on held-out tokens, chat markers left out, with the inference dictionary. Bars are the "
        "dictionary's, the hollow marks are PCA with k components on the same tokens; the line in the first panel "
        "is k."
    )
    made = [r.artefact for r in resolved if r.step.kind == "dictionary" and r.artefact is not None]
    counted = [a.figures["heldout_tokens"] for a in made if "heldout_tokens" in a.figures]
    if counted and (said := dead_on_few(min(counted))):
        frame.caption(f"{said[0].upper()}{said[1:]}.")
    show.chart(_panels(table), "dictionaries", "L0, FVU, CE score and dead share of every dictionary", table)
    if missing:
        frame.caption(f"Yet to be grown: {_listed(missing)}.")
    links = [
        (name, f"features?{urlencode({'lab': lab, 'dictionary': name})}")
        for name in table["dictionary"].unique(maintain_order=True)
    ]
    frame.links("Open in Features:", links)


def _panels(table: pl.DataFrame) -> go.Figure:
    labels = [
        d if d.endswith(f"-{c}") else f"{d} · {c}"
        for d, c in zip(table["dictionary"], table["checkpoint"], strict=True)
    ]
    places = list(range(len(labels)))
    made = make_subplots(
        1, 4, shared_yaxes=True, horizontal_spacing=0.045, subplot_titles=[t for _, _, t in _PANELS]
    )
    made.update_layout(charts.figure(96 + 34 * len(labels)).layout)
    made.update_layout(margin={"l": 8, "r": 24, "t": 44, "b": 8}, bargap=0.45)
    colours = charts.stage_colours(table["checkpoint"].to_list())
    ink = theme.palette().ink
    for at, (ours, pca, title) in enumerate(_PANELS, start=1):
        values = table[ours].to_list()
        texts = [words.share(v) if ours == "dead_share" else words.number(v) for v in values]
        made.add_trace(
            go.Bar(
                x=values,
                y=places,
                orientation="h",
                marker={"color": colours, "line": {"width": 0}},
                text=texts,
                textposition="outside" if ours == "dead_share" else "auto",
                cliponaxis=False,
                insidetextanchor="start",
                hovertext=labels,
                hovertemplate="%{hovertext}: %{text}<extra>" + title + "</extra>",
            ),
            1,
            at,
        )
        if pca:
            made.add_trace(
                go.Scatter(
                    x=table[pca].to_list(),
                    y=places,
                    mode="markers",
                    hovertext=labels,
                    marker={
                        "symbol": "circle-open",
                        "size": 10,
                        "color": ink,
                        "line": {"width": 2},
                    },
                    hovertemplate="%{hovertext}: PCA %{x:.3f}<extra>" + title + "</extra>",
                ),
                1,
                at,
            )
    _axes(made, table, labels)
    return made


def _axes(made: go.Figure, table: pl.DataFrame, labels: Sequence[str]) -> None:
    for k in set(table["k"].to_list()):
        made.add_vline(x=k, line={"color": theme.palette().muted, "width": 1.5, "dash": "dot"}, row=1, col=1)
    made.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=labels,
        autorange="reversed",
        showgrid=False,
        fixedrange=True,
        automargin=True,
    )
    made.update_xaxes(rangemode="tozero", nticks=4, fixedrange=True)
    # A tenth is what a good dictionary may leave silent: a hair above nothing is not drawn as a full bar.
    most = max([v for v in table["dead_share"].to_list() if v is not None], default=0.0)
    made.update_xaxes(range=[0, max(0.1, 1.25 * most)], tickformat=".0%", row=1, col=4)
    made.update_annotations(font_size=13)


def comparisons(plan: Plan, resolved: Sequence[Resolved], lab: str) -> None:
    """What is laid side by side, with a way there."""
    found = [r for r in resolved if r.step.kind == "comparison"]
    if not found:
        frame.caption("The recipe names no comparison: `python -m workbench compare LAB NAME NAME…` adds one.")
    done = [r for r in found if r.artefact is not None]
    links = [(r.step.name, f"compare?{urlencode({'lab': lab, 'comparison': r.step.name})}") for r in done]
    if links:
        frame.links("Open in Compare:", links)
    if waiting := [r.step.name for r in found if r.artefact is None]:
        frame.caption(f"{_listed(waiting)} will stand here once its crosscoder has been grown.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
