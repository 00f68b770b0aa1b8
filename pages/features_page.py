"""Features: the latents of one dictionary, as a table to filter, search and sort, and one at a time."""

import streamlit as st

from pages.components import (
    beside,
    export,
    frame,
    glossary,
    latent,
    latent_densities,
    latent_map,
    latent_table,
    steer,
    store,
)

DASHBOARD, BESIDE, MAP, STEER = "Dashboard", "Side by side", "Map", "Steer"

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
    frame.doubted("dictionary", "feature table", names)
    name = st.selectbox("Dictionary", names, key="dictionary", bind="query-params", width=360)
    table = store.features(lab, name)
    colour = latent_table.colour_of(table)
    with st.container(key="overview"):
        left, right = st.columns([2, 1], gap="large")
    with left:
        chosen, text = latent_table.view(lab, table)
    glossary.about(glossary.FEATURES)
    view = st.segmented_control(
        "View",
        [DASHBOARD, BESIDE, MAP, STEER],
        default=DASHBOARD,
        required=True,
        key="view",
        bind="query-params",
        label_visibility="collapsed",
    )
    with st.container(border=True), frame.sentences():
        if view == BESIDE:
            beside.view(lab, names, table, chosen)
        elif view == STEER:
            steer.view(lab, table, chosen)
        else:
            if view == MAP:
                latent_map.view(lab, table, chosen)
            found = store.dashboard(lab, name, chosen)
            if text:
                latent.on_text(*store.on_text(lab, name, chosen, text), found, colour)
            latent.dashboard(found, colour, "latent")
            export.latent(name, found)
    with right:  # last: nothing waits for the picture of all latents
        latent_densities.view(table, chosen, colour)
