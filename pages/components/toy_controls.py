"""What the toy model is: its settings, bound to the address of the page, and known cases to begin with."""

from __future__ import annotations

import streamlit as st

from saes.toy_model import ToyConfig

DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
PRESETS = {
    "2 in 1: antipodal pair": (2, 1),
    "5 in 2: pentagon": (5, 2),
    "6 in 3: octahedron": (6, 3),
    "20 in 5": (20, 5),
}
DENSITY, DECAY, SEEDS = 0.05, 1.0, 16


def chosen() -> ToyConfig:
    """The controls; a preset sets the others."""
    st.pills("Known cases", list(PRESETS), key="toy_case", on_change=_take, label_visibility="collapsed")
    n, m, density, decay, seeds = st.columns(5, gap="medium")
    with n:
        features = st.number_input("Features n", 1, 40, 5, key="n", bind="query-params")
    with m:
        hidden = st.number_input("Dimensions m", 1, 12, 2, key="m", bind="query-params")
    with density:
        share = st.select_slider(
            "Density",
            DENSITIES,
            DENSITY,
            key="density",
            bind="query-params",
            help="How often each feature is on.",
        )
    with decay:
        kept = st.slider(
            "Importance kept",
            0.5,
            1.0,
            DECAY,
            0.05,
            key="decay",
            bind="query-params",
            help="From one feature to the next; at 1 all matter equally.",
        )
    with seeds:
        tried = st.number_input("Seeds", 1, 16, SEEDS, key="seeds", bind="query-params")
    return ToyConfig(int(features), int(hidden), float(share), float(kept), n_seeds=int(tried))


def _take() -> None:
    case = st.session_state["toy_case"]
    if case is None:
        return
    st.session_state["n"], st.session_state["m"] = PRESETS[case]
    st.session_state["density"], st.session_state["decay"] = DENSITY, DECAY
