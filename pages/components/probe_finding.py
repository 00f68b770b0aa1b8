"""A finding on the page: claim, figures beside their nulls, pictures, what would change the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import streamlit as st

from pages.components import frame, probe_pictures, show
from pages.components.probe_choice import Board
from probes.kit.found import Probe


def view(probe: Probe, board: Board, options: Mapping[str, Any]) -> None:
    """The answer about these checkpoints with these settings, and the file that was asked."""
    answer, about = board.answer(probe, options), board.about
    if others := board.other_settings(probe, options):
        frame.caption(f"Also answered with {'; '.join(others)}: type it under Settings to see that.")
    if answer is None:
        if not probe.broken and not board.missed(probe, options):
            frame.note(
                f"Not asked yet about {', '.join(about)} with these settings: press Ask, or run the command above."
            )
        _source(probe)
        return
    if changed := answer.outdated(probe, board.steps):
        frame.note(f"Since this answer {changed}: ask again.")
    finding = answer.finding
    mark = "Beyond its null" if finding["claims"] else "Not beyond its null"
    frame.facts(
        [("Answer", mark), ("held to", f"p ≤ {finding['level']} together"), *_set(answer.artefact.config)]
    )
    frame.claim(finding["claim"])
    for number, plot in enumerate(answer.plots):
        st.subheader(plot["title"], anchor=False)
        made = probe_pictures.drawn(plot["figure"], about)
        show.chart(made, f"{probe.name}-plot-{number}", plot["alt"], pl.DataFrame(plot["rows"], strict=False))
    st.subheader("Figures beside their nulls", anchor=False)
    frame.caption(f"Dots are figures with 95 % intervals; grey is the null. Held against: {finding['null']}.")
    probe_pictures.forests(finding["figures"], about, probe.name)
    show.twin(_table(finding["figures"]), f"{probe.name}-figures", "All figures as a table")
    if finding["rows"]:
        show.twin(
            pl.DataFrame(finding["rows"], strict=False), f"{probe.name}-rows", "What the probe tells row by row"
        )
    frame.note(f"What would change the answer: {finding['changes']}")
    st.download_button(
        "JSON",
        json.dumps(finding, ensure_ascii=False, indent=1),
        f"{probe.name}.json",
        "application/json",
        key="save",
    )
    _source(probe)


def _set(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings other than the defaults."""
    return [(name, str(value)) for name, value in config["options"].items()]


def _table(figures: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    rows = [
        {
            "figure": f["name"], "where": f["where"], "checkpoint": f["checkpoint"], "value": f["value"],
            "low": f["low"], "high": f["high"], "n": f["n"], "n counts": f["of"], "null": f["null"]["value"],
            "null low": f["null"]["low"], "null high": f["null"]["high"], "null is": f["null"]["what"],
            "p": f["null"]["p"], "p together": f["p_adjusted"],
        }
        for f in figures
    ]  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def _source(probe: Probe) -> None:
    with st.expander("The probe's file", key="source", on_change="rerun") as unfolded:
        if unfolded.open:
            st.code(
                probe.path.read_text(encoding="utf-8", errors="replace"), language="python", line_numbers=True
            )
