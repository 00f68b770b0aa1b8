"""What patching brings, on the page: recovered KL against the number of latents, what else recovers it, by dose;
links to the latents."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import streamlit as st

from pages.components import frame, kept, patched_figures, show
from workbench.gains import MATCHED_MEANS
from workbench.patching import ATTRIBUTION, EVERY, MATCHED, NONE, TOKENS, beside_controls

if TYPE_CHECKING:
    from workbench.comparison import Comparison
    from workbench.lab import Lab
    from workbench.patching import Patching

SHOWN = 15  # foremost latents


def view(lab: Lab, patching: Patching, comparison: Comparison) -> None:
    """Choice of whose stream goes where, and of tokens; the pictures."""
    if not patching.pairs:
        frame.note(f"There is nothing to patch here: {patching.sentences()[0]}.")
        return
    ways = {
        f"{given}'s stream in {into}": (before, after, into)
        for before, after in patching.pairs
        for given, into in ((before, after), (after, before))
    }
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        said = st.selectbox("Patched", list(ways), key="patched", bind="query-params")
    with right:
        tokens = st.segmented_control(
            "Tokens of answers", TOKENS, default=EVERY, required=True, key="answer-tokens", bind="query-params"
        )
    before, after, into = ways[said]
    frame.note(f"{patching.sentence(before, after, into, tokens)}.")
    _explained(patching, before, after, into)
    if into == after:
        for said_of_control in beside_controls(lab, before, after):
            frame.caption(f"As a null, the {said_of_control}.")
    none = patching.score(before, after, into, NONE, tokens)
    if none is None or none["recovered"] is None:
        frame.caption("On these tokens the two streams make no difference: there is nothing to recover.")
        return
    _sets(patching, (before, after, into), tokens, said)
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("More or less of it", anchor=False)
        _doses(patching, before, after, tokens)
    with right:
        st.subheader("The foremost latents", anchor=False)
        _foremost(lab, patching, comparison, before, after)


def _explained(patching: Patching, before: str, after: str, into: str) -> None:
    given = before if into == after else after
    frame.caption(
        f"{into}'s upper half is given {given}'s stream at {patching.figures['site']}, with what a set of latents "
        f"writes differently in {into}. 0: {into} speaks as it does on {given}'s stream alone; 1: as on its own; "
        f"below 0 the set makes it worse (1 − KL ÷ KL of {given}'s stream) [Minder 2025]. Judged on answers of "
        f"held-out chats ({patching.judged()}); the orders were found on others. First: "
        f"the first {patching.figures['first']} tokens of an answer. {MATCHED_MEANS} Bars are 95 % intervals over "
        "documents."
    )


def _sets(patching: Patching, way: tuple[str, str, str], tokens: str, said: str) -> None:
    left, right = st.columns(2, gap="large")
    baselines = patching.rows(patching.baselines, *way, tokens)
    with left:
        st.subheader("How few latents it takes", anchor=False)
        rows = patching.curves(*way, tokens)
        made = kept.picture(patched_figures.curve, rows, baselines)
        show.chart(made, "patched-curve", f"KL recovered by the first latents, {said}", rows)
        controls = "Norm difference: by the length of what a latent writes differently."
        if MATCHED in rows["order"]:
            controls = (
                "The band: several random sets of latents that fire on chats, with all their intervals. Matched: "
                "to the first by attribution. Shared: latents whose two decoders are equally long."
            )
        frame.caption(controls)
    with right:
        st.subheader("What else brings it", anchor=False)
        rows = patched_figures.told(baselines)
        made = kept.picture(patched_figures.bars, rows)
        show.chart(
            made, "patched-sets", f"KL recovered by latents, error, bias and whole streams, {said}", baselines
        )
        if none := patched_figures.empty(baselines):
            frame.caption(f"No latent is {' or '.join(none)}: there is nothing of these to patch in.")


def _doses(patching: Patching, before: str, after: str, tokens: str) -> None:
    main = patching.main(before, after)
    if main is None:
        frame.caption("No set of latents recovers anything: there is no dose to raise.")
        return
    rows = patching.rows(patching.doses, before, after, after, tokens)
    show.chart(
        kept.picture(patched_figures.doses, rows),
        "patched-doses",
        f"KL recovered by dose of the main set, {after}",
        rows,
    )
    frame.caption(
        f"{before}'s stream in {after}, with more or less of the main set: the first {main.size} by {main.order}, "
        f"the fewest that recovered half of what all latents do on other chats."
    )


def _foremost(lab: Lab, patching: Patching, comparison: Comparison, before: str, after: str) -> None:
    rows = patching.latents.filter(before=before, after=after, order=ATTRIBUTION).head(SHOWN)
    labelled = rows.join(
        comparison.latents.select("latent", "label"), on="latent", how="left", maintain_order="left"
    )
    show.clickable(
        patched_figures.foremost(labelled), "patched-foremost",
        f"latents by their part in what all of them recover, {before} and {after}", labelled, "patched-latent",
    )  # fmt: skip
    chosen = patching.main_latents(before, after)[:24]
    frame.links(
        "The main set, in the Latents view:", [(str(j), address(lab.name, comparison.name, j)) for j in chosen]
    )
    one, other = st.columns([1, 4], vertical_alignment="bottom")
    with one:
        latent = st.number_input(
            "Latent", 0, len(comparison.latents) - 1, labelled["latent"].first() or 0, key="patched-latent"
        )
    with other:
        frame.links("Open:", [(f"latent {latent}", address(lab.name, comparison.name, int(latent)))])


def address(lab: str, comparison: str, latent: int) -> str:
    """Where a comparison shows one latent."""
    about = {"lab": lab, "comparison": comparison, "view": "Latents", "joint": latent}
    return f"compare?{urlencode(about)}"
