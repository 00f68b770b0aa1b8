"""Drift: how far weights, activations and predictions of checkpoints moved, where, and in what way."""

import streamlit as st

from pages.components import behaviour, drift_layers, drift_weights, frame, store, theme

lab = frame.begin(
    "Drift", "How far each stage moved the weights, the activations and the predictions, and where."
)

with frame.sentences():
    apart = store.taken_apart(lab)
    if not apart:
        frame.note(
            "No comparison has been taken apart yet: "
            f"`python -m workbench compare {lab.name} base sft grpo` does it, in about a minute."
        )
        st.stop()
    frame.doubted("comparison", "comparison", apart)
    name = st.selectbox("Comparison", apart, key="comparison", bind="query-params", width=360)
    comparison, drift = store.comparison(lab, name), store.drift(lab, name)
    colours = theme.colours(comparison.checkpoints)

    st.header("Weights", anchor=False)
    drift_weights.view(drift, comparison.checkpoints)

    st.header("Activations", anchor=False)
    drift_layers.view(drift, comparison.checkpoints)

    st.header("What was forgotten", anchor=False)
    behaviour.forgetting(comparison)
