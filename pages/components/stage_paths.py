"""Two paths from a parent's SAE to its child's, on the page: what the child turned, what the new text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, compared, frame, show, theme
from saes.stage_paths import BOTH, DATA, MODEL, MODEL_STEPS, NEITHER, TURNED_BY

if TYPE_CHECKING:
    from workbench.comparison import Comparison
    from workbench.lab import Lab
    from workbench.paths import Paths

SAID = {MODEL: "by the child", DATA: "by the new text", BOTH: "by both", NEITHER: "by neither"}
SYMBOLS = {MODEL: "diamond", DATA: "square", BOTH: "star", NEITHER: "circle"}
SHOWN = 40  # rows
COLUMNS = {
    "latent": "latent",
    "fires_on": "fires on",
    "fires_before": "tokens, parent",
    "fires_after": "tokens, child",
    "model_beyond": "child's steps: cosine less bound",
    "data_beyond": "text's steps: cosine less bound",
    "turned_in_sham": "turned in the sham too",
}


def view(lab: Lab, comparison: Comparison) -> None:
    """The paths that were walked between the compared checkpoints; what is to be had where none was."""
    st.subheader("Along two paths from parent to child", anchor=False)
    walked = compared.walked(lab, comparison.checkpoints)
    if not walked:
        told = " ".join(comparison.checkpoints)
        frame.note(
            "An SAE fine-tuned from a parent to its child, once text first and once model first, keeps its "
            "latents' numbers and tells what the child turned from what the new text brought: "
            f"`python -m workbench compare {lab.name} {told} --paths` trains nine SAEs for each stage, which takes "
            "several minutes; what a stopped run finished is kept."
        )
        return
    frame.caption(
        "Data first: an SAE of the parent on its own text goes on with all text, then with the child. Model first: "
        "it goes on with the child on the parent's text, then with all text. What turns in the model step of both "
        "was turned by the child. Dotted lines: the cosine that one latent in twenty falls under where the SAE is "
        "only trained on as it was; the first step from an SAE that is not at rest turns everything further."
    )
    named = {f"{each.figures['parent']} → {each.figures['child']}": each for each in walked}
    frame.doubted("paths", "pair", list(named))
    found = named[
        st.selectbox("From parent to child", list(named), key="paths", bind="query-params", width=320)
    ]
    for sentence in found.sentences():
        frame.note(f"{sentence}.")
    rows = found.known
    show.chart(
        drawn(found),
        "paths-chart",
        f"cosines of the two model steps of {found.name}, by what turned each latent",
        rows,
    )
    _list(rows)


def drawn(found: Paths) -> go.Figure:
    """A point a latent: the model step of one path against that of the other; what neither turned behind."""
    made, palette = charts.figure(440), theme.palette()
    colours = dict(zip(SAID, (palette.alarm, palette.accent, palette.ink, palette.muted), strict=True))
    across, up = MODEL_STEPS
    for kind in reversed(TURNED_BY):
        rows = found.known.filter(turned_by=kind)
        made.add_trace(
            go.Scattergl(
                x=rows[across].to_list(), y=rows[up].to_list(), mode="markers", name=SAID[kind],
                marker={
                    "color": colours[kind], "symbol": SYMBOLS[kind], "size": 6 if kind == NEITHER else 9,
                    "opacity": 0.35 if kind == NEITHER else 0.9,
                },
                customdata=[
                    [latent, charts.plain(said)] for latent, said in rows.select("latent", "fires_on").iter_rows()
                ],
                hovertemplate="latent %{customdata[0]}, on %{customdata[1]}: %{x:.2f} and %{y:.2f}<extra>"
                + SAID[kind] + "</extra>",
            )
        )  # fmt: skip
    bounds = found.figures["bounds"]
    made.add_vline(x=bounds["second"], line={"color": palette.muted, "width": 1, "dash": "dot"})
    made.add_hline(y=bounds["first"], line={"color": palette.muted, "width": 1, "dash": "dot"})
    made.update_xaxes(title="cosine over data first's model step, D → F_D")
    made.update_yaxes(title="cosine over model first's, S → M")
    charts.legend_above(made)
    return made


def _list(rows: pl.DataFrame) -> None:
    """The latents that were turned, those beyond chance by most first."""
    kind = st.segmented_control(
        "Turned", [MODEL, DATA, BOTH], default=MODEL, required=True, key="turned", bind="query-params",
        format_func=SAID.__getitem__,
    )  # fmt: skip
    chosen = rows.filter(turned_by=kind).sort("data_beyond" if kind == DATA else "model_beyond").head(SHOWN)
    if chosen.is_empty():
        frame.caption("There is none.")
        return
    st.dataframe(chosen.select(list(COLUMNS)).rename(COLUMNS), key="turned-table", hide_index=True, height=320)
