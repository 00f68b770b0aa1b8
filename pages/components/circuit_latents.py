"""The Latents view: which latents of a checkpoint a task is done with, what the dictionaries leave over, how few it
takes, how those of two sites are joined; below, the one that is chosen."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import streamlit as st

from pages.components import (
    circuit_choice,
    circuit_export,
    circuit_latent,
    circuit_latent_figures,
    circuit_store,
    frame,
    kept,
    show,
)
from pages.components.circuit_store import Of
from workbench.circuits.feature_picture import node_id, picture
from workbench.circuits.feature_words import ALL_SITES, ERROR, curve_sentences
from workbench.circuits.found_feature_circuits import FoundFeatureCircuit
from workbench.circuits.site_dictionaries import site_sae_names
from workbench.errors import Misuse
from workbench.lab import Lab


def view(lab: Lab, of: Of) -> None:
    """The latents of the circuit's task in one of its checkpoints."""
    circuit = circuit_store.found(of)
    looked_into = circuit_store.latents_of(lab).get(circuit.task, [])
    checkpoints = list(dict.fromkeys([*circuit.checkpoints, *looked_into]))
    _view(lab, circuit.task, circuit.config["source"] or circuit.task, checkpoints)


def alone(lab: Lab, task: str) -> None:
    """The same of a task that has no circuit."""
    _view(lab, task, circuit_choice.source_of(lab, task) or task, circuit_store.latents_alone(lab)[task])


def _view(lab: Lab, task: str, file: str, checkpoints: Sequence[str]) -> None:
    """One checkpoint's latents, or the command that finds them."""
    name = circuit_choice.checkpoint(checkpoints)
    found = FoundFeatureCircuit.stored(lab, task, name)
    if found is None:
        _command(lab, file, name)
        return
    frame.note(f"{found.headline()}.")
    if found.does_it:
        _shown(lab, found)


def _shown(lab: Lab, found: FoundFeatureCircuit) -> None:
    options = {
        node_id(site, node): (site, node) for site in found.sites for node in [*found.foremost(site), ERROR]
    }
    asked = st.session_state.get("node") or st.query_params.get("node")
    frame.doubted("node", "latent", list(options))
    chosen = str(asked) if asked in options else next(iter(options))
    for column, site in zip(st.columns(len(found.sites), gap="large"), found.sites, strict=True):
        with column:
            _scores(found, site, chosen)
    frame.caption(
        f"{found.figures['method']}: {found.figures['sign']}, in logits of target less foil, summed over the "
        f"positions of the prompt. The foremost {len(found.foremost(found.sites[0]))} latents by |score|; "
        "violet: the error, all that the dictionary leaves over. 95 % intervals over "
        f"{found.figures['n_pairs']['search']} pairs. Click a bar."
    )
    if len(found.sites) > 1:
        _graph(found, chosen)
    _curves(found)
    at = st.selectbox("Latent (or click it)", list(options), key="node", bind="query-params", width=420)
    circuit_latent.panel(lab, found, *options[str(at)])


def _command(lab: Lab, task: str, name: str) -> None:
    try:
        site_sae_names(lab, name)
    except Misuse as error:
        frame.note(f"The latents of {name} cannot be looked at: {error}.")
        return
    frame.note(
        f"What the latents of {name} are worth to this task has not been worked out: the command below takes some "
        "minutes, and this view shows it then."
    )
    st.code(
        f"python -m workbench feature-circuit {lab.name} --task {shlex.quote(task)} --checkpoints {name}",
        language="bash",
    )


def _scores(found: FoundFeatureCircuit, site: str, chosen: str) -> None:
    st.markdown(f"**{site}** · {found.dictionary(site)}")
    nodes = found.nodes(site)
    ids = [node_id(site, node) for node in nodes["node"]]
    show.clickable(
        kept.picture(circuit_latent_figures.scores, nodes, ids, chosen if chosen in ids else ""),
        f"latents-{site.replace('.', '-')}",
        f"score of the foremost latents and of the error of {site} in {found.checkpoint}",
        nodes, "node", show.name_of, circuit_export.camera(f"{found.name}-{site}"),
    )  # fmt: skip
    for sentence in found.sentences(site):
        frame.caption(sentence)


def _curves(found: FoundFeatureCircuit) -> None:
    st.subheader("How few latents do the task", anchor=False)
    sites = [*found.sites, *([ALL_SITES] if len(found.sites) > 1 else [])]
    for column, site in zip(st.columns(len(sites), gap="large"), sites, strict=True):
        with column:
            st.markdown(f"**{site}**")
            rows = found.table("curve").filter(site=site)
            show.chart(
                kept.picture(circuit_latent_figures.curve, rows), f"latent-curve-{site.replace('.', '-')}",
                f"f by number of latents kept at {site} in {found.checkpoint}, with errors, without, and matched",
                rows, config=circuit_export.camera(f"{found.name}-{site}-f"),
            )  # fmt: skip
            if site == ALL_SITES:
                for sentence in curve_sentences(rows):
                    frame.caption(sentence)
    frame.caption(
        "f = (m with these nodes as they are − m with none) / (m of the model − m with none), every other "
        f"latent at its value on the corrupt prompt; on {found.figures['n_pairs']['judge']} pairs that did not "
        "order them (a draw of their own: scores above are "
        "from other pairs), with 95 % intervals over pairs. Matched: other latents whose writing changes about as "
        "much, where there are any."
    )


def _graph(found: FoundFeatureCircuit, chosen: str) -> None:
    st.subheader("From latent to latent", anchor=False)
    drawn = picture(found)
    show.clickable(
        kept.picture(circuit_latent_figures.graph, drawn.nodes, drawn.edges, chosen), "latent-graph",
        f"edges between latents of {' and '.join(found.sites)} and to the logits in {found.checkpoint}",
        drawn.edges.select("source", "target", "weight", "low", "high", "n"), "node", show.name_of,
        circuit_export.camera(f"{found.name}-latents"),
    )  # fmt: skip
    for sentence in found.edge_sentences():
        frame.caption(f"{sentence[:1].upper()}{sentence[1:]}.")
    frame.caption(
        "The strongest edges between nodes that were looked into: what corrupting the lower one does to m by "
        "way of the upper one, to first order; to the logits, a node's own AtP score. Blue helps, red hinders; "
        "wider: larger. From left to right by score. Intervals are in the table."
    )
