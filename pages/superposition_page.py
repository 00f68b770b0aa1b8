"""Superposition: a toy model trained before one's eyes, then the same questions put to this lab's models."""

import streamlit as st

from pages.components import crowding, frame, toy_controls, toy_runs, toy_views

lab = frame.begin(
    "Superposition", "More features than dimensions: a toy model that does it, and whether this model does."
)

with frame.sentences():
    st.header("A toy model", anchor=False)
    frame.caption(
        "n sparse features are squeezed into m dimensions and read back: h = Wx, x̂ = ReLU(Wᵀh + b). It is "
        "trained here, now, from several seeds at once; the one with the least loss is shown."
    )
    config = toy_controls.chosen()
    geometry = st.container()
    st.header("What a dictionary finds in it", anchor=False)
    found = st.container()
    st.header("Sparsity and shape", anchor=False)
    swept = st.container()
    st.header("When a feature is worth a place", anchor=False)
    phases = st.container()
    # Stored figures are read before anything is trained, so that they need not wait for it.
    st.header("This model", anchor=False)
    with frame.sentences():
        crowding.view(lab)

    # What one section cannot show (a toy that holds nothing has nothing to recover) costs no other section.
    with geometry:
        toy = toy_runs.trained(config, toy_views.geometry)
        toy_views.held(toy)
    with found, frame.sentences():
        toy_views.recovered(toy_runs.recovered(config, toy))
    with swept, frame.sentences():
        toy_views.swept(toy_runs.swept(config))
    with phases, frame.sentences():
        toy_views.phases(toy_runs.phases())
