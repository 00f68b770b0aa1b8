"""Verdict: what each stage added, strengthened, silenced and left alone, every line beside its controls."""

import json

import streamlit as st

from pages.components import compared, frame, theme, unlike_view, views
from workbench.verdict_html import block, document

lab = frame.begin("Verdict", "What each stage added, strengthened, silenced and left alone.")

with frame.sentences():
    name = views.choice(views.comparisons(lab, unlike_view.left_out(lab, "A verdict")))
    found = compared.sheet(lab, name)
    left, right, _ = st.columns([1, 1, 4])
    left.download_button("HTML", document(found), f"{lab.name}-{name}.html", "text/html", on_click="ignore")
    told = json.dumps(found.as_json(), indent=1, ensure_ascii=False)
    right.download_button("JSON", told, f"{lab.name}-{name}.json", "application/json", on_click="ignore")
    st.html(block(found, dark=theme.palette() is theme.DARK))
