"""What the Steer view reads, kept between runs: texts written under an edit, and the response to every dose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from pages.components import store
from workbench.checkpoint import Checkpoint
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.prompt import Prompt
    from workbench.sampling import Continuation
    from workbench.steering import Dose, Effect, Site


class Ask(NamedTuple):
    """What a latent is steered on: a checkpoint, a text, and how far (`times` its strongest activation)."""

    address: str
    text: str
    chat: bool
    times: float
    temperature: float


N_WRITTEN = 40  # tokens of a steered text
SAMPLES = 3  # texts, where they are drawn


def _site(lab: Lab, name: str, latent: int, address: str) -> Site:
    from workbench.steering import Site

    table, checkpoint = store.features(lab, name), Checkpoint.of(lab, address)
    layer = checkpoint.default_layer if table.layer is None else table.layer
    reads = checkpoint.name if checkpoint.name in table.checkpoints else table.checkpoints[-1]
    return Site(table.dictionary, latent, layer, reads, table.point, table.minus)


def _promoted(lab: Lab, name: str, site: Site) -> list[int]:
    from workbench.steering import N_PROMOTED

    return store.features(lab, name).logit_arrays(site.reads)[0][site.latent, 0, :N_PROMOTED].tolist()


def unit(lab: Lab, name: str, latent: int) -> float:
    """What a strength of 1 stands for."""
    from workbench.steering import unit_of

    largest = store.features(lab, name).table["max_activation"].to_numpy()
    return unit_of(float(largest[latent]), largest[largest > 0])


def _asked(lab: Lab, ask: Ask) -> tuple[store.Loaded, Prompt]:
    from workbench.steering import prompt_of

    at = store.loaded(lab, ask.address)
    return at, prompt_of(at.tokenizer, ask.text, at.n_ctx, ask.chat, N_WRITTEN)


@st.cache_resource(max_entries=128, show_spinner="Writing")
def _steered(lab_path: str, ids: tuple[str, str], name: str, latent: int, ask: Ask, edit: str | None) -> list:
    from workbench import steering
    from workbench.sampling import Sampling

    lab = Lab(Path(lab_path))
    at, prompt = _asked(lab, ask)
    site = _site(lab, name, latent, ask.address)
    push = ask.times * unit(lab, name, latent) * site.d_j[None]
    made = {None: None, "add": steering.added(push), "ablate": steering.ablated(site)}[edit]
    sampling = Sampling(temperature=ask.temperature)
    with at.lock:
        return steering.continued(at.model, at.tokenizer, prompt, site, made, sampling, N_WRITTEN, n=SAMPLES)


def _ids(lab: Lab, name: str, address: str) -> tuple[str, str]:
    return lab.find("features", name).id, str(Checkpoint.of(lab, address).path)


def texts(lab: Lab, name: str, latent: int, ask: Ask, edit: str | None) -> list[Continuation]:
    """Texts under an edit (`add`, `ablate`, None for none); the same settings give the same texts."""
    ask = ask if edit == "add" else ask._replace(times=0.0)
    return _steered(str(lab.path), _ids(lab, name, ask.address), name, latent, ask, edit)


@st.cache_resource(max_entries=128, show_spinner="Trying each dose")
def _dose(lab_path: str, ids: tuple[str, str], name: str, latent: int, ask: Ask, edit: str) -> tuple:
    from workbench import steering
    from workbench.prompt import begins_with_bos

    lab = Lab(Path(lab_path))
    at, prompt = _asked(lab, ask)
    site, table = _site(lab, name, latent, ask.address), store.features(lab, name)
    wanted, bos = _promoted(lab, name, site), begins_with_bos(at.tokenizer)
    shown = [table.token_set.vocabulary[i] for i in wanted]
    common = (at.model, site, prompt, wanted, table.token_set)
    with at.lock:
        if edit == "ablate":
            return shown, steering.ablation_effects(*common, bos=bos)
        return shown, steering.dose_response(*common, unit=unit(lab, name, latent), bos=bos)


def dose(lab: Lab, name: str, latent: int, ask: Ask) -> tuple[list[str], Dose]:
    """The tokens watched, and the responses to every strength."""
    still = ask._replace(times=0.0, temperature=0.0)
    return _dose(str(lab.path), _ids(lab, name, ask.address), name, latent, still, "add")


def ablation(lab: Lab, name: str, latent: int, ask: Ask) -> tuple[list[str], list[Effect]]:
    """The tokens watched, and what taking the latent away does."""
    still = ask._replace(times=0.0, temperature=0.0)
    return _dose(str(lab.path), _ids(lab, name, ask.address), name, latent, still, "ablate")
