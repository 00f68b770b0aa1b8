"""Sweeps: L0 against what is lost and what is recovered, with PCA dotted."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import frame, show, store, theme
from workbench.quality import dead_on_few
from workbench.sweeps import TITLES

if TYPE_CHECKING:
    from workbench.lab import Lab
    from workbench.sweeps import Sweep


def view(lab: Lab) -> None:
    """The chosen sweep's plots, its table and its download; how to make one where there is none."""
    names = store.sweep_names(lab)
    if not names:
        frame.note(
            f"No sweep has been grown yet: `python -m workbench sweep {lab.name} --checkpoint base "
            "--k 4,8,16,32 --width 1024,2048` trains eight dictionaries together and plots them here."
        )
        return
    name = st.selectbox("Sweep", names, key="sweep", bind="query-params", width=420)
    sweep = store.sweep(lab, name)
    frame.caption(
        f"Every dictionary reads {sweep.checkpoint} and was trained over the same batches. Filled marks are "
        "those that no other beats at as few latents; dotted is PCA with k components. Bars are 95 % intervals."
    )
    if said := dead_on_few(sweep.figures["tokens"]):
        frame.caption(f"{said[0].upper()}{said[1:]}.")
    palette = theme.palette()
    colours = (palette.stages["base"], palette.stages["sft"], palette.stages["grpo"], *palette.others)
    for column, (figure, title) in zip(st.columns(2, gap="large"), TITLES.items(), strict=True):
        with column:
            made = sweep.pareto(figure, title, colours=colours)
            made.update_layout(uirevision="keep")
            st.plotly_chart(made, key=f"pareto-{figure}", alt=f"L0 against {title}", config=show.CONFIG)
    show.twin(sweep.table, "sweep")
    st.download_button(
        "Both plots as one HTML page",
        lambda: _page(sweep),
        f"{sweep.name}.html",
        "text/html",
        on_click="ignore",
    )


def _page(sweep: Sweep) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sweep.html"
        sweep.write_html(path)
        return path.read_bytes()
