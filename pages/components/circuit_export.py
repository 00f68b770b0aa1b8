"""What can be taken along from the Circuits page: JSON, SVG, and the camera of every picture."""

from __future__ import annotations

from typing import Any

import streamlit as st

from pages.components import circuit_store, frame, show
from pages.components.circuit_store import Of

FORMS = ("PNG", "SVG")  # of a camera
JSON, SVG = "application/json", "image/svg+xml"
_DRAWN = "pictures-drawn"


def camera(name: str) -> dict[str, Any]:
    """Plotly's settings, with a camera that saves in the form chosen, twice as large, under a name that tells."""
    form = str(st.session_state.get("camera") or st.query_params.get("camera", FORMS[0]))
    form = form if form in FORMS else FORMS[0]
    st.session_state[_DRAWN] = True
    return show.CONFIG | {"toImageButtonOptions": {"format": form.lower(), "scale": 2, "filename": name}}


def nothing_drawn() -> None:
    """A view begins: no picture is there yet."""
    st.session_state[_DRAWN] = False


def form() -> None:
    """What the camera of every picture saves, where there is a picture."""
    if not st.session_state.get(_DRAWN):
        return
    frame.doubted("camera", "form of a picture", FORMS)
    st.segmented_control(
        "The camera above a picture saves", FORMS, default=FORMS[0], required=True, key="camera",
        bind="query-params",
    )  # fmt: skip


def buttons(of: Of, checkpoint: str) -> None:
    """One checkpoint's circuit as files, made on a click."""
    from workbench.circuits.circuit_show import as_json, svg

    stem = f"{of.name}-{checkpoint}"
    with st.container(horizontal=True):
        st.download_button(
            "This circuit as JSON", lambda: as_json(circuit_store.circuit(of, checkpoint)), f"{stem}.json", JSON,
            key="circuit-json", on_click="ignore", type="tertiary",
        )  # fmt: skip
        st.download_button(
            "Its picture as SVG", lambda: svg(circuit_store.circuit(of, checkpoint)), f"{stem}.svg", SVG,
            key="circuit-svg", on_click="ignore", type="tertiary",
        )  # fmt: skip
