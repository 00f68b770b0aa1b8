"""The Verdict view: does each checkpoint do the task, does its circuit, and was it reused, reweighted
or rewired."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, circuit_export, circuit_store, frame, kept, show, theme
from pages.components.circuit_store import Of
from workbench.circuits.across import REUSED, REWEIGHTED, REWIRED, UNDETERMINED, WITHIN
from workbench.circuits.competence import CHANCE, KNOWN
from workbench.circuits.found_circuits import OTHER_TASK, RANDOM, FoundCircuits
from workbench.intervals import bracketed
from workbench.lab import Lab

MEANS = {
    REUSED: "the earlier circuit does as well in the later checkpoint, with edges and weights as alike as two "
    "drawings of prompts from one checkpoint",
    REWEIGHTED: "the earlier circuit does as well, with edges or weights less alike than that",
    REWIRED: "the earlier circuit does less well than the later one's own, and edges are less alike than that",
    UNDETERMINED: "the evidence does not say: the sentence tells why",
}
MEASURES = {"edges": "edges, Jaccard", "nodes": "components, Jaccard", "weights": "weights, Jaccard"}


def view(lab: Lab, of: Of) -> None:
    """Verdicts in words; the two pictures they stand on; the evidence of each."""
    found = circuit_store.found(of)
    verdicts = found.table("verdicts")
    for before, after, word, why in verdicts.select("before", "after", "verdict", "why").iter_rows():
        frame.note(f"{before} → {after}: {word}; {why}.")
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Does it do the task?", anchor=False)
        _competence(of, found)
    with right:
        st.subheader("Does its circuit?", anchor=False)
        _faithful(of, found)
    if len(verdicts):
        st.subheader("The evidence", anchor=False)
        _evidence(found)
        words = verdicts["verdict"].unique(maintain_order=True)
        frame.caption(" ".join(f"{word.capitalize()}: {MEANS[word]}." for word in words))


def _competence(of: Of, found: FoundCircuits) -> None:
    rows = found.table("competence").filter(pl.col("checkpoint").is_in(found.checkpoints))
    apart = rows.filter(figure="told_apart")
    made = kept.picture(chosen_rightly, apart)
    show.chart(
        made, "competence", "share of right choices between target and foil in each checkpoint",
        rows.select("checkpoint", "figure", "value", "low", "high", "n"), "Every figure as a table",
        circuit_export.camera(f"{of.name}-competence"),
    )  # fmt: skip
    frame.caption(
        "Right choices between target and foil, on both prompts of a pair, with 95 % intervals over pairs (n "
        f"counts pairs). {CHANCE}: who guesses; {KNOWN}: who knows half of the answers, which is asked for."
    )


def chosen_rightly(rows: pl.DataFrame) -> go.Figure:
    """`told_apart` of each checkpoint between the lines of chance and of what is asked for."""
    names = rows["checkpoint"].to_list()
    made = charts.dots_with_intervals(
        rows.with_columns(row=pl.col("checkpoint")), "row", "checkpoint", "value", theme.colours(names),
        theme.symbols(names), "share of right choices", False,
    )  # fmt: skip
    _one_a_row(made, names)
    for at, what in ((CHANCE, "chance"), (KNOWN, "asked for")):
        made.add_vline(
            x=at, line={"color": theme.palette().muted, "dash": "dot", "width": 1.5}, annotation_text=what,
            annotation_position="top",
        )  # fmt: skip
    made.update_xaxes(range=[0, 1.02])
    return made


def _one_a_row(made: go.Figure, names: list[str]) -> None:
    """Each series has a row of its own: no room is needed for the others."""
    made.update_layout(showlegend=False, height=100 + 46 * len(names))
    for trace in made.data:
        trace.y = [round(y) for y in trace.y]


def _faithful(of: Of, found: FoundCircuits) -> None:
    controls = found.table("controls")
    own = found.table("transfer").filter(pl.col("source") == pl.col("target"))
    made = kept.picture(beside_controls, own, controls, found.checkpoints, found.able)
    show.chart(
        made, "faithful", "f of each checkpoint's circuit beside random circuits and another task's",
        controls.select("checkpoint", "kind", "draw", "n_edges", "overlap", "f", "low", "high"),
        "The controls as a table", circuit_export.camera(f"{of.name}-controls"),
    )  # fmt: skip
    frame.caption(
        "f = (m of the circuit alone − m of no edge) / (m of the model − m of no edge), on prompts that "
        f"did not find it; faithful: within {WITHIN} of 1 (shaded). Dots: random circuits with its degrees, "
        f"without dead ends (they share {_overlaps(controls)} of its edges). Cross: the circuit of "
        f"{found.config['other'] or 'no other task'}."
    )


def _overlaps(controls: pl.DataFrame) -> str:
    ends = controls.filter(kind=RANDOM).select(low=pl.col("overlap").min(), high=pl.col("overlap").max())
    low, high = ends.row(0)
    return f"{low:.0%} to {high:.0%}"


def beside_controls(own: pl.DataFrame, controls: pl.DataFrame, names: list[str], able: list[str]) -> go.Figure:
    """A row a checkpoint: its circuit's f with its interval, a strip of random circuits, another task's."""
    palette, colours, symbols = theme.palette(), theme.colours(names), theme.symbols(names)
    made = charts.figure(100 + 46 * len(names))
    made.add_vrect(
        x0=1 - WITHIN, x1=1 + WITHIN, fillcolor=palette.line, opacity=0.5, line_width=0, layer="below"
    )
    for at, name in enumerate(names):
        if name not in able:
            made.add_annotation(
                x=0.5, y=at, text="does not do the task: no circuit is claimed", showarrow=False
            )
            continue
        random = controls.filter(checkpoint=name, kind=RANDOM)
        made.add_trace(
            go.Scatter(
                x=random["f"].to_list(), y=[at + 0.22] * len(random), mode="markers", name=RANDOM,
                marker={"color": palette.muted, "size": 7, "opacity": 0.55},
                customdata=random["overlap"].to_list(), cliponaxis=False,
                hovertemplate="random: f = %{x:.3f}, shares %{customdata:.0%} of the edges<extra></extra>",
            )
        )  # fmt: skip
        for rows, symbol, colour, size, y in (
            (controls.filter(checkpoint=name, kind=OTHER_TASK), "x-thin-open", palette.ink, 10, at - 0.2),
            (own.filter(source=name), symbols[name], colours[name], 12, at),
        ):
            made.add_trace(
                go.Scatter(
                    x=rows["f"].to_list(), y=[y] * len(rows), mode="markers", name=name,
                    marker={"color": colour, "symbol": symbol, "size": size, "line": {"width": 2, "color": colour}},
                    error_x=charts.interval(rows, "f", colour, thickness=2, width=5), cliponaxis=False,
                    customdata=rows.select("low", "high", "n_edges").rows(),
                    hovertemplate="f = %{x:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f}), "
                    "%{customdata[2]} edges<extra>" + name + "</extra>",
                )
            )  # fmt: skip
    made.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], showgrid=False,
        fixedrange=True,
    )  # fmt: skip
    made.update_xaxes(title="f, share of the task that the circuit does", rangemode="tozero")
    return made


def _evidence(found: FoundCircuits) -> None:
    """One row a pair: faithfulness there, its gap, what is shared beside the floors, the other task."""
    rows = []
    for before, after, word, *gap in (
        found.table("verdicts").select("before", "after", "verdict", "gap", "low", "high").iter_rows()
    ):
        moved = found.table("transfer").filter(source=before, target=after).select("f", "low", "high").row(0)
        able = {before, after} <= set(found.able)
        row = {"from": before, "to": after, "verdict": word, "f there": bracketed(*moved, 2) if able else "–"}
        row["minus its own"] = bracketed(*gap, 2) if able else "–"
        for measure, called in MEASURES.items():
            one = found.table("overlap").filter(before=before, after=after, measure=measure)
            value, floor, sibling, named = one.select("value", "floor", "sibling", "sibling_name").row(0)
            beside = "" if sibling is None else f"; {named} {sibling:.2f}"
            row[called] = f"{value:.2f} (floor {floor:.2f}{beside})"
        other = (
            found.table("controls").filter(checkpoint=after, kind=OTHER_TASK).select("f", "low", "high").rows()
        )
        row["other task's f"] = bracketed(*other[0], 2) if other and able else "–"
        rows.append(row)
    st.dataframe(pl.DataFrame(rows), key="evidence", hide_index=True)
    frame.caption(
        "f there: the earlier circuit in the later checkpoint. Minus its own: that minus f of the later "
        "one's own circuit, on pairs drawn for both at once. Floor: what 95 % of two drawings of pairs "
        "from one checkpoint have in common at least; sibling: what the stage has in common with itself "
        "from another seed."
    )
