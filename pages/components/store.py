"""What the pages read, kept between runs: tables by artefact id, models behind a lock."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from workbench.checkpoint import Checkpoint
from workbench.errors import MarbleError
from workbench.lab import Artefact, Lab
from workbench.plan import STUDY, Plan

if TYPE_CHECKING:
    import polars as pl
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from workbench.dashboard import Dashboard
    from workbench.feature_geometry import Plane
    from workbench.feature_match import Matches
    from workbench.feature_query import Searcher
    from workbench.features import FeatureTable
    from workbench.quality import Quality
    from workbench.sampling import Continuation, Sampling
    from workbench.superposition import Study
    from workbench.sweeps import Sweep
    from workbench.trace import Trace
    from workbench.truth import Truth


@st.cache_data(max_entries=64, show_spinner=False)
def _metrics(path: str, changed: float) -> pl.DataFrame:
    import polars as pl

    return pl.read_parquet(path)


def metrics(folder: Path | None) -> pl.DataFrame | None:
    """`metrics.parquet` (step, name, value) of a finished or growing stage, read anew when it changes."""
    path = folder / "metrics.parquet" if folder is not None else None
    if path is None:
        return None
    try:
        return _metrics(str(path), path.stat().st_mtime)
    except FileNotFoundError:  # not written yet, or its folder was renamed at this moment
        return None


class Loaded(NamedTuple):
    """A model in memory. Hooks mutate it: hold `lock` around every use."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    n_ctx: int
    lock: threading.Lock


@st.cache_resource(max_entries=6, show_spinner="Opening the checkpoint")
def _loaded(path: str, lab_path: str, address: str) -> Loaded:
    checkpoint = Checkpoint.of(Lab(Path(lab_path)), address)
    return Loaded(checkpoint.model(), checkpoint.tokenizer(), checkpoint.n_ctx, threading.Lock())


def loaded(lab: Lab, address: str) -> Loaded:
    """The model at `address` (`sft`, `sft@128`), loaded once for all viewers."""
    return _loaded(path_of(lab, address), str(lab.path), address)


@st.cache_resource(max_entries=8, show_spinner=False)
def _features(lab_path: str, name: str, id_: str) -> FeatureTable:
    from workbench.features import FeatureTable

    return FeatureTable.of(Lab(Path(lab_path)), name)


def features(lab: Lab, name: str) -> FeatureTable:
    """The feature table of a dictionary, kept by the artefact's id."""
    return _features(str(lab.path), name, lab.find("features", name).id)


@st.cache_resource(max_entries=64, show_spinner=False)
def _dashboard(lab_path: str, name: str, id_: str, latent: int, told_when: tuple[int, int]) -> Dashboard:
    return _features(lab_path, name, id_).dashboard(latent)


def dashboard(lab: Lab, name: str, latent: int) -> Dashboard:
    """Everything about one latent."""
    id_ = lab.find("features", name).id
    return _dashboard(str(lab.path), name, id_, latent, _features(str(lab.path), name, id_).told_when)


@st.cache_resource(max_entries=8, show_spinner=False)
def _searcher(lab_path: str, name: str, id_: str) -> Searcher:
    from workbench.feature_query import Searcher

    return Searcher(_features(lab_path, name, id_)).warm()


def searcher(lab: Lab, name: str) -> Searcher:
    """A dictionary's texts, lower-cased once."""
    return _searcher(str(lab.path), name, lab.find("features", name).id)


@st.cache_resource(max_entries=32, show_spinner="Reading the text")
def _fires_on(lab_path: str, name: str, id_: str, text: str) -> pl.DataFrame:
    return _features(lab_path, name, id_).fires_on(text)


def fires_on(lab: Lab, name: str, text: str) -> pl.DataFrame:
    """Latents that fire on a text: latent, fires_with, on; strongest first."""
    found = _fires_on(str(lab.path), name, lab.find("features", name).id, text)
    return found.select("latent", fires_with="value", on="token")


def on_text(lab: Lab, name: str, latent: int, text: str) -> tuple[list[str], list[float]]:
    """The tokens of a text, and one latent's activation on each; zeros where it does not fire."""
    tokens = features(lab, name).tokens_of(text)
    own = _fires_on(str(lab.path), name, lab.find("features", name).id, text).filter(latent=latent)
    return tokens, own["values"][0].to_list() if len(own) else [0.0] * len(tokens)


@st.cache_data(max_entries=8, show_spinner="Laying the decoders out")
def _plane(lab_path: str, name: str, id_: str) -> Plane:
    from workbench.feature_geometry import plane, unit_directions

    return plane(unit_directions(_features(lab_path, name, id_).dictionary))


def plane(lab: Lab, name: str) -> Plane:
    """The map of a dictionary's decoders, worked out once for each artefact."""
    return _plane(str(lab.path), name, lab.find("features", name).id)


@st.cache_resource(max_entries=64, show_spinner=False)
def _matches(lab_path: str, first: tuple[str, str], latent: int, second: tuple[str, str]) -> Matches:
    from workbench.feature_match import matches

    return matches(_features(lab_path, *first), latent, _features(lab_path, *second))


def matches(lab: Lab, name: str, latent: int, other: str) -> Matches:
    """How well every latent of `other` matches one of `name`."""
    first, second = ((n, lab.find("features", n).id) for n in (name, other))
    return _matches(str(lab.path), first, latent, second)


@st.cache_resource(max_entries=16, show_spinner=False)
def _quality(lab_path: str, dictionary: str, id_: str) -> Quality:
    from workbench.quality import Quality

    return Quality.of(Lab(Path(lab_path)), dictionary)


def qualities(lab: Lab) -> dict[str, Quality]:
    """Every dictionary of the recipe that has been judged, in the recipe's order."""
    from workbench.quality import artefact_name

    done = {a.name: a.id for a in finished_artefacts(lab, "evaluation")}
    names = [d.name for d in Plan.of(lab).recipe.dictionaries if artefact_name(d.name) in done]
    return {name: _quality(str(lab.path), name, done[artefact_name(name)]) for name in names}


def truths(lab: Lab) -> dict[str, Truth]:
    """Every dictionary that was held to the world's factors, in the recipe's order."""
    from workbench.truth import Truth

    done = {a.name for a in finished_artefacts(lab, "evaluation")}
    names = [d.name for d in Plan.of(lab).recipe.dictionaries if f"truth-{d.name}" in done]
    return {name: Truth.of(lab, name) for name in names}


@st.cache_resource(max_entries=16, show_spinner=False)
def _sweep(lab_path: str, name: str, id_: str) -> Sweep:
    from workbench.sweeps import Sweep

    return Sweep.of(Lab(Path(lab_path)), name)


def sweep_names(lab: Lab) -> list[str]:
    """The recipe's sweeps that are finished."""
    done = set(finished(lab, "evaluation"))
    return [config.name for config in Plan.of(lab).recipe.sweeps if config.name in done]


def sweep(lab: Lab, name: str) -> Sweep:
    """A finished sweep, kept by the artefact's id."""
    return _sweep(str(lab.path), name, lab.find("evaluation", name).id)


def finished_artefacts(lab: Lab, kind: str) -> list[Artefact]:
    """The recipe's artefacts of a kind that are finished, in the recipe's order."""
    steps = (step for step in Plan.of(lab).steps.values() if step.kind == kind)
    found = (lab.artefact(step.kind, step.name, step.id) for step in steps)
    return [artefact for artefact in found if artefact is not None]


@st.cache_resource(max_entries=8, show_spinner=False)
def _superposition(lab_path: str, id_: str) -> Study:
    from workbench.superposition import Study

    return Study.of(Lab(Path(lab_path)))


def superposition(lab: Lab) -> Study:
    """The finished study of a lab's models, kept by the artefact's id."""
    return _superposition(str(lab.path), lab.find("evaluation", STUDY).id)


def finished(lab: Lab, kind: str) -> list[str]:
    """Names of the recipe's artefacts of a kind that are finished, in the recipe's order."""
    return [artefact.name for artefact in finished_artefacts(lab, kind)]


def _grown(lab: Lab) -> tuple[tuple[str, int], ...]:
    """What changes when the recipe does, a stage is finished or a snapshot written: a dozen looks at the disk."""
    seen = (lab.path / "recipe.toml", lab.path / "checkpoint", *lab.path.glob("checkpoint/*/snapshots"))
    return tuple((str(path), path.stat().st_mtime_ns) for path in sorted(seen) if path.exists())


def addresses(lab: Lab) -> list[str]:
    """Every checkpoint that can be opened now, each followed by its snapshots."""
    return _addresses(str(lab.path), _grown(lab))


def path_of(lab: Lab, address: str) -> str:
    """The folder of a checkpoint. Reading the plan for it takes five milliseconds, and a page asks ten times."""
    return _path_of(str(lab.path), _grown(lab), address)


@st.cache_data(max_entries=256, show_spinner=False)
def _path_of(lab_path: str, grown: tuple[tuple[str, int], ...], address: str) -> str:
    return str(Checkpoint.of(Lab(Path(lab_path)), address).path)


@st.cache_data(max_entries=16, show_spinner=False)
def _addresses(lab_path: str, grown: tuple[tuple[str, int], ...]) -> list[str]:
    lab, found = Lab(Path(lab_path)), list[str]()
    for name in Plan.of(lab).recipe.checkpoint_names:
        with contextlib.suppress(MarbleError):  # neither finished nor a snapshot written yet
            newest = Checkpoint.of(lab, f"{name}@latest")
            found += [name] if newest.step is None else []
            found += [f"{name}@{step}" for step in newest.snapshots()]
    return found


@st.cache_resource(max_entries=24, show_spinner=False)
def _traced(path: str, lab_path: str, address: str, text: str, chat: bool) -> Trace:
    from workbench.prompt import read_prompt
    from workbench.trace import trace

    at = _loaded(path, lab_path, address)
    prompt = read_prompt(at.tokenizer, text, at.n_ctx, chat=chat)
    with at.lock:
        return trace(at.model, at.tokenizer, prompt)


def traced(lab: Lab, address: str, text: str, chat: bool) -> Trace:
    """One prompt in one checkpoint: one forward pass, kept."""
    return _traced(path_of(lab, address), str(lab.path), address, text, chat)


@st.cache_resource(max_entries=64, show_spinner="Drawing continuations")
def _continued(
    path: str,
    lab_path: str,
    address: str,
    text: str,
    chat: bool,
    sampling: Sampling,
    seed: int,
    n: int,
    length: int,
) -> list[Continuation]:
    from workbench.prompt import read_prompt
    from workbench.sampling import continuations

    at = _loaded(path, lab_path, address)
    prompt = read_prompt(at.tokenizer, text, at.n_ctx, chat=chat)
    with at.lock:
        return continuations(at.model, at.tokenizer, prompt, sampling, n=n, max_new_tokens=length, seed=seed)


def continued(
    lab: Lab, address: str, text: str, chat: bool, sampling: Sampling, seed: int, n: int = 3, length: int = 48
) -> list[Continuation]:
    """Continuations drawn from one checkpoint; the same settings give the same texts."""
    path = path_of(lab, address)
    return _continued(path, str(lab.path), address, text, chat, sampling, seed, n, length)
