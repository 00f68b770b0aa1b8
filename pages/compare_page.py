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
)


class View(NamedTuple):
    """One view of a comparison: its title, the part that it reads (if any), what that tells, how it is drawn."""

    title: str
    part: str
    tells: str
    draw: Callable[[], None]


lab = frame.begin("Compare", "What checkpoints share, what only one of them has, and what each stage changed.")

with frame.sentences():
    names = store.finished(lab, "comparison")
    if not names:
        frame.note(
            "No comparison has been finished yet: it comes last, after the crosscoder. "
            f"The Lab page shows how far {lab.name} is; "
            f"`python -m workbench compare {lab.name} NAME NAME` adds one."
        )
        st.stop()
    frame.doubted("comparison", "comparison", names)
    name = st.selectbox("Comparison", names, key="comparison", bind="query-params", width=360)
    comparison = compared.comparison(lab, name)
    told = " ".join(comparison.checkpoints)

    def exclusive(chosen: int) -> None:
        if name in compared.taken_apart(lab, "scaling"):
            specific.view(compared.specificity(lab, name), chosen)
        else:
            asks = f"`python -m workbench compare {lab.name} {told}` asks the activations."
            frame.note(f"Norms alone call some latents exclusive that are not: {asks}")

    def latents() -> None:
        st.header("Shared and exclusive latents", anchor=False)
        chosen = shares.view(comparison)
        with st.container(border=True):
            found, colours = (
                store.dashboard(lab, comparison.dictionary, chosen),
                theme.colours(comparison.checkpoints),
            )
            latent.side_by_side(found, shares.cosines(comparison, chosen), colours, "joint")
        st.header("Exclusive, or only shrunk away?", anchor=False)
        exclusive(chosen)

    def lives() -> None:
        st.header("Life lines", anchor=False)
        chosen = shares.number(comparison, "Latent whose life is opened")
        life_lines.view(compared.lives(lab, name), comparison, chosen)

    def predictions() -> None:
        st.header("How predictions part", anchor=False)
        behaviour.kl(comparison)
        st.header("Loss by domain", anchor=False)
        behaviour.loss(comparison)

    views = {
        "latents": View("Latents", "", "", latents),
        "lives": View("Life lines", "lives", "when each latent came, turned and went", lives),
        "changes": View(
            "What changed", "changes", "what a stage changed, ranked",
            lambda: changes.view(compared.changed(lab, name)),
        ),
        "gains": View(
            "What carries a gain", "gains", "which latents carry what a stage gained",
            lambda: gained.view(lab, compared.gains(lab, name), comparison),
        ),
        "differences": View(
            "What the difference says", "differences", "what training wrote into every activation at once",
            lambda: differences.view(lab, compared.differences(lab, name)),
        ),
        "predictions": View("Predictions", "", "", predictions),
        "answers": View("The same prompt", "", "", lambda: answers_beside.view(lab, comparison)),
    }  # fmt: skip
    shown = st.segmented_control(
        "Show",
        list(views),
        default="latents",
        required=True,
        key="view",
        bind="query-params",
        format_func=lambda key: views[key].title,
    )
    view = views[shown]
    if view.part and name not in compared.taken_apart(lab, view.part):
        frame.note(
            f"This shows {view.tells}; it has not been taken yet: `python -m workbench compare {lab.name} {told}` "
            "takes it, and what it finished before is kept."
        )
    else:
        view.draw()
