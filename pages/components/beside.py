"""Two latents beside each other: the chosen one, and by default another dictionary's nearest by direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.components import frame, latent, store, words
from pages.components.latent_table import colour_of
from workbench.errors import Misuse
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.features import FeatureTable


def view(lab: Lab, names: list[str], table: FeatureTable, chosen: int) -> None:
    """Choice of the second latent, and both dashboards."""
    second = st.columns(2, gap="large")[1]
    with second:
        other = st.selectbox(
            "Beside it, a latent of", names, names.index(_default(lab, names, table)), key="beside",
            bind="query-params", width=360,
        )  # fmt: skip
        others = store.features(lab, other)
        wanted, best = _which(lab, table, chosen, others)
    for column, shown, number, key in zip(
        st.columns(2, gap="large"), (table, others), (chosen, wanted), ("latent", "beside"), strict=True
    ):
        with column:
            colour = colour_of(shown)
            frame.name_tag(shown.name, colour, best if key == "beside" else "")
            latent.dashboard(store.dashboard(lab, shown.name, number), colour, f"two-{key}")


def _default(lab: Lab, names: list[str], table: FeatureTable) -> str:
    """Another dictionary of as many checkpoints and the same width of stream; else any; else the same one."""
    own = table.dictionary
    others = [store.features(lab, name) for name in names if name != table.name]
    same = [o.name for o in others if o.dictionary.d == own.d]
    alike = [o.name for o in others if o.name in same and len(o.checkpoints) == len(table.checkpoints)]
    return next(iter([*alike, *same, table.name]))


def _which(lab: Lab, table: FeatureTable, chosen: int, others: FeatureTable) -> tuple[int, str]:
    """The second latent's number, and what the two directions have to do with each other."""
    number = st.number_input(
        "Its latent (empty: the one whose decoder points most nearly the same way)",
        0, others.table.height - 1, None, key="beside_latent", bind="query-params", width=360,
    )  # fmt: skip
    try:
        best, cosines = store.nearest(lab, table.name, chosen, others.name)
    except Misuse as error:  # dictionaries of models of different width: only a number can choose
        frame.note(str(error))
        return int(number or 0), ""
    wanted = best.latent if number is None else int(number)
    said = f"cosine of the two decoders {words.number(float(cosines[wanted]))}"
    if wanted != best.latent:
        said += f" (the nearest is latent {best.latent}, {words.number(best.cosine)})"
    return wanted, said
