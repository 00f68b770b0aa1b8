"""Training as it went: curves of every stage, and what its snapshots say to one prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from pages.components import charts, frame, growth, show, store, theme, words
from pages.components.tokens import Strip, running, strips
from pages.components.words import named
from workbench.lab import Lab
from workbench.plan import Resolved
from workbench.sampling import Sampling

PER_ROW = 3


def curves(resolved: Sequence[Resolved], running: Mapping[str, Any] | None) -> None:
    """One panel a stage: a metric over its steps. The stage that grows has its live curve further up."""
    growing = running["step"] if running is not None and "step" in running else None
    checkpoints = [r for r in resolved if r.step.kind == "checkpoint" and r.step.key != growing]
    colour = theme.colours([r.step.name for r in checkpoints])
    diets = {r.step.name: r.step.config for r in checkpoints}
    folders = [(r.step.name, r.artefact.path if r.artefact else r.partial) for r in checkpoints]
    known = [
        (name, found) for name, folder in folders if (found := store.metrics(folder)) is not None and len(found)
    ]
    if not known:
        frame.caption("Curves of the stages stand here as soon as the first one has been trained.")
        return
    for start in range(0, len(known), PER_ROW):
        columns = st.columns(PER_ROW, gap="medium")
        for column, (name, metrics) in zip(columns, known[start : start + PER_ROW], strict=False):
            with column:
                frame.name_tag(name, colour[name])
                names = sorted(metrics["name"].unique().to_list())
                first = names.index(growth.main_metric(names))
                chosen = st.selectbox(
                    f"Figure of {name}",
                    names,
                    index=first,
                    key=f"curve-{name}",
                    bind="query-params",
                    format_func=words.metric,
                    label_visibility="collapsed",
                )
                curve = metrics.filter(metrics["name"] == chosen).select("step", "value")
                made = charts.line(curve, "step", "value", colour[name], "step", "")
                show.chart(
                    made, f"curve-{name}-picture", f"{words.metric(chosen)} of {name} over its steps", curve
                )
                if chosen == "loss" and (said := changing_diet(diets[name])):
                    frame.caption(said)


def changing_diet(config: Mapping[str, Any]) -> str:
    """Why a stage's loss rises while it learns, where its share of prose does."""
    first = config.get("prose_first")
    if first is None:
        return ""
    last = 2 * config["prose_share"] - first
    return (
        f"Prose goes from {words.share(first)} of the batches to {words.share(last)}, and it is harder to predict "
        "than the world's documents: this loss goes with it, whatever is learned."
    )


def samples(lab: Lab, resolved: Sequence[Resolved]) -> None:
    """What the snapshots of a stage say to one prompt, from its first step to its last."""
    names = list(dict.fromkeys(theme.stage_of(a) for a in store.addresses(lab) if "@" in a))
    if not names:
        return
    if not st.toggle(
        "Hear the snapshots: one prompt, answered as the stage grew", key="hear", bind="query-params"
    ):
        return
    left, middle, right = st.columns([1, 3, 1], gap="medium", vertical_alignment="bottom")
    with left:
        name = st.selectbox("Stage", names, key="stage", bind="query-params")
    with middle:
        text = st.text_input("Prompt", "The people of the United States", key="say_to", bind="query-params")
    with right:
        chat = st.toggle("In chat form", key="say_chat", bind="query-params")
    colour = theme.colours([name])[name]
    sampling = Sampling(temperature=0.0)
    said = []
    for address in (a for a in store.addresses(lab) if theme.stage_of(a) == name and "@" in a):
        [drawn] = store.continued(lab, address, text, chat, sampling, seed=0, n=1, length=32)
        lines = [[f"probability {words.probability(p)}"] for p in drawn.log_p.tolist()]
        said.append(Strip(tokens=running(drawn.tokens, lines), head=[named(address)], label=address))
    strips(said, colour, "heard")
    frame.caption("The likeliest token at every step (temperature 0), up to 32 tokens.")
