"""The lineage tree: which checkpoint came from which, each with its key figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from pages.components import theme, words
from workbench.plan import Plan, Resolved

_component = st.components.v2.component(
    "marble_lineage",
    html='<div class="tree" role="group" aria-label="lineage of the checkpoints"></div>',
    css=theme.source("lineage.css"),
    js=theme.source("dom.js", "lineage.js"),
)
_NGRAMS = ("unigram", "bigram", "trigram")


def tree(plan: Plan, resolved: Sequence[Resolved], running: Mapping[str, Any] | None, lab: str) -> None:
    """Draw every checkpoint of the plan; `running` is the status of the job that grows one of them."""
    found = {r.step.name: r for r in resolved if r.step.kind == "checkpoint"}
    colour = theme.colours(list(found))
    nodes = [_node(plan, r, running, colour[name], lab) for name, r in found.items()]
    _component(key="lineage", data={"nodes": nodes})


def _node(
    plan: Plan, resolved: Resolved, running: Mapping[str, Any] | None, colour: str, lab: str
) -> dict[str, Any]:
    step = resolved.step
    growing = running is not None and running.get("step") == step.key
    state = "done" if resolved.artefact else "growing" if growing else "planned"
    figures = resolved.artefact.figures if resolved.artefact else {}
    return {
        "name": step.name,
        "parent": plan.parent_checkpoint(step.name),
        "depth": _depth(plan, step.name),
        "state": state,
        "colour": colour,
        "line": _line(step.name, step.config, figures, state),
        "figures": _figures(figures.get("metrics") or {}),
        "link": f"trace?{urlencode({'lab': lab, 'a': step.name})}" if resolved.artefact else None,
    }


def _depth(plan: Plan, name: str) -> int:
    parent = plan.parent_checkpoint(name)
    return 0 if parent is None else 1 + _depth(plan, parent)


def _line(name: str, config: Mapping[str, Any], figures: Mapping[str, Any], state: str) -> str:
    parts = [] if config["stage"] == name else [str(config["stage"])]
    if "params" in figures:
        parts.append(f"{words.number(figures['params'])} parameters")
    if steps := figures.get("steps", config.get("steps")):
        parts.append(f"{steps:,} steps")
    if state == "planned":
        parts.append("yet to be grown")
    if state == "growing":
        parts.append("growing now")
    return " · ".join(parts)


def _figures(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of a card; which are drawn as bars, and against what."""
    shown: list[dict[str, Any]] = []
    if "bits_per_byte" in figures:
        value = figures["bits_per_byte"]
        marks = [
            {"value": figures[f"{n}_bits_per_byte"], "label": f"{n} {figures[f'{n}_bits_per_byte']:.2f}"}
            for n in _NGRAMS
            if figures.get(f"{n}_bits_per_byte") is not None
        ]
        widest = max([value, *(m["value"] for m in marks)])
        shown.append(
            {"label": "bits per byte", "text": f"{value:.3f}", "value": value, "max": widest, "marks": marks}
        )
    for task, score in (figures.get("accuracy") or {}).items():
        entry = {"label": words.metric(task), "text": words.interval(score), "value": score["mean"]}
        if worked := (figures.get("elicited") or {}).get(task):
            label = f"made to show its steps {worked['mean']:.2f}"
            entry["marks"] = [{"value": worked["mean"], "label": label}]
        shown.append(entry | {"low": score["low"], "high": score["high"]})
    for name in ("well_formed", "kl_from_parent", "prose_loss"):
        if (value := figures.get(name)) is not None:
            text = words.share(value) if name == "well_formed" else words.number(value)
            shown.append({"label": words.metric(name), "text": text})
    return shown
