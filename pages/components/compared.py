"""What the pages read of comparisons, kept between runs by the artefacts' ids."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from pages.components import store
from workbench.errors import MarbleError
from workbench.lab import Lab
from workbench.parts import PARTS, part_name
from workbench.plan import Plan

if TYPE_CHECKING:
    from workbench.changed import Changed
    from workbench.comparison import Comparison
    from workbench.controls import Controls
    from workbench.differences import Differences
    from workbench.drift import Drift
    from workbench.gains import Gains
    from workbench.lives import Lives
    from workbench.matching import Matched
    from workbench.patching import Patching
    from workbench.paths import Paths
    from workbench.probe_transfer import ProbeTransfer
    from workbench.samples import Samples
    from workbench.specificity import Specificity
    from workbench.unlike import Unlike
    from workbench.verdict_sheet import Sheet

CONTROLLED = ("drift", "scaling")  # parts that the controls are told by


@st.cache_resource(max_entries=64, show_spinner=False)
def _read(lab_path: str, reader: str, comparison: str, id_: str) -> Any:
    module, _, name = reader.partition(":")
    return getattr(importlib.import_module(module), name).of(Lab(Path(lab_path)), comparison)


def _part(lab: Lab, part: str, reader: str, comparison: str) -> Any:
    return _read(str(lab.path), reader, comparison, lab.find("evaluation", part_name(part, comparison)).id)


def comparison(lab: Lab, name: str) -> Comparison:
    """A finished comparison."""
    return _read(str(lab.path), "workbench.comparison:Comparison", name, lab.find("comparison", name).id)


def taken_apart(lab: Lab, *parts: str) -> list[str]:
    """Finished comparisons whose `parts` are there."""
    done = set(store.finished(lab, "evaluation"))
    return [
        name for name in store.finished(lab, "comparison") if all(part_name(p, name) in done for p in parts)
    ]


def drift(lab: Lab, comparison: str) -> Drift:
    """How weights and activations moved."""
    return _part(lab, "drift", "workbench.drift:Drift", comparison)


def specificity(lab: Lab, comparison: str) -> Specificity:
    """Latent scaling."""
    return _part(lab, "scaling", "workbench.specificity:Specificity", comparison)


def samples(lab: Lab, comparison: str) -> Samples:
    """What the checkpoints say by themselves."""
    return _part(lab, "samples", "workbench.samples:Samples", comparison)


def differences(lab: Lab, comparison: str) -> Differences:
    """The mean differences."""
    return _part(lab, "differences", "workbench.differences:Differences", comparison)


def lives(lab: Lab, comparison: str) -> Lives:
    """Births, deaths and turns along the snapshots."""
    return _part(lab, "lives", "workbench.lives:Lives", comparison)


def changed(lab: Lab, comparison: str) -> Changed:
    """The ranked changes."""
    return _part(lab, "changes", "workbench.changed:Changed", comparison)


def gains(lab: Lab, comparison: str) -> Gains:
    """What carries the gains."""
    return _part(lab, "gains", "workbench.gains:Gains", comparison)


def patching(lab: Lab, comparison: str) -> Patching:
    """What patching one with another's stream and some latents brings."""
    return _part(lab, "patching", "workbench.patching:Patching", comparison)


def probe_transfer(lab: Lab, comparison: str) -> ProbeTransfer:
    """Probes fitted on one checkpoint, scored on another."""
    return _part(lab, "probe_transfer", "workbench.probe_transfer:ProbeTransfer", comparison)


def matched(lab: Lab, comparison: str) -> Matched:
    """Separately trained SAEs, matched."""
    return _part(lab, "matching", "workbench.matching:Matched", comparison)


def walked(lab: Lab, checkpoints: tuple[str, ...]) -> list[Paths]:
    """The finished paths between some checkpoints."""
    from workbench.paths import names_between

    found = names_between(lab, checkpoints)
    return [_read(str(lab.path), "workbench.paths:Paths", n, lab.find("evaluation", n).id) for n in found]


def unlike(lab: Lab, name: str) -> Unlike:
    """What can be compared of checkpoints that cannot be laid side by side token by token."""
    return _read(str(lab.path), "workbench.unlike:Unlike", name, lab.find("evaluation", name).id)


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


@st.cache_resource(max_entries=8, show_spinner=False)
def _sheet(lab_path: str, comparison: str, ids: tuple[str, ...]) -> Sheet:
    from workbench.verdict import sheet

    return sheet(Lab(Path(lab_path)), comparison)


def sheet(lab: Lab, comparison: str) -> Sheet:
    """The verdict sheet, made again when one of the parts that stand behind any comparison is."""
    done = store.finished(lab, "evaluation")
    ids = [lab.find("evaluation", name).id for name in done if name.partition("-")[0] in PARTS]
    return _sheet(str(lab.path), comparison, (lab.find("comparison", comparison).id, *ids))
