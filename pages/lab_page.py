"""Lab: what is here, how it descends, what is growing."""

import streamlit as st

from pages.components import dictionaries, disk, frame, growth, lineage, stages
from workbench.plan import Plan, resolve

lab = frame.begin("Lab", "What has been grown here, what descends from what, and what is growing now.")

with frame.sentences():
    plan = Plan.of(lab)
    resolved = resolve(lab, plan)
    done = growth.keys_done(resolved)
    shape = plan.recipe.model
    frame.facts(
        [
            ("preset", plan.recipe.preset),
            ("text", plan.recipe.corpus.source),
            ("model", f"{shape.n_layers} layers, d_model {shape.d_model}, n_ctx {shape.n_ctx}"),
            ("steps grown", f"{len(done)} of {len(resolved)}"),
        ]
    )
    growth.watch(lab, done)

    st.header("Lineage", anchor=False)
    frame.caption(
        "Every checkpoint is trained from the one at its left. "
        "The two marks on a bar of answers are its 95 % interval, a third one how often it is right when made to "
        "show its steps; marks on base's bar are the n-grams."
    )
    lineage.tree(plan, resolved, growth.running(lab), lab.name)

    st.header("Training", anchor=False)
    stages.curves(resolved, growth.running(lab))
    stages.samples(lab, resolved)

    st.header("Dictionaries", anchor=False)
    dictionaries.pictures(plan, resolved, lab.name)

    st.header("Comparisons", anchor=False)
    dictionaries.comparisons(plan, resolved, lab.name)

    st.header("On disk", anchor=False)
    disk.usage(lab, resolved)
