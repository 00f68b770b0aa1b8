"""The words of the field that pages use: help texts of columns, and a list that unfolds beside the figures."""

from __future__ import annotations

import html
from collections.abc import Sequence

import streamlit as st

WORDS = {
    "latent": "One direction of a dictionary, also called a feature; it is on (fires) or silent on each token.",
    "density": "Share of held-out tokens on which it fires.",
    "activation": "How strongly it is on, in the units in which the model writes; compare it within one latent.",
    "fires on": "Tokens on which it is strongest, the strongest first.",
    "label": "Made from its texts, without another model: the tokens or the factor that foretell it best.",
    "label r": "Correlation of the label's guess with the activation, on texts that did not choose the label; "
    "in brackets what other latents' labels reach.",
    "label tells texts apart": "Share of texts that the label sorts rightly into those on which the latent fires "
    "and others; guessing gives one half.",
    "factor": "What the generated world knows to be true of each token (a country, a digit, …): the one that the "
    "latent follows best by F1.",
    "F1": "Harmonic mean of precision and recall, at the best threshold: 1 when latent and factor are on together.",
    "average precision": "Mean precision over all thresholds; chance is how often the factor is on.",
    "AUROC": "Chance that it is stronger on a token with the factor than on one without: 0.5 says nothing, 1 all.",
    "promotes": "Tokens whose logits its decoder raises most.",
    "written by": "The part of the model that supplies most of what lifts it on its strongest tokens.",
    "FVU": "Fraction of variance unexplained: 0 when the dictionary gives every activation back.",
    "L0": "Latents on per token.",
    "CE score": "Share of the loss recovered when the dictionary's output replaces the stream: 1 all, 0 as bad as "
    "zeros.",
    "KL(clean ‖ spliced)": "How far predictions move when the dictionary's output replaces the stream, in nats.",
    "shrinkage": "Length of what comes back over the length of what went in.",
    "never fires": "Share of latents silent on all held-out tokens (dead).",
    "candidates": "Units that each pool may choose from: with more to choose from, any pool has a better best one.",
    "crowding": "How near each decoder lies to its nearest neighbour.",
    "m": "logit(target) − logit(foil) behind the prompt's last token: how much the right answer is preferred.",
    "edge": "From a part that writes into the stream (embedding, head, MLP) to one that reads it (a head's q, k or "
    "v, an MLP, the logits).",
    "circuit": "The few edges that do the task when all others carry what they carry on the corrupt prompt.",
    "f": "Share of the task that a circuit does alone: 1 all of it, 0 nothing; it may lie outside these.",
    "CPR": "Circuit performance ratio: the area under f as edges are let in, those that help most first; 1 and "
    "more is best.",
    "CMD": "Circuit-model distance: the area between f and 1 as edges are let in, by |score|. 0 is best.",
    "Jaccard": "What two circuits share over what either has: 1 the same, 0 nothing in common.",
    "direct logits": "What a part writes straight into m at the last token, not through later parts.",
}
FEATURES = (
    "latent", "density", "activation", "label", "label r", "label tells texts apart", "factor", "F1", "AUROC",
    "promotes", "written by",
)  # fmt: skip
DICTIONARIES = (
    "FVU", "CE score", "KL(clean ‖ spliced)", "L0", "never fires", "shrinkage", "factor", "candidates", "AUROC",
    "average precision", "F1", "crowding",
)  # fmt: skip
CIRCUITS = ("m", "edge", "circuit", "f", "CPR", "CMD", "Jaccard", "direct logits")


def about(names: Sequence[str]) -> None:
    """The meaning of words, folded away until asked for."""
    with st.expander("What the figures mean"):
        rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(WORDS[name])}</dd>" for name in names)
        st.html(f'<dl class="marble-words">{rows}</dl>')
