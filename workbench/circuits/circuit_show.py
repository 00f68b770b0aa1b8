"""A circuit to look at and to take along: a picture as SVG, HTML for a notebook, JSON.

    FoundCircuits.of(lab, "capitals-base-sft-grpo").circuit("sft").show()

Blue edges help the clean answer, red ones hinder it; q is dotted, k dashed, everything else drawn through.
"""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.circuits.attribution import SIGN
from workbench.circuits.circuit_picture import APART, Line, Place, line, places, read_of, widths
from workbench.circuits.graph import EMBED, LOGITS
from workbench.notebook import BLUE, RED, Shown

if TYPE_CHECKING:
    from workbench.circuits.circuit import Circuit

COLUMN, ROW, MARGIN = 110, 58, 90  # pixels
DASHES = {"q": "2 4", "k": "8 4"}
LISTED = 15  # edges in a notebook


def told(circuit: Circuit) -> dict[str, Any]:
    """For JSON: everything that makes the circuit, the largest |score| first."""
    graph = circuit.graph
    edges = [{"sender": s, "receiver": r, "score": score} for s, r, score in circuit.named_edges()]
    about = {"task": circuit.task, "checkpoint": circuit.checkpoint, "sign": SIGN, "graph": graph.told()}
    return {**about, "n_edges": circuit.n_edges, "share": circuit.share, "nodes": circuit.nodes, "edges": edges}


def as_json(circuit: Circuit) -> str:
    """`told`, as a file."""
    return json.dumps(told(circuit), indent=1, ensure_ascii=False)


def svg(circuit: Circuit) -> str:
    """The picture, without a script; text and frames take the colour of what stands around it."""
    where = places(circuit.graph)
    width = round(max(place.x for place in where.values()) * COLUMN) + 2 * MARGIN
    height = round((where[LOGITS].y - where[EMBED].y) * ROW) + 2 * MARGIN
    edges = circuit.named_edges()
    wide = widths(np.array([score for *_, score in edges]))
    strokes = [
        _stroke(line(circuit.graph, where, sender, receiver), height, f"{sender}->{receiver}", score, int(w))
        for (sender, receiver, score), w in sorted(zip(edges, wide, strict=True), key=lambda each: int(each[1]))
    ]
    named = set(circuit.nodes)
    boxes = [_box(place, height, place.name in named) for place in where.values()]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="13">'
        f"<title>{html.escape(f'{circuit.task} in {circuit.checkpoint}')}</title>{''.join(strokes + boxes)}</svg>"
    )


def show_circuit(circuit: Circuit) -> Shown:
    """Picture, convention, and the strongest edges."""
    head = f"{circuit.task} in {circuit.checkpoint}: {circuit.n_edges} of {circuit.graph.n_edges} edges"
    listed = circuit.named_edges()[:LISTED]
    rows = "".join(
        f"<tr><td>{html.escape(s)}</td><td>{html.escape(r)}</td><td>{score:+.3f}</td></tr>"
        for s, r, score in listed
    )
    table = f"<table><tr><th>from</th><th>to</th><th>score</th></tr>{rows}</table>"
    more = "" if len(listed) == circuit.n_edges else f"<p>The {len(listed)} strongest of {circuit.n_edges}.</p>"
    text = "\n".join([head, SIGN, *(f"{s} -> {r}  {score:+.3f}" for s, r, score in listed)])
    title = f"<h3>{html.escape(head)}</h3><p>{html.escape(SIGN)}; blue helps, red hinders</p>"
    return Shown(f"{title}{svg(circuit)}{table}{more}", text)


def _at(x: float, y: float, height: int) -> tuple[float, float]:
    return MARGIN + x * COLUMN, height - MARGIN - (y + APART) * ROW


def _stroke(way: Line, height: int, name: str, score: float, width: int) -> str:
    points = " ".join(
        "{:.1f},{:.1f}".format(*_at(float(x), float(y), height)) for x, y in zip(way.x, way.y, strict=True)
    )
    dash = DASHES.get(read_of(name))
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<polyline points="{points}" fill="none" stroke="rgb({BLUE if score < 0 else RED})" '
        f'stroke-width="{0.7 * width:.1f}" stroke-opacity="0.8"{dashed}>'
        f"<title>{html.escape(name)}: {score:+.4f}</title></polyline>"
    )


def _box(place: Place, height: int, used: bool) -> str:
    x, y = _at(place.x, place.y, height)
    half = 36 if place.kind in (EMBED, LOGITS) else 24
    return (
        f'<g opacity="{1 if used else 0.35}"><rect x="{x - half:.1f}" y="{y - 15:.1f}" width="{2 * half}" '
        f'height="30" rx="5" fill="rgb(128, 128, 128)" fill-opacity="0.25" stroke="currentColor"/>'
        f'<text x="{x:.1f}" y="{y + 4.5:.1f}" text-anchor="middle" fill="currentColor">{html.escape(place.name)}'
        "</text></g>"
    )
