"""Temperature, top-k, top-p, min-p and seed: the stages that draw share them, each bound to the address."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

if TYPE_CHECKING:
    from workbench.sampling import Sampling


class Settings(NamedTuple):
    """How tokens are drawn, and with which seed."""

    sampling: Sampling
    seed: int


def controls() -> Settings:
    """The sliders, in one row."""
    from workbench.sampling import Sampling

    columns = st.columns([3, 3, 3, 3, 2], gap="medium", vertical_alignment="bottom")
    bound = {"bind": "query-params"}
    with columns[0]:
        temperature = st.slider("Temperature (0: greedy)", 0.0, 2.0, 1.0, 0.05, key="temperature", **bound)
    with columns[1]:
        top_k = st.slider("Top-k (0: off)", 0, 100, 0, key="top_k", **bound)
    with columns[2]:
        top_p = st.slider("Top-p (1: off)", 0.05, 1.0, 1.0, 0.05, key="top_p", **bound)
    with columns[3]:
        min_p = st.slider("Min-p (0: off)", 0.0, 0.5, 0.0, 0.01, key="min_p", **bound)
    with columns[4]:
        seed = st.number_input("Seed", 0, 9999, 0, key="seed", **bound)
    return Settings(Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p), int(seed))
