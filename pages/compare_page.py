"""Compare: checkpoints laid side by side through one crosscoder, what each stage changed, and what carries it."""

from collections.abc import Callable
from typing import NamedTuple

import streamlit as st

from pages.components import (
    answers_beside,
    behaviour,
    changes,
    compared,
    differences,
    frame,
    gained,
    latent,
    life_lines,
    shares,
    specific,
    store,
    theme,
    unlike_view,
)
from workbench.comparison import Comparison
from workbench.lab import Lab
from workbench.unlike import names_of


class View(NamedTuple):
    """One view of a comparison: its title, how it is drawn, the part that it reads (if any) and what that tells."""

    title: str
    draw: Callable[[Lab, Comparison], None]
    part: str = ""
    tells: str = ""


def missing(lab: Lab, comparison: Comparison, tells: str) -> None:
    """What a view would show, and the command that takes it."""
    told = " ".join(comparison.checkpoints)
    frame.note(
        f"{tells}: `python -m workbench compare {lab.name} {told}` takes it; what was finished before is kept."
    )


def latents(lab: Lab, comparison: Comparison) -> None:
    chosen = shares.view(comparison)
    with st.container(border=True):
        found = store.dashboard(lab, comparison.dictionary, chosen)
        colours = theme.colours(comparison.checkpoints)
        latent.side_by_side(found, shares.cosines(comparison, chosen), colours, "joint")
    st.header("Exclusive, or only shrunk away?", anchor=False)
    if comparison.name in compared.taken_apart(lab, "scaling"):
        specific.view(compared.specificity(lab, comparison.name), chosen)
    else:
        missing(
            lab, comparison, "Norms alone call some latents exclusive that are not; latent scaling tells them"
        )


def lives(lab: Lab, comparison: Comparison) -> None:
    chosen = shares.number(comparison, "Latent whose life is opened")
    life_lines.view(compared.lives(lab, comparison.name), comparison, chosen)


def predictions(lab: Lab, comparison: Comparison) -> None:
    behaviour.kl(comparison)
    st.header("Loss by domain", anchor=False)
    behaviour.loss(comparison)


VIEWS = {
    "Latents": View("Shared and exclusive latents", latents),
    "Lives": View("Life lines", lives, "lives", "When each latent came, turned and went, the snapshots tell"),
    "Changes": View(
        "What changed",
        lambda lab, comparison: changes.view(compared.changed(lab, comparison.name)),
        "changes",
        "What each stage changed, ranked",
    ),
    "Gains": View(
        "What carries a gain",
        lambda lab, comparison: gained.view(lab, compared.gains(lab, comparison.name), comparison),
        "gains",
        "Which latents carry what a stage gained",
    ),
    "Differences": View(
        "What the difference says",
        lambda lab, comparison: differences.view(lab, compared.differences(lab, comparison.name)),
        "differences",
        "What training wrote into every activation at once, their mean difference tells",
    ),
    "Predictions": View("How predictions part", predictions),
    "Answers": View("Two checkpoints answer the same prompt", answers_beside.view),
}

here = frame.begin("Compare", "What checkpoints share, what only one of them has, and what each stage changed.")

with frame.sentences():
    names = [*store.finished(here, "comparison"), *(unlike := names_of(here))]
    if not names:
        frame.note(
            "No comparison has been finished yet: it comes last, after the crosscoder. "
            f"The Lab page shows how far {here.name} is; "
            f"`python -m workbench compare {here.name} NAME NAME` adds one."
        )
        st.stop()
    frame.doubted("comparison", "comparison", names)
    left, right = st.columns([2, 5], vertical_alignment="bottom", gap="large")
    with left:
        name = st.selectbox("Comparison", names, key="comparison", bind="query-params")
    if name in unlike:
        unlike_view.view(compared.unlike(here, name))
        st.stop()
    with right:
        shown = st.segmented_control(
            "Show", list(VIEWS), default="Latents", required=True, key="view", bind="query-params"
        )
    view, opened = VIEWS[shown], compared.comparison(here, name)
    st.header(view.title, anchor=False)
    if view.part and name not in compared.taken_apart(here, view.part):
        missing(here, opened, view.tells)
    else:
        view.draw(here, opened)
