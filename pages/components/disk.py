"""Bytes of the lab on disk, by kind of artefact."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import streamlit as st

from pages.components import charts, frame, show, theme, words
from workbench.disk import folder_bytes
from workbench.lab import KINDS, Lab
from workbench.plan import Resolved


@st.cache_data(max_entries=32, show_spinner=False)
def _bytes(path: str, grown: tuple[str, ...]) -> pl.DataFrame:
    """Bytes by kind; counted again when a step is finished."""
    lab = Lab.open(path.rsplit("/", 1)[1])
    rows = [(kind, folder_bytes(lab.path / kind)) for kind in KINDS if (lab.path / kind).is_dir()]
    return pl.DataFrame(rows, schema={"kind": pl.String, "bytes": pl.Int64}, orient="row")


def usage(lab: Lab, resolved: Sequence[Resolved]) -> None:
    """Bars of bytes by kind."""
    table = _bytes(str(lab.path), tuple(r.step.id for r in resolved if r.artefact))
    if not len(table):
        frame.caption("Nothing has been written yet.")
        return
    sizes = table["bytes"].to_list()
    made = charts.bars(
        table["kind"].to_list(), sizes, theme.palette().accent, "bytes", [words.size(b) for b in sizes]
    )
    made.update_xaxes(exponentformat="SI", ticksuffix="B")
    show.chart(made, "disk", "bytes on disk by kind of artefact", table)
