"""Compare: checkpoints laid side by side through one crosscoder, what each stage changed, and what carries it."""

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
    matched,
    patched,
    shares,
    specific,
    stage_paths,
    store,
    theme,
    unlike_view,
    views,
)
from pages.components.views import View
from workbench.comparison import Comparison
from workbench.lab import Lab
from workbench.matched_saes import chosen
from workbench.plan import Plan


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
        views.missing(
            lab, comparison, "Norms alone call some latents exclusive that are not; latent scaling tells them"
        )


def lives(lab: Lab, comparison: Comparison) -> None:
    chosen = shares.number(comparison, "Latent whose life is opened", width=240)
    life_lines.view(compared.lives(lab, comparison.name), comparison, chosen)


def matching(lab: Lab, comparison: Comparison) -> None:
    own = chosen(Plan.of(lab).recipe, comparison.checkpoints)
    there = comparison.name in compared.taken_apart(lab, "matching")
    if own.complete and there:
        found = compared.matched(lab, comparison.name)
        couple = matched.view(lab, found)
        stage_paths.view(lab, comparison)
        matched.pairs(lab, found, couple)
        return
    if own.complete or Plan.of(lab).recipe.dictionary(comparison.dictionary).for_contrast:
        views.missing(lab, comparison, "Whose latents have a counterpart among those of an SAE trained apart")
    else:
        frame.note(f"{own.sentence(lab.name)}.")
    stage_paths.view(lab, comparison)


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
    "Patching": View(
        "What a set of latents is worth",
        lambda lab, comparison: patched.view(lab, compared.patching(lab, comparison.name), comparison),
        "patching",
        "How much of what one checkpoint says a few latents bring to the other's stream",
    ),
    "Differences": View(
        "What the difference says",
        lambda lab, comparison: differences.view(lab, compared.differences(lab, comparison.name)),
        "differences",
        "What training wrote into every activation at once, their mean difference tells",
    ),
    "Matching": View("SAEs trained apart, matched", matching),
    "Predictions": View("How predictions part", predictions),
    "Answers": View("Two checkpoints answer the same prompt", answers_beside.view),
}

lab = frame.begin("Compare", "What checkpoints share, what only one of them has, and what each stage changed.")

with frame.sentences():
    views.page(lab, VIEWS, unlike_view.all_of(lab))
