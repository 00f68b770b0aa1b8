"""Drift: how far weights, activations and predictions of checkpoints moved, where, and in what way."""

import streamlit as st

from pages.components import (
    behaviour,
    beside_controls,
    compared,
    drift_layers,
    drift_weights,
    frame,
    kl_carriers,
    kl_text,
    own_samples,
    theme,
    unlike_view,
)

lab = frame.begin(
    "Drift", "How far each stage moved the weights, the activations and the predictions, and where."
)

with frame.sentences():
    apart = compared.taken_apart(lab, "drift")
    if not apart:
        unlike_view.left_out(lab, "Drift")
        frame.note(
            "No comparison has been taken apart yet: "
            f"`python -m workbench compare {lab.name} base sft grpo` does it, in about three minutes."
        )
        st.stop()
    known = [*apart, *unlike_view.left_out(lab, "Drift")]
    frame.doubted("comparison", "comparison", known)
    name = st.selectbox("Comparison", apart, key="comparison", bind="query-params", width=360)
    comparison, drift = compared.comparison(lab, name), compared.drift(lab, name)
    colours = theme.colours(comparison.checkpoints)

    st.header("Weights", anchor=False)
    drift_weights.view(drift, comparison.checkpoints)

    st.header("Activations", anchor=False)
    drift_layers.view(drift, comparison.checkpoints)

    st.header("What was forgotten", anchor=False)
    behaviour.forgetting(comparison)

    told = " ".join(comparison.checkpoints)
    st.header("On their own samples", anchor=False)
    if name in compared.taken_apart(lab, "samples"):
        samples = compared.samples(lab, name)
        own_samples.view(samples, comparison)
        st.subheader("What carries the KL", anchor=False)
        kl_carriers.view(lab, samples, comparison)
    else:
        frame.note(
            "What these checkpoints say by themselves was not sampled yet: "
            f"`python -m workbench compare {lab.name} {told}` does it, in about three minutes."
        )
    st.header("KL in the text itself", anchor=False)
    kl_text.view(lab, comparison)

    st.header("Beside sham and sibling", anchor=False)
    if (controls := compared.controls(lab, comparison.checkpoints)) is not None:
        beside_controls.view(controls)
    else:
        frame.note(
            "Whether a stage did this, or any training would have, tell its sham and its sibling: "
            f"`python -m workbench compare {lab.name} {told} --controls` does it, in about a quarter of an hour."
        )
