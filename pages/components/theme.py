"""Colours and shapes: one per checkpoint, the same on every page, in light and in dark.

The three stages keep Paul Tol's high-contrast trio (blue, yellow, red), which stays apart under every
common colour blindness and in grey; each also has a shape, so no reading hangs on colour alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

SYMBOLS = {"base": "circle", "sft": "square", "grpo": "diamond"}
_OTHER_SYMBOLS = ("triangle-up", "cross", "star", "hexagon")
HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Palette:
    """The colours of one theme that charts need beyond what Streamlit gives them."""

    ink: str
    muted: str
    line: str
    panel: str
    page: str
    accent: str
    alarm: str
    tint: str  # of a full cell of a map: ink stays readable on it
    helps: str  # what works for an answer, and what against it: blue and red that colour-blind eyes tell apart
    hinders: str
    stages: dict[str, str]
    others: tuple[str, ...]


LIGHT = Palette(
    ink="#26282b",
    muted="#6c6e70",
    line="#dfdbd3",
    panel="#f2f0eb",
    page="#fbfaf7",
    accent="#35596e",
    alarm="#a8323f",
    tint="#8fb3c7",
    helps="#2166ac",
    hinders="#c0392b",
    stages={"base": "#2f6690", "sft": "#b97f12", "grpo": "#b1445a"},
    others=("#3e8e7e", "#7a5ba6", "#6f7b3a", "#5f6b76"),
)
DARK = Palette(
    ink="#e8e5de",
    muted="#a4a6a8",
    line="#363a40",
    panel="#1e2125",
    page="#15171a",
    accent="#9fc0d3",
    alarm="#f0909a",
    tint="#3d6c88",
    helps="#67a9cf",
    hinders="#ef8a62",
    stages={"base": "#78b0dc", "sft": "#e5bc62", "grpo": "#ee8ea0"},
    others=("#7fcab9", "#b79bdd", "#b9c47f", "#a9b4be"),
)


def palette() -> Palette:
    """The palette of the theme that the viewer sees now."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def stage_of(checkpoint: str) -> str:
    """The checkpoint that a snapshot's name belongs to: `sft@128` -> `sft`."""
    return checkpoint.split("@", 1)[0]


def colours(checkpoints: Sequence[str]) -> dict[str, str]:
    """A colour for each checkpoint (snapshots share their stage's), in the present theme."""
    chosen = palette()
    added = dict.fromkeys(s for c in checkpoints if (s := stage_of(c)) not in chosen.stages)
    other = {name: chosen.others[i % len(chosen.others)] for i, name in enumerate(added)}
    return {c: (chosen.stages | other)[stage_of(c)] for c in checkpoints}


def symbols(checkpoints: Sequence[str]) -> dict[str, str]:
    """A plotly marker symbol for each checkpoint."""
    added = dict.fromkeys(s for c in checkpoints if (s := stage_of(c)) not in SYMBOLS)
    other = {name: _OTHER_SYMBOLS[i % len(_OTHER_SYMBOLS)] for i, name in enumerate(added)}
    return {c: (SYMBOLS | other)[stage_of(c)] for c in checkpoints}


def source(*names: str) -> str:
    """Text of files beside this module (a style sheet, a component's script after what it shares with others)."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)
