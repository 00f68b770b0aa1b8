"""Superposition in this lab's models, from a stored study; where there is none, how to make it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, frame, show, stage_changes, store, theme, words
from workbench.lab import Lab
from workbench.plan import STUDY

if TYPE_CHECKING:
    from workbench.superposition import Study

OF = {"dictionary": "this model's SAE", "gaussian": "SAE on a Gaussian", "random": "random directions"}

WIDTHS = {
    name: st.column_config.Column(name, width=width)
    for name, width in (("unit", 56), ("factors", 64), ("names", 210), ("strongest texts", 250))
}


def view(lab: Lab) -> None:
    """The stored study of the lab."""
    if STUDY not in store.finished(lab, "evaluation"):
        frame.note(
            f"This lab's models have not been studied yet: `python -m workbench superposition {lab.name}` does "
            "it, in a few minutes, once their SAEs are trained."
        )
        return
    study = store.superposition(lab)
    left, right = st.columns([2, 3], gap="large")
    with left:
        _alive(study)
    with right:
        _cosines(study)
    _factors(study)
    stage_changes.view(study)
    _examples(study)


def _alive(study: Study) -> None:
    frame.caption(
        "Latents that fire, per dimension, and the share of variance that the SAE leaves unexplained. The grey "
        "bars are an SAE trained equally on Gaussian activations of the same mean and covariance, which hold "
        "no features: only what differs from them says something."
    )
    colours = theme.colours(list(study.figures))
    rows, tints = [], []
    for name, found in study.figures.items():
        rows.append((name, found["alive_per_dimension"], found["fvu"], found["l0"]))
        rows.append(
            (
                f"{name}, Gaussian",
                found["gaussian_alive_per_dimension"],
                found["gaussian_fvu"],
                found["gaussian_l0"],
            )
        )
        tints += [colours[name], theme.palette().muted]
    columns = ["activations", "alive latents per dimension", "FVU", "L0"]
    table = pl.DataFrame(rows, schema=columns, orient="row")
    for column, key in ((columns[1], "alive"), (columns[2], "unexplained")):
        values = table[column].to_list()
        texts = [words.number(v) for v in values]
        made = charts.bars(table["activations"].to_list(), values, tints, column, texts, 22)
        st.plotly_chart(made, key=key, alt=f"{column}, beside a Gaussian control", config=show.CONFIG)
    show.twin(table, "alive")


def _cosines(study: Study) -> None:
    frame.caption(
        "Cosine of each living latent's direction to its nearest neighbour: how closely directions are packed. "
        "Random directions of the same number are as close as chance makes them."
    )
    names = list(study.figures)
    made = make_subplots(1, len(names), shared_yaxes=True, subplot_titles=names, horizontal_spacing=0.03)
    made.update_layout(charts.figure(330).layout)
    colours, palette = theme.colours(names), theme.palette()
    for column, name in enumerate(names, 1):
        tints = {
            "dictionary": {"color": colours[name], "opacity": 0.8},
            "gaussian": {"color": palette.muted, "opacity": 0.6},
            "random": {"color": "rgba(0,0,0,0)", "line": {"color": palette.ink, "width": 1}},
        }
        for of, label in OF.items():
            part = study.cosines.filter((pl.col("checkpoint") == name) & (pl.col("of") == of))
            bins = {"start": 0, "end": 1.0001, "size": 0.025}
            bar = go.Histogram(
                x=part["cosine"].to_list(),
                xbins=bins,
                name=label,
                marker=tints[of],
                showlegend=column == 1,
                legendgroup=of,
                hovertemplate="%{x}: %{y} latents<extra>" + label + "</extra>",
            )
            made.add_trace(bar, 1, column)
    made.update_xaxes(range=[0.1, 0.8], title="cosine", nticks=5)
    made.update_yaxes(title="latents", col=1)
    legend = {"orientation": "h", "y": -0.3, "x": 0}
    made.update_layout(barmode="overlay", showlegend=True, legend=legend, margin={"t": 40})
    medians = [
        {"checkpoint": n, **{label: f[f"{of}_cosine"] for of, label in OF.items() if f"{of}_cosine" in f}}
        for n, f in study.figures.items()
    ]
    show.chart(made, "cosines", "cosines to the nearest neighbour", pl.DataFrame(medians), "Medians as a table")


def _factors(study: Study) -> None:
    st.subheader("Neurons and latents", anchor=False)
    frame.caption(
        "How many of the world's factors a neuron of the same layer's MLP follows, beside the latents: AUROC "
        "at least 0.9, in one direction, on both halves of the documents. A unit that follows several is "
        "polysemantic (factors may contain one another: a country and a place are two)."
    )
    rows = [
        (name, f"{kind}s", f["units"], f["following"], f["polysemantic"], f["factors_each"])
        for name, found in study.figures.items()
        for kind, f in (("neuron", found["neurons"]), ("latent", found["latents"]))
    ]
    schema = ["checkpoint", "units", "how many", "follow a factor", "of these, several", "factors each"]
    table = pl.DataFrame(rows, schema=schema, orient="row", infer_schema_length=None)
    labels = [f"{row[0]}: {row[1]}" for row in rows]
    colours = theme.colours(list(study.figures))
    tints = [colours[row[0]] if row[1] == "latents" else theme.palette().muted for row in rows]
    left, right = st.columns(2, gap="large")
    for place, column, key in ((left, 3, "following"), (right, 4, "several")):
        values = [row[column] or 0.0 for row in rows]
        made = charts.bars(labels, values, tints, schema[column], [words.share(row[column]) for row in rows])
        made.update_xaxes(tickformat=".0%")
        with place:
            show.chart(made, key, f"{schema[column]}, neurons beside latents", table)


def _examples(study: Study) -> None:
    names = list(study.figures)
    name = st.segmented_control(
        "Those that follow most, in", names, default=names[0], required=True, key="crowded", bind="query-params"
    )
    rows = study.examples.filter(pl.col("checkpoint") == name)
    shown = rows.group_by("kind", "unit", maintain_order=True).agg(
        pl.col("factors").first(), pl.col("names").first(), pl.col("text").alias("strongest texts")
    )
    for place, kind in zip(st.columns(2, gap="large"), ("neuron", "latent"), strict=True):
        with place:
            frame.name_tag(
                f"{kind}s", theme.palette().muted if kind == "neuron" else theme.colours([name])[name]
            )
            part = shown.filter(pl.col("kind") == kind).drop("kind")
            if not len(part):
                frame.caption(f"No {kind} follows any factor.")
                continue
            alt = f"{kind}s of {name} that follow most factors, with their texts"
            st.dataframe(
                part, key=f"crowded-{kind}", hide_index=True, alt=alt, row_height=64, column_config=WIDTHS
            )
