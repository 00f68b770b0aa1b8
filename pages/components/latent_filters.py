"""What the table of latents is asked for: a search, filters, an order; all of it in the address of the page."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import polars as pl
import streamlit as st

from pages.components import frame, store
from workbench import feature_query as fq
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.features import FeatureTable

FIRES_ON = "what fires on this text"
PLACES = {
    "anywhere": fq.EVERYWHERE,
    "texts it fires on": fq.EXAMPLES,
    "its factor": fq.FACTOR,
    "what it promotes": fq.PROMOTED,
    "its label": fq.LABEL,
}
SHARES = {
    "0": 0.0, "0.001 %": 1e-5, "0.01 %": 1e-4, "0.1 %": 1e-3, "1 %": 0.01, "10 %": 0.1, "100 %": 1.0,
}  # fmt: skip
ANY, CHANGE = "any", "largest change"
BOTH = "alive and dead"
STARRED, LABELLED = "starred", "labelled by a person"


@dataclasses.dataclass(frozen=True)
class Asked:
    """The query and, where it asks for what fires on a text, that text."""

    query: fq.Query
    text: str
    reads: str

    @property
    def narrows(self) -> bool:
        """It leaves latents out."""
        return bool(self.text) or dataclasses.replace(self.query, order=fq.BEST_MATCH) != fq.Query()

    def fires_on(self, lab: Lab, table: FeatureTable) -> pl.DataFrame | None:
        """Latents that fire on the text, strongest first; None where that is not asked."""
        return store.fires_on(lab, table.name, self.reads) if self.reads else None


def view(table: FeatureTable) -> Asked:
    """The controls and what they say."""
    text = st.text_input("Search", "", key="find", bind="query-params", placeholder="a word, a factor, a text")
    labelled = "label" in table.table.columns
    place = st.segmented_control(
        "Search in",
        [*(p for p in PLACES if labelled or PLACES[p] != fq.LABEL), FIRES_ON],
        default="anywhere",
        required=True,
        key="where",
        bind="query-params",
        label_visibility="collapsed",
        wrap=True,
    )
    left, right = st.columns([3, 2], gap="medium", vertical_alignment="center")
    with left:
        narrowed = st.toggle("Filters", key="filters", bind="query-params")
    with right:
        order = st.selectbox(
            "Order of all latents", [fq.BEST_MATCH, *fq.ORDERS], key="order", bind="query-params",
            help="A click on a column's heading orders by it, too; a second click turns the order round.",
        )  # fmt: skip
    filters = _filters(table) if narrowed else fq.Query()
    if order == CHANGE and filters.change is None:
        frame.caption(
            "To order by change, choose a change of density among the filters: from which checkpoint to which."
        )
        order = fq.BEST_MATCH
    filters = dataclasses.replace(filters, order=str(order))
    reads = text if place == FIRES_ON else ""
    query = dataclasses.replace(filters, text="" if reads else text, place=PLACES.get(place, fq.EVERYWHERE))
    return Asked(query, text, reads)


def _filters(table: FeatureTable) -> fq.Query:
    left, right = st.columns(2, gap="medium")
    with left:
        low, high = st.select_slider(
            "Share of tokens it fires on", list(SHARES), ("0", "100 %"), key="density", bind="query-params"
        )
        factor = st.text_input("Factor contains", "", key="factor", bind="query-params", placeholder="animal")
        auroc = st.slider("AUROC for it at least", 0.0, 1.0, 0.0, 0.01, key="auroc", bind="query-params")
    with right:
        alive = st.segmented_control(
            "Fires at all",
            [BOTH, fq.ALIVE, fq.DEAD],
            default=BOTH,
            required=True,
            key="alive",
            bind="query-params",
        )
        pairs = {f"{a} → {b}": (a, b) for a, b in itertools.permutations(fq.checkpoints(table.table), 2)}
        change = st.selectbox(
            "Change of density", [ANY, *pairs], key="change", bind="query-params",
            help="How much more often it fires in the second checkpoint than in the first.",
        )  # fmt: skip
        at_least = 2.0
        if change in pairs:
            at_least = st.number_input(
                "At least times", 0.0, None, at_least, 0.5, key="by", bind="query-params"
            )
    told = st.pills(
        "Said by people", [STARRED, LABELLED], selection_mode="multi", key="told", bind="query-params"
    )
    return fq.Query(
        density=(SHARES[low], SHARES[high]),
        factor=factor.strip(),
        auroc=float(auroc),
        alive=None if alive == BOTH else alive,
        change=pairs.get(change),
        at_least=float(at_least) if change in pairs else 1.0,
        starred=STARRED in told,
        labelled=LABELLED in told,
    )
