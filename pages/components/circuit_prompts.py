"""The Prompts view: pairs as tokens, the clean prompt above the corrupt one, what differs marked."""

from __future__ import annotations

import polars as pl
import streamlit as st

from pages.components import circuit_store, frame, show, theme, tokens
from pages.components.circuit_store import Of
from workbench.lab import Lab

PAGE = 10  # pairs
USES = {"search": "that found the circuit", "judge": "that judged it"}


def view(lab: Lab, of: Of) -> None:
    """Choice of the half and of a page of it; the pairs."""
    found = circuit_store.found(of)
    left, right = st.columns([1, 1], vertical_alignment="bottom", gap="large")
    with left:
        use = str(
            st.segmented_control(
                "Pairs", list(USES), default="search", required=True, key="use", bind="query-params",
                format_func=lambda each: USES[each],
            )
        )  # fmt: skip
    texts = circuit_store.texts(of, use)
    pages = -(-len(texts) // PAGE)
    with right:
        page = int(
            st.number_input(f"Page, of {pages}", 1, pages, 1, key="page", bind="query-params", width=160)
        )
    frame.caption(
        f"{len(texts)} pairs {USES[use]}: clean above corrupt, differing tokens marked. {_apart(of)} Target: the "
        "token that the clean prompt asks for; foil: what the corrupt one does; m = logit(target) − logit(foil), "
        "behind the last token."
    )
    palette = theme.palette()
    strips: list[tokens.Strip] = []
    for number, (clean, corrupt, target, foil) in list(enumerate(texts))[(page - 1) * PAGE : page * PAGE]:
        for said, own, other, answer in (("clean", clean, corrupt, target), ("corrupt", corrupt, clean, foil)):
            colour = palette.helps if said == "clean" else palette.hinders
            what = "target" if said == "clean" else "foil"
            strips.append(
                tokens.Strip(
                    tokens=[
                        tokens.Token(
                            text=tokens.readable(token), special=token.special, value=float(token.id != beside.id),
                            colour=colour, lines=[f"clean {token.shown}, corrupt {beside.shown}"]
                            if said == "clean"
                            else [f"corrupt {token.shown}, clean {beside.shown}"],
                        )
                        for token, beside in zip(own, other, strict=True)
                    ],
                    head=[f"pair {number}, {said}", f"{what}: {answer.shown}"],
                    max=2.0,
                    label=f"pair {number}, {said}",
                )
            )  # fmt: skip
    tokens.strips(strips, palette.accent, "prompts")
    rows = found.table("prompts").filter(use=use)
    show.twin(
        rows.with_row_index("pair").select(pl.all().exclude("use")), "prompts-all", "All of them as a table"
    )


def _apart(of: Of) -> str:
    """What keeps the two halves apart: a task of the workbench asks each about other things."""
    if circuit_store.found(of).config["source"]:
        return "Lines of the file take turns: what they ask about is not kept apart."
    return "No country, sum, word or person that one half asks about is asked about by the other."
