"""Checkpoints that cannot be laid side by side token by token: what cannot be compared, and what can."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import charts, compared, frame, kept, show, theme, words
from pages.components.drift_weights import scale
from workbench.lab import Lab
from workbench.unlike import names_of

if TYPE_CHECKING:
    from workbench.unlike import Unlike

ROW = 26  # pixels of a layer


def left_out(lab: Lab, what: str) -> list[str]:
    """Say that `what` needs checkpoints of one family, where some that are not have been compared; their names."""
    names = names_of(lab)
    if names:
        there = "stands" if len(names) == 1 else "stand"
        frame.note(
            f"{what} needs checkpoints of one family: {', '.join(names)} {there} on the Compare page alone."
        )
    return names


def all_of(lab: Lab) -> dict[str, Callable[[], None]]:
    """Finished comparisons of unlike checkpoints, and how each is drawn."""
    return {name: functools.partial(_shown, lab, name) for name in names_of(lab)}


def _shown(lab: Lab, name: str) -> None:
    view(compared.unlike(lab, name))


def view(found: Unlike) -> None:
    """The sentence, then every figure that has a meaning."""
    frame.note(f"{found.headline}.")
    for told in found.figures["cannot"]:
        frame.caption(f"{told[:1].upper()}{told[1:]}.")
    st.header("Bits per byte on the same text", anchor=False)
    bits(found)
    st.header("Answers", anchor=False)
    answers(found)
    st.header("CKA where words end", anchor=False)
    cka(found)
    if found.kl is not None and found.loss is not None:
        st.header("Predictions on the same tokens", anchor=False)
        predictions(found.kl, found.loss)
    if agreement := found.figures["weights"]:
        st.header("Weights", anchor=False)
        weights(agreement)


def bits(found: Unlike) -> None:
    """A dot a checkpoint and domain."""
    contexts = "; ".join(f"{name} {n:,}" for name, n in found.figures["contexts"].items())
    frame.caption(
        f"The same {found.figures['documents']:,} held-out documents as plain text for all, so that vocabularies "
        f"do not matter; lower is better. Bars are 95 % intervals over documents. Tokens read at once: {contexts}."
    )
    made = charts.dots_with_intervals(
        found.bits, "domain", "checkpoint", "bits", theme.colours(found.checkpoints),
        theme.symbols(found.checkpoints), "bits per byte",
    )  # fmt: skip
    show.chart(made, "unlike-bits", "bits per byte of every checkpoint, by domain", found.bits)
    show.twin(found.gaps, "unlike-gaps", "Differences, paired by document")


def answers(found: Unlike) -> None:
    """A dot a checkpoint and task; what was said."""
    always = ", ".join(f"{task} {words.number(share)}" for task, share in found.commonest().items())
    frame.caption(
        "Share of held-out questions whose answer states the result, in whatever form: each asked in its own chat "
        "template, where it has one. 95 % Wilson intervals. The names of the world are made up: no model from "
        f"outside can know its capitals. The commonest result, always given: {always}."
    )
    table = found.accuracy()
    if table.height:
        made = charts.dots_with_intervals(
            table, "task", "checkpoint", "accuracy", theme.colours(found.checkpoints),
            theme.symbols(found.checkpoints), "share of answers",
        )  # fmt: skip
        show.chart(made, "unlike-answers", "share of right answers of every checkpoint, by task", table)
    strict = found.accuracy("form")
    show.twin(strict, "unlike-form", "Right and in the form that the lab taught")
    show.twin(found.answers, "unlike-said", "What was said")


def cka(found: Unlike) -> None:
    """A map a pair of checkpoints."""
    if not found.cka.height:
        frame.note("No two of them end enough words with a token of their own: there is no CKA to show.")
        return
    frame.caption(
        "Linear CKA of the residual streams after each layer, at the ends of words that both read whole: the "
        "widths may differ. 0 is nothing in common, 1 the same up to rotation and scale. With the texts shuffled "
        f"against each other it is at most {words.number(found.cka['null_high'].max())}; intervals over documents "
        "are in the table."
    )
    pairs = list(itertools.combinations(found.checkpoints, 2))
    there = [p for p in pairs if found.cka.filter(before=p[0], after=p[1]).height]
    show.chart(
        kept.picture(maps, found.cka, there),
        "unlike-cka",
        "CKA between every layer of one and every layer of another",
        found.cka,
    )


def maps(table: pl.DataFrame, pairs: list[tuple[str, str]]) -> go.Figure:
    """Rows are layers of the first checkpoint, columns of the second."""
    tall = [table.filter(before=a, after=b)["layer_before"].n_unique() for a, b in pairs]
    made = make_subplots(
        len(pairs), 1, subplot_titles=[f"{a} and {b}" for a, b in pairs], row_heights=[n + 3 for n in tall],
        vertical_spacing=0.5 / max(2, len(pairs) ** 2),
    )  # fmt: skip
    made.update_layout(charts.figure(sum(90 + max(5, n) * ROW for n in tall)).layout)
    for row, (a, b) in enumerate(pairs, 1):
        part = table.filter(before=a, after=b)
        value = {(r["layer_before"], r["layer_after"]): r for r in part.iter_rows(named=True)}
        down, across = (sorted(set(part[f"layer_{side}"])) for side in ("before", "after"))
        cells = [[value[i, j] for j in across] for i in down]
        made.add_trace(
            go.Heatmap(
                z=[[cell["cka"] for cell in line] for line in cells],
                x=[f"layer {j}" for j in across],
                y=[f"layer {i}" for i in down],
                customdata=[[(c["low"], c["high"], c["null"], c["n"]) for c in line] for line in cells],
                zmin=0,
                zmax=1,
                colorscale=scale(),
                showscale=row == 1,
                colorbar={"title": "CKA", "thickness": 12},
                texttemplate="%{z:.2f}" if len(across) <= 12 else None,
                textfont={"color": theme.palette().ink},
                hovertemplate=f"{a} %{{y}}, {b} %{{x}}: %{{z:.3f}} (%{{customdata[0]:.3f}} to "
                "%{customdata[1]:.3f}), shuffled %{customdata[2]:.3f}, n = %{customdata[3]:,} words<extra></extra>",
                xgap=2,
                ygap=2,
            ),
            row,
            1,
        )
        made.update_xaxes(title=b, row=row, col=1)
        made.update_yaxes(title=a, row=row, col=1)
    made.update_yaxes(autorange="reversed", showgrid=False, fixedrange=True)
    made.update_xaxes(showgrid=False, fixedrange=True)
    made.update_layout(margin={"t": 40})
    return made


def predictions(kl: pl.DataFrame, loss: pl.DataFrame) -> None:
    """KL both ways and loss, of those that share a tokenizer."""
    frame.caption("KL of the next-token distributions and loss, nats per token on the same tokens.")
    table = kl.with_columns(pl.format("KL({} ‖ {})", "p", "q").alias("of"))
    names = table["of"].unique(maintain_order=True).to_list()
    made = charts.dots_with_intervals(
        table, "domain", "of", "kl", theme.colours(names), theme.symbols(names), "nats per token"
    )
    show.chart(made, "unlike-kl", "KL of one checkpoint from another, by domain", table)
    show.twin(loss, "unlike-loss", "Loss on the same tokens")


def weights(told: dict[str, dict[str, object]]) -> None:
    """Which parameters agree in name and shape."""
    frame.caption("Parameters that agree in name and shape; only of checkpoints of one type of model.")
    frame.facts([(pair.replace("|", " and "), f"{own['agree']} of {own['of']}") for pair, own in told.items()])
    rows = [
        {"pair": pair.replace("|", " and "), "parameter": name, "agrees": agrees}
        for pair, own in told.items()
        for agrees, names in ((True, own["agreeing"]), (False, own["differ"]))
        for name in names  # type: ignore[attr-defined]
    ]
    show.twin(pl.DataFrame(rows), "unlike-weights", "Every parameter")
