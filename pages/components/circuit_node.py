"""One component: what enters and leaves it; in each checkpoint what it writes, where it looks, on which prompts it
matters; the latents it writes."""

from __future__ import annotations

from urllib.parse import urlencode

import polars as pl
import streamlit as st

from pages.components import (
    circuit_export,
    circuit_store,
    circuit_words,
    frame,
    kept,
    show,
    store,
    theme,
    tokens,
)
from pages.components.circuit_store import Of
from workbench.circuits.circuit import Circuit
from workbench.circuits.circuit_picture import fed_by, writer_name
from workbench.circuits.graph import LOGITS, head_at
from workbench.intervals import bracketed
from workbench.lab import Lab
from workbench.points import RESID_POST

LISTED, PROMPTS, LATENTS = 8, 5, 8


def panel(of: Of, circuit: Circuit, node: str) -> None:
    """Beside the graph: edges of largest |score| into the component and out of it."""
    st.subheader(node, anchor=False)
    rows = circuit_store.found(of).table("edges").filter(checkpoint=circuit.checkpoint)
    inputs = [r.name for r in circuit.graph.receivers if node in fed_by(circuit.graph, r.name)]
    for title, column, part in (
        ("Enters it", "receiver", rows.filter(pl.col("receiver").is_in(inputs))),
        ("Leaves it", "sender", rows.filter(pl.col("sender") == node)),
    ):
        if not len(part):
            continue
        st.markdown(f"**{title}**")
        best = part.sort(pl.col("score").abs(), descending=True).head(LISTED)
        listed = best.select(
            pl.col("sender").alias("from"),
            pl.col("receiver").alias("to"), "score", "low", "high", pl.col("in_circuit").alias("in the circuit"),
        )  # fmt: skip
        st.dataframe(listed, key=f"node-{column}", hide_index=True, height=35 * (len(listed) + 1) + 2)
    n = circuit_store.found(of).figures["n_pairs"]["search"]
    frame.caption(f"Of {circuit.checkpoint}, largest |score| first; 95 % intervals over {n} pairs.")


def beside(lab: Lab, of: Of, name: str, node: str) -> None:
    """Below the graph: the component in each checkpoint. `name` is the one whose prompts are listed."""
    if node == LOGITS:
        frame.caption("The logits write nothing: what enters them is the direct part of every other component.")
        return
    found = circuit_store.found(of)
    st.subheader(f"{node} in each checkpoint", anchor=False)
    best = circuit_store.node(of, name, node).strongest(PROMPTS)
    head, colours = node.startswith("a"), theme.colours(found.checkpoints)
    row = _prompt(of, [row for row, _ in best]) if head else 0
    for column, each in zip(st.columns(len(found.checkpoints), gap="large"), found.checkpoints, strict=True):
        with column:
            frame.name_tag(each, colours[each])
            _figures(of, each, node)
            if head:
                _pattern(of, each, node, row)
    frame.caption(
        "Direct: what it writes straight into m at the last token (direct logit attribution). Whole effect: the "
        "share of m(clean) − m(corrupt) that is lost with its corrupt value in the clean run (noise patching), "
        "through every later component too. 95 % intervals over pairs."
    )
    st.subheader(f"Prompts on which it matters most in {name}", anchor=False)
    _prompts(of, name, node, best)
    _latents(lab, found.checkpoints, node)


def _prompt(of: Of, best: list[int]) -> int:
    """On which of the prompts its attention is shown."""
    rows = {f"{circuit_words.short(of, row)} (pair {row})": row for row in best}
    return rows[str(st.selectbox("Prompt", list(rows), key="prompt", bind="query-params", width=520))]


def _figures(of: Of, checkpoint: str, node: str) -> None:
    direct = circuit_store.direct(of, checkpoint)[writer_name(node)]
    effect = circuit_store.node(of, checkpoint, node).share
    able = checkpoint in circuit_store.found(of).able
    frame.facts(
        [
            ("direct, logits", bracketed(direct.mean, direct.low, direct.high, 2)),
            ("whole effect", bracketed(*map(float, effect), 2) if able else "–, it does not do the task"),
        ]
    )


def _pattern(of: Of, checkpoint: str, node: str, row: int) -> None:
    weights = circuit_store.patterns(of, checkpoint, row)[head_at(node)]
    shown = [token.shown for token in circuit_store.texts(of)[row][0]]
    colour = theme.colours(circuit_store.found(of).checkpoints)[checkpoint]
    made = kept.picture(circuit_words.pattern, weights.tolist(), shown, colour)
    show.chart(
        made, f"pattern-{checkpoint}", f"attention of {node} in {checkpoint}: rows look back at columns",
        circuit_words.looked_at(weights.tolist(), shown),
        config=circuit_export.camera(f"{of.name}-{node}-{checkpoint}"),
    )  # fmt: skip


def _prompts(of: Of, name: str, node: str, best: list[tuple[int, float]]) -> None:
    """The prompts as tokens; a head's are tinted by where the last token looks."""
    head = node.startswith("a")
    strips: list[tokens.Strip] = []
    for row, lost in best:
        clean, _, target, foil = circuit_store.texts(of)[row]
        tint = circuit_words.last_row(of, name, node, row) if head else [0.0] * len(clean)
        said = tokens.running(clean, [[f"{weight:.2f}"] if head else [] for weight in tint])
        strips.append(
            tokens.Strip(
                tokens=[token | {"value": weight} for token, weight in zip(said, tint, strict=True)],
                head=[f"{-lost:+.2f} logits", f"pair {row}: {target.shown}, not {foil.shown}"],
                label=f"pair {row}",
            )
        )
    colour = theme.colours(circuit_store.found(of).checkpoints)[name]
    tokens.strips(strips, colour, "node-prompts")
    frame.caption(
        "What becomes of m on the pair with the component's corrupt value in the clean run."
        + (" Tinted: where the prompt's last token looks." if head else "")
    )


def _address(lab: Lab, dictionary: str, latent: int) -> str:
    return f"features?{urlencode({'lab': lab.name, 'dictionary': dictionary, 'latent': latent})}"


def _latents(lab: Lab, checkpoints: list[str], node: str) -> None:
    """Latents whose strongest tokens the component lifts most, of dictionaries of the stream behind it."""
    from workbench.feature_parts import written_by

    st.subheader("Latents it writes", anchor=False)
    shown = False
    for name in store.finished(lab, "features"):
        table = store.features(lab, name)
        if table.point != RESID_POST or table.minus or not set(table.checkpoints) <= set(checkpoints):
            continue
        best = written_by(table.parts["writers"], writer_name(node), table.checkpoints[-1], LATENTS)
        if not len(best):  # of a component above the dictionary's site nothing is told
            continue
        shown = True
        links = [
            (f"{latent} ({share:.0%})", _address(lab, name, latent))
            for latent, share in best.select("latent", "share").iter_rows()
        ]
        frame.links(f"{name}:", links)
    if shown:
        frame.caption(
            "With the component's share of what lifts the latent on its strongest tokens above its mean, "
            "on held-out text, not on this task's prompts."
        )
    else:
        frame.caption("No dictionary with a feature table reads the stream behind this component.")
