"""Verdict: what each stage added, strengthened, silenced and left alone, every line beside its controls."""

import json

import streamlit as st

from pages.components import compared, frame, store, theme, unlike_view
from workbench.verdict_html import block, document

lab = frame.begin("Verdict", "What each stage added, strengthened, silenced and left alone.")

with frame.sentences():
    names = store.finished(lab, "comparison")
    if not names:
        unlike_view.left_out(lab, "A verdict")
        frame.note(
            "No comparison has been finished yet: "
            f"`python -m workbench compare {lab.name} base sft grpo` makes one and takes it apart."
        )
        st.stop()
    known = [*names, *unlike_view.left_out(lab, "A verdict")]
    frame.doubted("comparison", "comparison", known)
    name = st.selectbox("Comparison", names, key="comparison", bind="query-params", width=360)
    found = compared.sheet(lab, name)
    left, right, _ = st.columns([1, 1, 4])
    left.download_button("HTML", document(found), f"{lab.name}-{name}.html", "text/html", on_click="ignore")
    told = json.dumps(found.as_json(), indent=1, ensure_ascii=False)
    right.download_button("JSON", told, f"{lab.name}-{name}.json", "application/json", on_click="ignore")
    st.html(block(found, dark=theme.palette() is theme.DARK))
