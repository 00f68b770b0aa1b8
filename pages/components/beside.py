"""Up to three latents beside each other: the chosen one, and by default its match in the dictionaries of the other
checkpoints, with the figures of the match. All of it is in the address."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from pages.components import frame, latent, store, words
from pages.components.latent_table import colour_of
from pages.components.words import NONE
from workbench.errors import Misuse
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.feature_match import Match
    from workbench.features import FeatureTable

PLACES = {"beside": "Beside it, a latent of", "third": "And one of"}  # widget and its label


class Shown(NamedTuple):
    """A latent of a table, what it has to do with the first, and the widget that chooses it."""

    table: FeatureTable
    latent: int
    said: str
    chooser: str


def view(lab: Lab, names: list[str], table: FeatureTable, chosen: int) -> None:
    """Choice of the others, and all dashboards."""
    from workbench.feature_match import twins

    tables = [store.features(lab, name) for name in names]
    alike = [t.name for t in twins(tables, table)][: len(PLACES)]
    others = [t.name for t in tables if t.name not in (table.name, *alike)]
    near = [t for t in others if store.features(lab, t).dictionary.d_out == table.dictionary.d_out]
    # the twins of the other checkpoints fill both places; a dictionary of another kind only the first
    defaults = [next(iter([*alike, *near, table.name])), alike[1] if len(alike) > 1 else NONE]
    frame.caption(
        "Left empty, a latent is the best match: the largest mean of the cosine of the two decoders and the "
        "correlation of the two activations on the same held-out tokens."
    )
    shown = [Shown(table, chosen, "", "latent")]
    for column, place, default in zip(st.columns(3, gap="large")[1:], PLACES, defaults, strict=True):
        with column:
            if (found := _other(lab, names, table, chosen, place, default)) is not None:
                shown.append(found)
    for column, each in zip(st.columns(len(shown), gap="large"), shown, strict=True):
        with column:
            colour = colour_of(each.table)
            frame.name_tag(each.table.name, colour, each.said)
            drawn = store.dashboard(lab, each.table.name, each.latent)
            latent.dashboard(drawn, colour, f"two-{each.chooser}", each.chooser, narrow=True)


def _other(
    lab: Lab, names: list[str], table: FeatureTable, chosen: int, place: str, default: str
) -> Shown | None:
    """The controls of one more column; None where it is to stay empty."""
    choices = names if place == "beside" else [NONE, *names]
    name = st.selectbox(PLACES[place], choices, choices.index(default), key=place, bind="query-params")
    if name == NONE:
        return None
    other = store.features(lab, str(name))
    number = st.number_input(
        "Its latent (empty: the best match)", 0, other.table.height - 1, None, key=f"{place}_latent",
        bind="query-params",
    )  # fmt: skip
    wanted, said = _which(lab, table, chosen, other, number)
    return Shown(other, wanted, said, f"{place}_latent")


def _which(
    lab: Lab, table: FeatureTable, chosen: int, other: FeatureTable, number: int | None
) -> tuple[int, str]:
    """The other latent's number, and what the two have to do with each other."""
    try:
        found = store.matches(lab, table.name, chosen, other.name)
    except Misuse as error:  # nothing to compare by: only a number can choose
        frame.note(str(error))
        return int(number or 0), ""
    best = found.best(but=chosen if other.name == table.name else None)
    own = best if number is None else found.of(int(number))
    said = _figures(own)
    if own.latent != best.latent:
        said += f"; the best match is latent {best.latent} ({words.number(best.score)})"
    return own.latent, said


def _figures(match: Match) -> str:
    """A match in words."""
    parts = [
        f"{what} {words.number(value)}"
        for what, value in (("cosine", match.cosine), ("correlation", match.correlation))
        if value is not None
    ]
    return f"match {words.number(match.score)}: {', '.join(parts)}"
