"""What two checkpoints make of one text, kept between runs: answers, documents, latents behind a token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from pages.components import compared, store
from workbench.checkpoint import Checkpoint
from workbench.lab import Lab
from workbench.plan import Plan

if TYPE_CHECKING:
    from workbench.answering import Answers, Voice
    from workbench.comparison import Comparison
    from workbench.difference_shares import Shares
    from workbench.document_parted import DocumentRead
    from workbench.tokens import TokenSet


class Ask(NamedTuple):
    """A prompt for two checkpoints; temperature 0 is greedy."""

    first: str
    second: str
    text: str
    chat: bool
    temperature: float
    seed: int


def addresses(lab: Lab, comparison: Comparison) -> list[str]:
    """The checkpoints of the comparison's family that can be opened now, each followed by its snapshots."""
    plan = Plan.of(lab)
    family = plan.family(comparison.checkpoints[0])
    return [a for a in store.addresses(lab) if plan.family(a.partition("@")[0]) == family]


def _voice(lab: Lab, address: str) -> Voice:
    from workbench.answering import Voice

    at = store.loaded(lab, address)
    return Voice(address, at.model, at.tokenizer, at.n_ctx, at.lock)


def _paths(lab: Lab, *names: str) -> tuple[str, ...]:
    return tuple(str(Checkpoint.of(lab, name).path) for name in names)


@st.cache_resource(max_entries=32, show_spinner="Both are writing")
def _answers(lab_path: str, paths: tuple[str, ...], ask: Ask) -> Answers:
    from workbench.answering import answers
    from workbench.sampling import Sampling

    lab = Lab(Path(lab_path))
    first, second = _voice(lab, ask.first), _voice(lab, ask.second)
    return answers(first, second, ask.text, ask.chat, Sampling(temperature=ask.temperature), ask.seed)


def answers(lab: Lab, ask: Ask) -> Answers:
    """Both answers, each read by both; the same settings give the same texts."""
    return _answers(str(lab.path), _paths(lab, ask.first, ask.second), ask)


@st.cache_resource(max_entries=64, show_spinner="Reading the latents")
def _behind(
    lab_path: str, paths: tuple[str, ...], comparison: str, names: tuple[str, str], ids: tuple[int, ...]
) -> Shares | None:
    from workbench.difference_shares import difference_shares, streams
    from workbench.points import Site

    lab = Lab(Path(lab_path))
    found = compared.comparison(lab, comparison)
    table = store.features(lab, found.dictionary)
    layer = Checkpoint.of(lab, names[0]).default_layer if table.layer is None else table.layer
    voices = [_voice(lab, name) for name in found.checkpoints]
    x = streams(voices, Site(layer, table.point), ids)
    return difference_shares(table.dictionary, x[-1], *names)


def behind(lab: Lab, comparison: Comparison, names: tuple[str, str], ids: tuple[int, ...]) -> Shares | None:
    """What the difference from one checkpoint to the other is made of at the last of `ids`; None without one."""
    paths = (*_paths(lab, *comparison.checkpoints), lab.find("dictionary", comparison.dictionary).id)
    return _behind(str(lab.path), paths, comparison.name, names, ids)


@st.cache_resource(max_entries=4, show_spinner=False)
def _token_set(lab_path: str, family: str, id_: str) -> TokenSet:
    from workbench.tokens import token_set

    return token_set(Lab(Path(lab_path)), family)


def heldout(lab: Lab, comparison: Comparison) -> TokenSet:
    """The held-out tokens of the comparison's family."""
    family = Plan.of(lab).family(comparison.checkpoints[0])
    return _token_set(str(lab.path), family, lab.find("activations", f"tokens-{family}").id)


@st.cache_data(max_entries=16, show_spinner=False)
def _beginnings(lab_path: str, comparison: str, id_: str, domain: str) -> dict[int, str]:
    from workbench.document_parted import beginnings

    lab = Lab(Path(lab_path))
    return beginnings(heldout(lab, compared.comparison(lab, comparison)), domain)


def beginnings(lab: Lab, comparison: Comparison, domain: str) -> dict[int, str]:
    """The held-out documents of a domain by the words that they begin with."""
    return _beginnings(str(lab.path), comparison.name, str(heldout(lab, comparison).folder), domain)


@st.cache_resource(max_entries=32, show_spinner="Both are reading")
def _document(
    lab_path: str, paths: tuple[str, ...], comparison: str, pair: tuple[str, str], document: int
) -> DocumentRead:
    from workbench.document_parted import read_document

    lab = Lab(Path(lab_path))
    tokens = heldout(lab, compared.comparison(lab, comparison))
    return read_document(_voice(lab, pair[0]), _voice(lab, pair[1]), tokens, document)


def document(lab: Lab, comparison: Comparison, pair: tuple[str, str], number: int) -> DocumentRead:
    """A held-out document in two checkpoints."""
    return _document(str(lab.path), _paths(lab, *pair), comparison.name, pair, number)
