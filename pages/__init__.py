"""The Streamlit app: `app.py` is navigation, one thin file per view, `components/` the custom views."""
