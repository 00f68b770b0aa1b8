"""What a person says of a latent: a star and a label of their own, kept in the lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.components import frame
from workbench.annotations import MAX_LENGTH
from workbench.errors import MarbleError

if TYPE_CHECKING:
    from workbench.dashboard import Dashboard


def editor(found: Dashboard, key: str) -> None:
    """A star to switch and a label to write; an empty label brings ours back. What is refused is said below."""
    latent, annotations = found.latent, found.annotations
    present = annotations[latent]
    place = f"{key}-{latent}"
    refused = f"{place}-refused"

    def keep() -> None:
        st.session_state.pop(refused, None)
        try:
            annotations.set_label(latent, st.session_state[f"{place}-label"])
        except MarbleError as error:
            st.session_state[refused] = str(error)

    def star() -> None:
        st.session_state.pop(refused, None)
        try:
            annotations.set_star(latent, bool(st.session_state[f"{place}-star"]))
        except MarbleError as error:
            st.session_state[refused] = str(error)

    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.toggle("Star", present.star, key=f"{place}-star", on_change=star, width="content")
        st.text_input(
            "Your label",
            present.label or "",
            key=f"{place}-label",
            on_change=keep,
            max_chars=MAX_LENGTH,
            placeholder=found.row["label"] or "what does it stand for?",
        )
    if refused in st.session_state:
        frame.note(st.session_state[refused], error=True)
