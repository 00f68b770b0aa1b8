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
    probes,
    unlike_view,
    views,
)
from pages.components.views import View
from workbench.comparison import Comparison
from workbench.lab import Lab


def samples(lab: Lab, comparison: Comparison) -> None:
    found = compared.samples(lab, comparison.name)
    own_samples.view(found, comparison)
    st.subheader("What carries the KL", anchor=False)
    kl_carriers.view(lab, found, comparison)


def controls(lab: Lab, comparison: Comparison) -> None:
    if (found := compared.controls(lab, comparison.checkpoints)) is not None:
        beside_controls.view(found)
    else:
        tells = "Whether a stage did this, or any training would have, tell its sham and its sibling"
        views.missing(lab, comparison, tells, " --controls")


VIEWS = {
    "Weights": View(
        "Weights",
        lambda lab, comparison: drift_weights.view(
            compared.drift(lab, comparison.name), comparison.checkpoints
        ),
        "drift",
        "How far each matrix moved, and in what way",
    ),
    "Activations": View(
        "Activations",
        lambda lab, comparison: drift_layers.view(compared.drift(lab, comparison.name), comparison.checkpoints),
        "drift",
        "How far the activations of each layer moved",
    ),
    "Probes": View(
        "Probe transfer",
        lambda lab, comparison: probes.view(compared.probe_transfer(lab, comparison.name)),
        "probe_transfer",
        "Whether what can be read off one checkpoint can be read off another by the same probe",
    ),
    "Forgetting": View("What was forgotten", lambda _, comparison: behaviour.forgetting(comparison)),
    "Samples": View("On their own samples", samples, "samples", "What these checkpoints say by themselves"),
    "Text": View("KL in the text itself", kl_text.view),
    "Controls": View("Beside sham and sibling", controls),
}

lab = frame.begin(
    "Drift", "How far each stage moved the weights, the activations and the predictions, and where."
)

with frame.sentences():
    views.page(lab, VIEWS, left_out=unlike_view.left_out(lab, "Drift"))
