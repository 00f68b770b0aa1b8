"""The Lens view: how far each layer is from the prediction, and at which layer the answer stands, in each
checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import (
    charts,
    circuit_choice,
    circuit_export,
    circuit_store,
    frame,
    kept,
    show,
    theme,
    words,
)
from pages.components.circuit_store import Of
from workbench.circuits.found_lenses import OWN, ROOT, FoundLens
from workbench.circuits.lens_answers import CLEAN, ON
from workbench.circuits.lens_kl import LOGIT_LENS, ladder
from workbench.lab import Lab

LOOKS = {OWN: ("solid", "circle"), ROOT: ("dash", "square"), LOGIT_LENS: ("dot", "circle-open")}


def view(lab: Lab, of: Of) -> None:
    """KL by layer through stored lenses; on the task's prompts m by layer through the same."""
    names = circuit_store.found(of).checkpoints
    lenses = {name: lens for name in names if (lens := circuit_store.lens(of, name)) is not None}
    if missing := [name for name in names if name not in lenses]:
        frame.note(
            f"No tuned lens has been fitted on {', '.join(missing)}: `python -m workbench lens {lab.name} "
            f"{','.join(missing)}` fits {'one' if len(missing) == 1 else 'them'}, in a minute or two each. Until "
            "then the logit lens alone is read there."
        )
    st.subheader("On the task's prompts", anchor=False)
    _answers(of, names, lenses)
    if lenses:
        st.subheader("On held-out text", anchor=False)
        _kl(of, lenses)


def _said(lens: str, root: str) -> str:
    return {OWN: "own tuned lens", ROOT: f"{root}'s tuned lens"}.get(lens, lens)


def _through(lens: str, root: str) -> str:
    return {LOGIT_LENS: "the logit lens", OWN: "its own tuned lens"}.get(lens, _said(lens, root))


def _answers(of: Of, names: list[str], lenses: dict[str, FoundLens]) -> None:
    frame.doubted("prompts", "set of prompts", ON)
    on = str(
        st.segmented_control("m on", list(ON), default=CLEAN, required=True, key="prompts", bind="query-params")
    )
    tables, undone = [], circuit_choice.undone(circuit_store.found(of))
    for name in names:
        made = circuit_store.lens_answers(of, name, lenses.get(name))
        root = lenses[name].root if name in lenses else ""
        called = {lens: _through(lens, root) for lens in made.clean}
        frame.caption(words.minus(f"{name}: {made.sentence(called, on)}."))
        tables.append(_named(made.table(on).rename({"m": "value"}), name, root))
    table = pl.concat(tables)
    show.chart(
        kept.picture(by_layer, table, "m, logits", False, undone), "lens-answers",
        f"logit difference of target and foil by layer through each lens in each checkpoint, {on}",
        table.rename({"value": "m"}).drop("kind"), config=circuit_export.camera(f"{of.name}-lens-answers"),
    )  # fmt: skip
    frame.caption(
        "m = logit(target) − logit(foil) that the model's own final norm and unembedding read from the stream at "
        "the prompt's last token, on the judge pairs; the last row is the model's answer, through every lens. "
        "Above 0: the target. It is told apart from the row from which on the interval stays above 0. A tuned "
        "lens is fitted to foretell the last layer on other text, so it may read an answer that is yet to be "
        "worked out. 95 % intervals over pairs."
    )


def _kl(of: Of, lenses: dict[str, FoundLens]) -> None:
    rows = [
        _named(lens.table("kl").rename({"kl": "value", "documents": "n"}), name, lens.root)
        for name, lens in lenses.items()
    ]
    table = pl.concat(rows)
    below = table.filter(pl.col("layer") < pl.col("layer").max())
    ends = below.filter(pl.col("low") > 0).select(pl.min("low"), pl.max("high")).row(0)
    show.chart(
        kept.picture(by_layer, below, "KL, nats a token", True, (), ladder(*ends)), "lens-kl",
        "KL from the model's own prediction by layer through each lens in each checkpoint",
        table.rename({"value": "KL", "n": "documents"}).drop("kind"),
        config=circuit_export.camera(f"{of.name}-lens-kl"),
    )  # fmt: skip
    above = pl.concat(
        lens.table("above").with_columns(checkpoint=pl.lit(name)) for name, lens in lenses.items()
    )
    show.twin(above, "lens-above", "How much more one lens leaves than another, as a table")
    figures = next(iter(lenses.values())).figures
    frame.caption(
        f"KL(the model's prediction ‖ what a lens reads), on {figures['tokens']:,} held-out tokens of "
        f"{figures['documents']:,} documents, 95 % intervals over documents; behind the last block it is 0. Logit "
        "lens: no map. Own: an affine map a layer, fitted on this checkpoint. The root's: fitted on the first "
        "checkpoint of the lineage; what it leaves above the own lens is what training has moved."
    )


def _named(table: pl.DataFrame, checkpoint: str, root: str) -> pl.DataFrame:
    """With the checkpoint, and lenses called as a person calls them."""
    return table.select(
        pl.lit(checkpoint).alias("checkpoint"), pl.col("lens").alias("kind"),
        pl.col("lens").replace({lens: _said(lens, root) for lens in (OWN, ROOT)}), "layer", "row", "value", "low",
        "high", "n",
    )  # fmt: skip


def by_layer(
    table: pl.DataFrame, title: str, log: bool = False, undone: Sequence[str] = (), ticks: Sequence[float] = ()
) -> go.Figure:
    """A panel a checkpoint in its colour, all on one scale; a line a lens, dotted without a map and dashed with the
    root's. Panels of `undone` checkpoints are grey."""
    names = table["checkpoint"].unique(maintain_order=True).to_list()
    palette, colours = theme.palette(), theme.colours(names)
    made = make_subplots(
        1, len(names), shared_yaxes=True, subplot_titles=[charts.plain(name) for name in names],
        horizontal_spacing=0.03,
    )  # fmt: skip
    made.update_layout(charts.figure(360).layout)
    _legend(made, table)
    for at, name in enumerate(names, 1):
        colour = palette.muted if name in undone else colours[name]
        _lines(made, table.filter(checkpoint=name), colour, at, 0.45 if name in undone else 1.0)
    for name in undone:
        at = names.index(name) + 1
        made.add_annotation(
            text="does not do the task", xref="x domain", yref="y domain", x=0.5, y=0.95, showarrow=False, row=1,
            col=at,
        )  # fmt: skip
    if log:
        made.update_yaxes(type="log", tickvals=list(ticks), ticktext=[f"{each:g}" for each in ticks])
    else:
        made.add_hline(y=0, line={"color": palette.line, "width": 1})
    rows = table.select("layer", "row").unique(maintain_order=True).sort("layer")
    made.update_xaxes(tickvals=rows["layer"].to_list(), ticktext=rows["row"].to_list(), tickfont={"size": 10})
    made.update_yaxes(title=title, col=1)
    made.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1.12, "yanchor": "bottom", "x": 0}, margin={"t": 70}
    )
    return made


def _legend(made: go.Figure, table: pl.DataFrame) -> None:
    """How each lens is drawn, in grey: the colours are the checkpoints'."""
    called = dict(table.select("kind", "lens").unique().rows())
    for kind, (dash, symbol) in LOOKS.items():
        if kind in called:
            made.add_trace(
                go.Scatter(
                    x=[None], y=[None], mode="lines+markers", name=charts.plain(called[kind]), legendgroup=kind,
                    line={"color": theme.palette().muted, "dash": dash, "width": 2},
                    marker={"symbol": symbol, "size": 8},
                ),
                1,
                1,
            )  # fmt: skip


def _lines(made: go.Figure, table: pl.DataFrame, colour: str, at: int, opacity: float) -> None:
    """One checkpoint's panel."""
    for kind, (dash, symbol) in LOOKS.items():
        rows = table.filter(kind=kind).sort("layer")
        if not len(rows):
            continue
        name, called = (charts.plain(rows[column][0]) for column in ("checkpoint", "lens"))
        made.add_trace(
            go.Scatter(
                x=rows["layer"].to_list(), y=rows["value"].to_list(), mode="lines+markers", name=called,
                line={"color": colour, "dash": dash, "width": 2}, marker={"symbol": symbol, "size": 8},
                error_y=charts.interval(rows, "value", colour), cliponaxis=False, showlegend=False,
                legendgroup=kind, opacity=opacity, customdata=rows.select("row", "low", "high", "n").rows(),
                hovertemplate="%{customdata[0]}: %{y:.3f} (%{customdata[1]:.3f} to %{customdata[2]:.3f}), "
                f"n = %{{customdata[3]:,}}<extra>{name}, {called}</extra>",
            ),
            1,
            at,
        )  # fmt: skip
