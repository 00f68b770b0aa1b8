"""Dictionaries: how good each is beside its controls, how stable between seeds, and what sweeps found."""

import streamlit as st

from pages.components import frame, glossary, ground_truth, quality, store, sweeps

lab = frame.begin(
    "Dictionaries", "How much of a model each dictionary keeps, and how much of that a control keeps too."
)

with frame.sentences():
    judged = store.qualities(lab)
    glossary.about(glossary.DICTIONARIES)

    st.header("Beside their controls", anchor=False)
    if judged:
        quality.overview(judged)
        frame.doubted("dictionary", "judged dictionary", list(judged))
        name = st.selectbox("Dictionary", list(judged), key="dictionary", bind="query-params", width=360)
        chosen = judged[name]
        quality.figures(chosen)
    else:
        frame.note(
            f"No dictionary has been judged yet: `python -m workbench evaluate {lab.name}` judges all of them, "
            f"`python -m workbench evaluate {lab.name} NAME` one."
        )

    st.header("Against the world's factors", anchor=False)
    if truths := store.truths(lab):
        truth = st.selectbox("Held to the factors", list(truths), key="truth", bind="query-params", width=360)
        ground_truth.view(truths[truth])
    else:
        frame.note(
            "No dictionary has been held to the world's factors yet: "
            f"`python -m workbench evaluate {lab.name} NAME` does it."
        )

    st.header("Crowding", anchor=False)
    if judged:
        quality.crowding(chosen)
    else:
        frame.caption("How near decoders lie to each other comes with the same command.")

    st.header("Stability between seeds", anchor=False)
    if judged:
        quality.stability(chosen)
    else:
        frame.caption("So does what the same training finds from other starting weights.")

    st.header("Sweeps", anchor=False)
    sweeps.view(lab)
