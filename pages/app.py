"""The app: navigation only. Each view is a file of its own beside this one.

python -m streamlit run pages/app.py
"""

import sys
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parent
if str(ROOT.parent) not in sys.path:  # `streamlit run` puts only this folder on the path
    sys.path.insert(0, str(ROOT.parent))

from pages.components import frame  # noqa: E402

frame.dress()
st.navigation(
    [
        st.Page(ROOT / "lab_page.py", title="Lab", default=True),
        st.Page(ROOT / "trace_page.py", title="Trace", url_path="trace"),
        st.Page(ROOT / "superposition_page.py", title="Superposition", url_path="superposition"),
        st.Page(ROOT / "features_page.py", title="Features", url_path="features"),
        st.Page(ROOT / "dictionaries_page.py", title="Dictionaries", url_path="dictionaries"),
        st.Page(ROOT / "compare_page.py", title="Compare", url_path="compare"),
        st.Page(ROOT / "circuits_page.py", title="Circuits", url_path="circuits"),
        st.Page(ROOT / "probes_page.py", title="Probes", url_path="probes"),
        st.Page(ROOT / "drift_page.py", title="Drift", url_path="drift"),
        st.Page(ROOT / "verdict_page.py", title="Verdict", url_path="verdict"),
    ],
    position="top",
).run()
