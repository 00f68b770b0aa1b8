"""What the pages read of comparisons, kept between runs by the artefacts' ids."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from pages.components import store
from workbench.errors import MarbleError
from workbench.lab import Lab
from workbench.plan import Plan, part_name

if TYPE_CHECKING:
    from workbench.comparison import Comparison
    from workbench.controls import Controls
    from workbench.drift import Drift
    from workbench.lives import Lives
    from workbench.specificity import Specificity

CONTROLLED = ("drift", "scaling")  # parts that the controls are told by


@st.cache_resource(max_entries=8, show_spinner=False)
def _comparison(lab_path: str, name: str, id_: str) -> Comparison:
    from workbench.comparison import Comparison

    return Comparison.of(Lab(Path(lab_path)), name)


def comparison(lab: Lab, name: str) -> Comparison:
    """A finished comparison, kept by the artefact's id."""
    return _comparison(str(lab.path), name, lab.find("comparison", name).id)


def taken_apart(lab: Lab, *parts: str) -> list[str]:
    """Finished comparisons whose `parts` are there."""
    done = set(store.finished(lab, "evaluation"))
    return [
        name for name in store.finished(lab, "comparison") if all(part_name(p, name) in done for p in parts)
    ]


@st.cache_resource(max_entries=8, show_spinner=False)
def _drift(lab_path: str, comparison: str, id_: str) -> Drift:
    from workbench.drift import Drift

    return Drift.of(Lab(Path(lab_path)), comparison)


def drift(lab: Lab, comparison: str) -> Drift:
    """The drift of a comparison that was taken apart, kept by the artefact's id."""
    return _drift(str(lab.path), comparison, lab.find("evaluation", part_name("drift", comparison)).id)


@st.cache_resource(max_entries=8, show_spinner=False)
def _specificity(lab_path: str, comparison: str, id_: str) -> Specificity:
    from workbench.specificity import Specificity

    return Specificity.of(Lab(Path(lab_path)), comparison)


def specificity(lab: Lab, comparison: str) -> Specificity:
    """Latent scaling of a comparison that was taken apart, kept by the artefact's id."""
    return _specificity(str(lab.path), comparison, lab.find("evaluation", part_name("scaling", comparison)).id)


@st.cache_resource(max_entries=8, show_spinner=False)
def _lives(lab_path: str, comparison: str, id_: str) -> Lives:
    from workbench.lives import Lives

    return Lives.of(Lab(Path(lab_path)), comparison)


def lives(lab: Lab, comparison: str) -> Lives:
    """The lives of the latents of a comparison that was taken apart, kept by the artefact's id."""
    return _lives(str(lab.path), comparison, lab.find("evaluation", part_name("lives", comparison)).id)


@st.cache_resource(max_entries=8, show_spinner=False)
def _controls(lab_path: str, checkpoints: tuple[str, ...], ids: tuple[str, ...]) -> Controls:
    from workbench.controls import Controls

    return Controls.of(Lab(Path(lab_path)), checkpoints)


def controls(lab: Lab, checkpoints: tuple[str, ...]) -> Controls | None:
    """The stages among these beside their controls; None where those were not all compared, or there are none."""
    from workbench.controls import comparison_of, pairs_of

    with contextlib.suppress(MarbleError):
        recipe, apart = Plan.of(lab).recipe, taken_apart(lab, *CONTROLLED)
        configs = [comparison_of(recipe, pair) for pair in pairs_of(checkpoints)]
        names = [config.name for config in configs if config is not None]
        if len(names) == len(configs) and set(names) <= set(apart):
            ids = tuple(lab.find("evaluation", part_name(p, name)).id for p in CONTROLLED for name in names)
            return _controls(str(lab.path), checkpoints, ids)
    return None
