"""Compare: checkpoints laid side by side through one crosscoder, and by what they predict."""

import streamlit as st

from pages.components import behaviour, compared, frame, latent, life_lines, shares, specific, store, theme

lab = frame.begin(
    "Compare", "What checkpoints share, what only one of them has, and how their predictions part."
)

with frame.sentences():
    names = store.finished(lab, "comparison")
    if not names:
        frame.note(
            "No comparison has been finished yet: it comes last, after the crosscoder. "
            f"The Lab page shows how far {lab.name} is; "
            f"`python -m workbench compare {lab.name} NAME NAME` adds one."
        )
        st.stop()
    name = st.selectbox("Comparison", names, key="comparison", bind="query-params", width=360)
    comparison = compared.comparison(lab, name)
    colours = theme.colours(comparison.checkpoints)

    st.header("Shared and exclusive latents", anchor=False)
    chosen = shares.view(comparison)
    with st.container(border=True):
        found = store.dashboard(lab, comparison.dictionary, chosen)
        latent.side_by_side(found, shares.cosines(comparison, chosen), colours, "joint")

    st.header("Exclusive, or only shrunk away?", anchor=False)
    if name in compared.taken_apart(lab, "scaling"):
        specific.view(compared.specificity(lab, name), chosen)
    else:
        told = " ".join(comparison.checkpoints)
        frame.note(
            "Norms alone call some latents exclusive that are not: "
            f"`python -m workbench compare {lab.name} {told}` asks the activations."
        )

    st.header("Life lines", anchor=False)
    if name in compared.taken_apart(lab, "lives"):
        life_lines.view(compared.lives(lab, name), comparison, chosen)
    else:
        told = " ".join(comparison.checkpoints)
        frame.note(
            "When each latent came, turned and went, the snapshots of the stages tell: "
            f"`python -m workbench compare {lab.name} {told}` asks them."
        )

    st.header("How predictions part", anchor=False)
    behaviour.kl(comparison)
    st.header("Loss by domain", anchor=False)
    behaviour.loss(comparison)
