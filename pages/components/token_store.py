"""What the first stages of the Trace page read and work out, kept between runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from pages.components import store
from workbench.checkpoint import Checkpoint
from workbench.errors import MarbleError
from workbench.lab import Lab
from workbench.plan import Plan

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerFast

    from workbench.analogies import Relation, Score
    from workbench.behind_token import Latents, Neurons
    from workbench.embedding import Chance, Space
    from workbench.feature_geometry import Plane
    from workbench.letter_counts import CountAnswer
    from workbench.token_contexts import Contexts, Curve
    from workbench.tokenization import Merges
    from workbench.vocabulary import TokenText


class Reader(NamedTuple):
    """A tokenizer with its merges (None where it has none to replay) and its fingerprint."""

    tokenizer: PreTrainedTokenizerFast
    merges: Merges | None
    fingerprint: str


@st.cache_resource(max_entries=16, show_spinner=False)
def _reader(path: str, lab_path: str, address: str) -> Reader:
    from workbench.sentence_costs import fingerprint
    from workbench.tokenization import Merges

    tokenizer = Checkpoint.of(Lab(Path(lab_path)), address).tokenizer()
    return Reader(tokenizer, Merges.of(tokenizer), fingerprint(tokenizer))


def reader(lab: Lab, address: str) -> Reader:
    """The tokenizer of a checkpoint, without its model."""
    return _reader(store.path_of(lab, address), str(lab.path), address)


def readers(lab: Lab, first: str) -> dict[str, Reader]:
    """The tokenizer of `first`, then those of the lab's roots that read differently, by the root that has it: what
    is trained from a root reads as it does."""
    found = {first: reader(lab, first)}
    plan = Plan.of(lab)
    for name in dict.fromkeys(plan.family(name) for name in plan.recipe.checkpoint_names):
        try:
            other = reader(lab, f"{name}@latest")
        except MarbleError:  # not grown yet
            continue
        if other.fingerprint not in {each.fingerprint for each in found.values()}:
            found[name] = other
    return found


@st.cache_resource(max_entries=64, show_spinner="Asking the checkpoint")
def _answer(path: str, lab_path: str, address: str, word: str, letter: str, right: int) -> CountAnswer:
    from workbench.letter_counts import ask

    at = store.loaded(Lab(Path(lab_path)), address)
    with at.lock:
        return ask(at.model, at.tokenizer, at.n_ctx, word, letter, right)


def answer(lab: Lab, address: str, word: str, letter: str, right: int) -> CountAnswer:
    """What a chat checkpoint says when it is asked for a letter."""
    return _answer(store.path_of(lab, address), str(lab.path), address, word, letter, right)


@st.cache_resource(max_entries=12, show_spinner=False)
def _spaces(path: str, lab_path: str, address: str) -> dict[str, Space]:
    from workbench.embedding import spaces

    at = store.loaded(Lab(Path(lab_path)), address)
    return spaces(at.model, at.tokenizer)


def spaces(lab: Lab, address: str) -> dict[str, Space]:
    """The embedding of a checkpoint, and the unembedding where it is another matrix."""
    return _spaces(store.path_of(lab, address), str(lab.path), address)


@st.cache_resource(max_entries=24, show_spinner=False)
def _laid_out(path: str, lab_path: str, address: str, name: str) -> tuple[Plane, Chance]:
    space = _spaces(path, lab_path, address)[name]
    return space.plane(), space.chance()


def laid_out(lab: Lab, address: str, name: str) -> tuple[Plane, Chance]:
    """The plane of one matrix, and what random pairs of its tokens have."""
    return _laid_out(store.path_of(lab, address), str(lab.path), address, name)


@st.cache_resource(max_entries=8, show_spinner=False)
def _vocabulary(path: str, lab_path: str, address: str) -> tuple[list[TokenText], np.ndarray]:
    from workbench.finer_kinds import kinds_of
    from workbench.vocabulary import Vocabulary

    tokenizer = _reader(path, lab_path, address).tokenizer
    vocabulary = Vocabulary(tokenizer)
    tokens = [vocabulary[id_] for id_ in range(len(tokenizer))]
    return tokens, kinds_of(tokens)


def vocabulary(lab: Lab, address: str) -> tuple[list[TokenText], np.ndarray]:
    """Every token of a checkpoint, and its kind (`workbench.finer_kinds`)."""
    return _vocabulary(store.path_of(lab, address), str(lab.path), address)


@st.cache_resource(max_entries=8, show_spinner=False)
def _relations(path: str, lab_path: str, address: str) -> list[Relation]:
    from workbench.analogies import relations
    from workbench.lexicon import make_world

    config = Plan.of(Lab(Path(lab_path))).recipe.corpus
    capitals = list(make_world(config.n_countries, (), config.seed).capital_of.items())
    return relations(_reader(path, lab_path, address).tokenizer, {"country → capital": capitals})


@st.cache_resource(max_entries=24, show_spinner="Scoring analogies")
def _analogies(path: str, lab_path: str, address: str, name: str) -> dict[str, dict[str, Score]]:
    from workbench.analogies import scores

    space = _spaces(path, lab_path, address)[name]
    return {relation.name: scores(space, relation) for relation in _relations(path, lab_path, address)}


def analogies(lab: Lab, address: str, name: str) -> dict[str, dict[str, Score]]:
    """The scores of every relation in one matrix, by relation and measure."""
    return _analogies(store.path_of(lab, address), str(lab.path), address, name)


@st.cache_resource(max_entries=4, show_spinner="Reading the lab's text")
def _texts(path: str) -> list[str]:
    import polars as pl

    rows = pl.scan_parquet(Path(path) / "documents.parquet").filter(pl.col("split") == "heldout")
    found = rows.select("text").collect()["text"]
    return [str(text) for text in found.sample(fraction=1.0, shuffle=True, seed=0)]


@st.cache_resource(max_entries=32, show_spinner="Reading the sentences")
def _contexts(path: str, lab_path: str, address: str, word: str, texts: tuple[str, ...]) -> Contexts:
    from workbench.token_contexts import read_contexts

    at = store.loaded(Lab(Path(lab_path)), address)
    with at.lock:
        return read_contexts(at.model, at.tokenizer, at.n_ctx, word, texts)


def contexts(lab: Lab, address: str, word: str, texts: tuple[str, ...]) -> Contexts:
    """A word in several sentences, read by a checkpoint."""
    return _contexts(store.path_of(lab, address), str(lab.path), address, word, texts)


@st.cache_resource(max_entries=32, show_spinner="Reading the lab's text")
def _same(path: str, lab_path: str, address: str, corpus: str, word: str) -> Curve | None:
    from workbench.token_contexts import same_word

    at = store.loaded(Lab(Path(lab_path)), address)
    with at.lock:
        return same_word(at.model, at.tokenizer, at.n_ctx, word, _texts(corpus))


@st.cache_resource(max_entries=16, show_spinner="Reading the lab's text")
def _others(path: str, lab_path: str, address: str, corpus: str) -> Curve | None:
    from workbench.token_contexts import random_tokens

    at = store.loaded(Lab(Path(lab_path)), address)
    with at.lock:
        return random_tokens(at.model, at.tokenizer, at.n_ctx, _texts(corpus))


def baselines(lab: Lab, address: str, word: str) -> tuple[Curve | None, Curve | None]:
    """Pairs of the same word, and of random tokens, in the held-out text; None where there is none."""
    try:
        corpus = str(lab.find("corpus", "text").path)
    except MarbleError:
        return None, None
    path = store.path_of(lab, address)
    return _same(path, str(lab.path), address, corpus, word), _others(path, str(lab.path), address, corpus)


@st.cache_resource(max_entries=64, show_spinner=False)
def _neurons(path: str, lab_path: str, address: str, ids: tuple[int, ...], position: int) -> list[Neurons]:
    from workbench.behind_token import neurons_on

    at = store.loaded(Lab(Path(lab_path)), address)
    with at.lock:
        return neurons_on(at.model, ids, position)


def neurons(lab: Lab, address: str, ids: tuple[int, ...], position: int) -> list[Neurons]:
    """The neurons of each layer that write most at one token of a prompt."""
    return _neurons(store.path_of(lab, address), str(lab.path), address, ids, position)


@st.cache_resource(max_entries=64, show_spinner=False)
def _latents(
    path: str, lab_path: str, address: str, text: str, chat: bool, position: int, name: str, id_: str
) -> tuple[Latents, int]:
    from workbench.behind_token import latents_on

    lab = Lab(Path(lab_path))
    table, checkpoint = store.features(lab, name), Checkpoint.of(lab, address)
    layer = checkpoint.default_layer if table.layer is None else table.layer
    traced = store.traced(lab, address, text, chat)
    return latents_on(table.dictionary, traced.resid[layer + 1, position]), layer


def latents(lab: Lab, address: str, text: str, chat: bool, position: int, name: str) -> tuple[Latents, int]:
    """The latents of SAE `name` that are on at one token, and the layer that it reads."""
    id_ = lab.find("features", name).id
    return _latents(store.path_of(lab, address), str(lab.path), address, text, chat, position, name, id_)
