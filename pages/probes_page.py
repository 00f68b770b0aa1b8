"""Probes: questions about checkpoints, each answered with n, an interval and a null."""

import streamlit as st

from pages.components import frame, probe_choice, probe_finding, probe_job

lab = frame.begin("Probes", "Questions about checkpoints, each answered with n, an interval and a null.")

with frame.sentences():
    checkpoints = probe_choice.checkpoints(lab)
    if checkpoints:
        left, right = st.columns([2, 5], gap="large")
        with left:
            chosen = probe_choice.probe(lab, checkpoints)
        with right, frame.sentences():
            options = probe_job.asking(lab, chosen, checkpoints)
            probe_finding.view(lab, chosen, checkpoints, options)
