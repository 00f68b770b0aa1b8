"""Features: the latents of one dictionary, as a table to sort and search, and one at a time."""

import streamlit as st

from pages.components import frame, latent, latent_table, store, theme

lab = frame.begin(
    "Features", "The latents of a dictionary: where they fire, what they follow, what they promote."
)

with frame.sentences():
    names = store.finished(lab, "features")
    if not names:
        frame.note(
            "No feature table has been finished yet. The Lab page shows how far the lab is; "
            f"`python -m workbench grow {lab.name}` makes what is missing."
        )
        st.stop()
    name = st.selectbox("Dictionary", names, key="dictionary", bind="query-params", width=360)
    table = store.features(lab, name)
    colour = theme.colours(table.checkpoints)[table.checkpoints[0]]
    if len(table.checkpoints) > 1:
        colour = theme.palette().accent
    chosen = latent_table.view(table, colour)
    with st.container(border=True):
        latent.dashboard(store.dashboard(lab, name, chosen), colour, "latent")
