"""Trace: one message through the machine, stage by stage, in one checkpoint or in two beside each other. Only the
stage that is looked at is drawn."""

from collections.abc import Callable, Mapping

import streamlit as st

from pages.components import (
    asked,
    frame,
    store,
    theme,
    trace_attend,
    trace_behind,
    trace_embed,
    trace_loop,
    trace_predict,
    trace_sample,
    trace_tokenize,
)
from workbench.lab import Lab
from workbench.trace import Trace

View = Callable[[Lab, asked.Question, Mapping[str, Trace], Mapping[str, str]], None]

VIEWS: Mapping[str, View] = {
    "Tokenize": trace_tokenize.view,
    "Embed": trace_embed.view,
    "Attend": trace_attend.view,
    "Predict": trace_predict.view,
    "Sample": trace_sample.view,
    "Loop": trace_loop.view,
}

CHOOSING = ("Tokenize", "Embed")  # they let a token be chosen, and show what is behind it, themselves

lab = frame.begin("Trace", "One message through the machine, stage by stage, in one checkpoint or two.")

with frame.sentences():
    question = asked.question(lab)
    if question is None:
        st.stop()
    stage = asked.stage(list(VIEWS))
    traces = {a: store.traced(lab, a, question.text, question.chat) for a in question.checkpoints}
    asked.notes(lab, question, traces)
    VIEWS[stage](lab, question, traces, theme.colours(list(traces)))
    if stage not in CHOOSING:
        trace_behind.below(lab, question, traces, theme.colours(list(traces)))
