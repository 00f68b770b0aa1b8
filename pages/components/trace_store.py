"""What the stages of a trace read beyond the trace itself, kept between runs; what takes long runs on demand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from pages.components import store
from workbench.checkpoint import Checkpoint
from workbench.errors import MarbleError
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.attention_cost import AttentionCost
    from workbench.cache_cost import CacheCost
    from workbench.circuits.head_labels import Labelled
    from workbench.circuits.tuned_lens import TunedLens
    from workbench.lens import LayerCurve, Lens
    from workbench.loop import Loop
    from workbench.sampling import Continuation, Sampling
    from workbench.trace import Trace


@st.cache_resource(max_entries=24, show_spinner="Measuring the heads")
def _labelled(path: str, lab_path: str, address: str) -> Labelled:
    from workbench.circuits.head_labels import label_heads

    at = store.loaded(Lab(Path(lab_path)), address)
    with at.lock:
        return label_heads(at.model, at.tokenizer)


def labelled(lab: Lab, address: str) -> Labelled:
    """The names of a checkpoint's heads, measured once."""
    return _labelled(store.path_of(lab, address), str(lab.path), address)


@st.cache_resource(max_entries=24, show_spinner="Timing attention")
def _attention_cost(path: str, lab_path: str, address: str, run: int) -> AttentionCost:
    from workbench.attention_cost import attention_cost, lengths

    at = store.loaded(Lab(Path(lab_path)), address)
    with at.lock:
        return attention_cost(at.model, lengths(at.n_ctx))


def attention_cost(lab: Lab, address: str, run: int) -> AttentionCost:
    """Forward times by length; another number of the `run` measures anew."""
    return _attention_cost(store.path_of(lab, address), str(lab.path), address, run)


@st.cache_resource(max_entries=24, show_spinner="Timing the cache")
def _cache_cost(path: str, lab_path: str, address: str, ids: tuple[int, ...], n: int, run: int) -> CacheCost:
    from workbench.cache_cost import cache_cost

    at = store.loaded(Lab(Path(lab_path)), address)
    with at.lock:
        return cache_cost(at.model, ids, n)


def cache_cost(lab: Lab, address: str, ids: tuple[int, ...], n: int, run: int) -> CacheCost:
    """Time of each of `n` more tokens with the cache and without it."""
    return _cache_cost(store.path_of(lab, address), str(lab.path), address, ids, n, run)


@st.cache_resource(max_entries=24, show_spinner=False)
def _tuned(lab_path: str, address: str, id_: str) -> TunedLens:
    from workbench.circuits.found_lenses import FoundLens

    return FoundLens.of(Lab(Path(lab_path)), address).lens()


def _lens_id(lab: Lab, address: str) -> str:
    from workbench.plan import lens_name

    return lab.find("evaluation", lens_name(address)).id


def tuned(lab: Lab, address: str) -> TunedLens | None:
    """The stored tuned lens of a checkpoint; None where none was fitted."""
    try:
        id_ = _lens_id(lab, address)
    except MarbleError:
        return None
    return _tuned(str(lab.path), address, id_)


@st.cache_resource(max_entries=24, show_spinner=False)
def _read_again(_trace: Trace, _lens: TunedLens, key: tuple[Any, ...], lab_path: str, address: str) -> Lens:
    from workbench.trace import read_again

    at = store.loaded(Lab(Path(lab_path)), address)
    with at.lock:
        return read_again(_trace, at.model, at.tokenizer, _lens.checked_for(at.model))


def read_again(lab: Lab, address: str, trace: Trace, lens: TunedLens) -> Lens:
    """A trace's stream through the tuned lens."""
    key = (store.path_of(lab, address), trace.prompt.ids, _lens_id(lab, address))
    return _read_again(trace, lens, key, str(lab.path), address)


def layers_at(
    lab: Lab, address: str, trace: Trace, position: int, target: int, lens: TunedLens | None
) -> LayerCurve:
    """One token at one position by layer, through the logit lens or a tuned one."""
    from workbench.lens import as_it_is
    from workbench.trace import layers_at

    at = store.loaded(lab, address)
    with at.lock:
        moved = as_it_is if lens is None else lens.checked_for(at.model)
        return layers_at(trace, at.model, position, target, moved)


@st.cache_resource(max_entries=64, show_spinner=False)
def _looped(
    path: str, lab_path: str, address: str, text: str, chat: bool, sampling: Sampling, seed: int, n: int
) -> Loop:
    from workbench.loop import recorded_loop
    from workbench.prompt import read_prompt

    at = store.loaded(Lab(Path(lab_path)), address)
    prompt = read_prompt(at.tokenizer, text, at.n_ctx, chat=chat)
    with at.lock:
        return recorded_loop(at.model, at.tokenizer, prompt, sampling, n, seed)


def looped(lab: Lab, address: str, text: str, chat: bool, sampling: Sampling, seed: int, n: int) -> Loop:
    """A text of at most `n` tokens as it grew."""
    path = store.path_of(lab, address)
    return _looped(path, str(lab.path), address, text, chat, sampling, seed, n)


@st.cache_resource(max_entries=128, show_spinner=False)
def _at_moment(path: str, lab_path: str, address: str, text: str, chat: bool, n: int) -> Continuation:
    """The model is read and let go: a lineage would drive the two that are looked at out of the cache."""
    from workbench.prompt import read_prompt
    from workbench.sampling import Sampling, continuations

    checkpoint = Checkpoint.of(Lab(Path(lab_path)), address)
    tokenizer = checkpoint.tokenizer()
    prompt = read_prompt(tokenizer, text, checkpoint.n_ctx, chat=chat)
    [found] = continuations(checkpoint.model(), tokenizer, prompt, Sampling(temperature=0.0), max_new_tokens=n)
    return found


def at_moment(lab: Lab, address: str, text: str, chat: bool, n: int = 32) -> Continuation:
    """What a snapshot says, greedily."""
    return _at_moment(store.path_of(lab, address), str(lab.path), address, text, chat, n)
