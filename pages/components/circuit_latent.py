"""One latent of a feature circuit: its worth, what writes it, what it writes, the texts on which it fires."""

from __future__ import annotations

from urllib.parse import urlencode

import polars as pl
import streamlit as st

from pages.components import circuit_export, circuit_latent_figures, frame, kept, latent, show, store, theme
from workbench.circuits.feature_words import ERROR, node_name
from workbench.circuits.found_feature_circuits import FoundFeatureCircuit
from workbench.intervals import bracketed
from workbench.lab import Lab


def panel(lab: Lab, found: FoundFeatureCircuit, site: str, node: int) -> None:
    """The node that is chosen."""
    label = found.labels.get((site, node), "")
    st.subheader(f"{node_name(node).capitalize()} of {site}", anchor=False)
    if label:
        frame.caption(f"Called {label}.")
    _worth(found, site, node)
    if node == ERROR:
        frame.caption(
            "The error is what the stream holds and the dictionary does not: it has no tokens, no texts and no "
            "one writer. A large one means that the latents tell a part of the story."
        )
        return
    left, right = st.columns(2, gap="large")
    with left:
        _writers(found, site, node)
    with right:
        _writes(found, site, node)
    _texts(lab, found, site, node)


def _worth(found: FoundFeatureCircuit, site: str, node: int) -> None:
    facts = []
    for method in ("IG", "AtP"):
        rows = found.table("nodes").filter(site=site, node=node, method=method).to_dicts()
        facts += [(f"{method}, search pairs", _said(row, "score")) for row in rows]
    exact = found.table("exact").filter(site=site, node=node)
    facts += [(f"alone, {row['pairs']} pairs", _said(row, "effect")) for row in exact.to_dicts()]
    direct = found.table("writes").filter(site=site, node=node).to_dicts()
    facts += [("straight to the logits", _said(row, "direct")) for row in direct]
    frame.facts(facts)
    frame.caption(
        "In logits; below 0 it helps. Alone: m with this latent corrupt at every position less m, measured. "
        "Straight to the logits: what of that passes no later layer, to first order. It was chosen by its IG "
        "score, so that one leans outwards; the judge pairs did not choose it. 95 % intervals over pairs."
    )


def _said(row: dict[str, float], name: str) -> str:
    return f"{bracketed(row[name], row['low'], row['high'])}, n {row['n']}"


def _writers(found: FoundFeatureCircuit, site: str, node: int) -> None:
    st.markdown("**What writes it**")
    rows = found.table("writers").filter(site=site, node=node)
    if not len(rows):
        why = found.figures["sites"][site]["no_writers"] or "it is on nowhere in these prompts"
        frame.caption(f"Nothing is told: {why}.")
        return
    colour = theme.colours([found.checkpoint])[found.checkpoint]
    show.chart(
        kept.picture(circuit_latent_figures.writers, rows, colour), "latent-writers",
        f"what embedding, heads and MLPs add to latent {node} of {site} from clean to corrupt",
        rows.drop("site", "node"), config=circuit_export.camera(f"{found.name}-{node}-writers"),
    )  # fmt: skip
    places, n = rows.select("n_places", "n").row(0)
    residual = found.figures["sites"][site]["writers_residual"]
    frame.caption(
        "What each part adds to the change of its preactivation from clean to corrupt, counted in the direction in "
        f"which a pair changes it: the mean over {places:,} places of {n} pairs where it is on in either prompt, "
        f"95 % intervals over pairs. Parts add up to the whole change within {residual:.1g}."
    )


def _writes(found: FoundFeatureCircuit, site: str, node: int) -> None:
    st.markdown("**What it writes**")
    rows = found.table("tokens").filter(site=site, node=node).sort("rank")
    for side in ("raised", "lowered"):
        frame.facts([(f"tokens {side} most", " · ".join(rows.filter(side=side)["token"]))])
    frame.caption("Its decoder through the final norm and the unembedding, up to a scale.")
    for column, other, said in (("from", "to", "Its edges to the next site"), ("to", "from", "Edges into it")):
        edges = found.table("edges").filter(pl.col(column) == node)
        edges = edges.filter(early=site) if column == "from" else edges.filter(late=site)
        if len(edges):
            best = edges.sort(pl.col("weight").abs(), descending=True).head(6)
            told = [f"{node_name(row[other])} {_said(row, 'weight')}" for row in best.to_dicts()]
            frame.caption(f"{said}: {'; '.join(told)}.")


def _texts(lab: Lab, found: FoundFeatureCircuit, site: str, node: int) -> None:
    dictionary = found.dictionary(site)
    if dictionary not in store.finished(lab, "features"):
        frame.caption(f"{dictionary} has no feature table, so no texts are shown.")
        return
    st.markdown("**Where it fires**")
    at = urlencode({"lab": lab.name, "dictionary": dictionary, "latent": node})
    frame.links("On the Features page:", [(f"{dictionary}, latent {node}", f"features?{at}")])
    colour = theme.colours([found.checkpoint])[found.checkpoint]
    latent.examples(store.dashboard(lab, dictionary, node), colour, "circuit-latent")
