"""Probes: questions about checkpoints, each answered with n, an interval and a null."""

import streamlit as st

from pages.components import frame, probe_choice, probe_finding, probe_job

lab = frame.begin("Probes", "Questions about checkpoints, each answered with n, an interval and a null.")

with frame.sentences():
    checkpoints = probe_choice.checkpoints(lab)
    if checkpoints:
        left, right = st.columns([2, 5], gap="large")
        with left:
            board = probe_choice.Board.of(lab, checkpoints)
            chosen = probe_choice.probe(board)
        with right, frame.sentences():
            options = probe_job.asking(lab, chosen, board)
            probe_finding.view(chosen, board, options)
