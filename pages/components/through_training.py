"""One prompt continued at snapshots of the lineage, from noise to words to sentences; on demand."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from pages.components import asked, frame, theme, trace_store, words
from pages.components.tokens import Strip, Token, running, strips
from workbench.lab import Lab

TOKENS = 32


def view(lab: Lab, question: asked.Question, colour: Mapping[str, str]) -> None:
    """A switch, and below it a text a snapshot, for the last of the checkpoints that are looked at."""
    from workbench.through_training import moments

    st.subheader("Through training", anchor=False)
    if not st.toggle("Continue the text at every stage of training", key="through", bind="query-params"):
        return
    address = question.checkpoints[-1]
    tints = theme.colours(seen := moments(lab, address))
    with st.spinner("Reading the snapshots"):
        said = [_strip(lab, question, moment, tints[moment]) for moment in seen]
    strips(said, colour[address], "through-training")
    frame.caption(
        f"The likeliest token at every step, up to {TOKENS}, from the first snapshot of the lineage to {address}. "
        "Hover a token for its probability: the stronger its tint, the surer the model was."
    )


def _strip(lab: Lab, question: asked.Question, moment: str, tint: str) -> Strip:
    drawn = trace_store.at_moment(lab, moment, question.text, question.chat, TOKENS)
    chances = [words.probability(p) for p in drawn.log_p.tolist()]
    made: list[Token] = running(drawn.tokens, [[f"probability {p}"] for p in chances])
    tokens = [
        Token(**token, value=p, colour=tint)
        for token, p in zip(made, drawn.probabilities.tolist(), strict=True)
    ]
    return Strip(tokens=tokens, head=[words.named(moment), ""], label=f"{moment} continues the text", max=1.0)
