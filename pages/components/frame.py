"""What every page has in common: dress, heading, the choice of lab, sentences instead of tracebacks."""

from __future__ import annotations

import contextlib
import html
import os
import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

import streamlit as st

from pages.components import theme
from saes.errors import DictionaryError
from workbench.errors import MarbleError, unknown
from workbench.lab import Lab, labs_home


def dress() -> None:
    """Page settings, logo and style sheet; called once per run, before the page."""
    st.set_page_config(page_title="Marble", layout="wide", page_icon=str(theme.HERE / "icon.svg"))
    st.logo(str(theme.HERE / "marble.svg"), size="large")
    palette = theme.palette()
    colours = f":root {{ --marble-alarm: {palette.alarm}; --marble-accent: {palette.accent}; }}"
    st.html(f"<style>{colours}{theme.source('style.css')}</style>")


def labs() -> list[str]:
    """Names of the labs below `$MARBLE_HOME`."""
    return sorted(path.parent.name for path in labs_home().glob("*/recipe.toml"))


def _chosen(names: Sequence[str]) -> str:
    """The lab of the address bar, else `$MARBLE_LAB`, else `demo`, else the first."""
    asked = st.query_params.get("lab")
    if asked is not None and asked not in names:
        raise unknown("lab", asked, names)
    wanted = os.environ.get("MARBLE_LAB", "demo")
    return wanted if wanted in names else names[0]


def begin(title: str, lead: str) -> Lab:
    """Heading and choice of lab; ends the run with a sentence where there is no lab to show."""
    left, right = st.columns([5, 1.4], vertical_alignment="bottom")
    with left:
        st.title(title, anchor=False)
        st.html(f'<p class="marble-lead">{html.escape(lead)}</p>')
    names = labs()
    if not names:
        note(
            f"There is no lab in {labs_home().resolve()} yet. Run `python -m workbench up` to grow one; "
            "this page shows it as soon as it has begun."
        )
        _look_again()
        st.stop()
    with sentences():
        default = _chosen(names)
        with right:
            name = st.selectbox("Lab", names, index=names.index(default), key="lab", bind="query-params")
        return Lab.open(name)
    links("Open:", [(name, f"?{urlencode({'lab': name})}") for name in names])
    st.stop()


def links(label: str, to: Sequence[tuple[str, str]]) -> None:
    """A row of links: what each is called, and its address."""
    items = " ".join(f'<a href="{html.escape(url)}" target="_self">{html.escape(name)}</a>' for name, url in to)
    st.html(f'<p class="marble-links">{html.escape(label)} {items}</p>')


def doubted(parameter: str, what: str, valid: Sequence[str]) -> None:
    """Say it where the address asks for a `what` that is not here: its widget falls back on the default without
    a word, and a shared link would show another thing than it names. Call it before the widget."""
    asked = st.query_params.get(parameter)
    if asked is not None and asked not in valid:
        note(f"{unknown(what, asked, valid)}; this is another one.", error=True)


@st.fragment(run_every=2.0)
def _look_again() -> None:
    """Shows the first lab without a reload."""
    if labs():
        st.rerun()


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Show a `MarbleError`, or what `saes` refuses, as its sentence and go on after the block."""
    try:
        yield
    except (MarbleError, DictionaryError) as error:
        note(str(error), error=True)


def note(sentence: str, error: bool = False) -> None:
    """A sentence for a person; `back-ticked` words are set as code. Never read as HTML or markdown."""
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(sentence, quote=False))
    role, kind = ("alert", " error") if error else ("note", "")
    st.html(f'<p class="marble-sentence{kind}" role="{role}">{safe}</p>')


def caption(sentence: str) -> None:
    """Small explanatory text under a heading or a picture."""
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(sentence, quote=False))
    st.html(f'<p class="marble-note">{safe}</p>')


def claim(sentence: str) -> None:
    """What was found, in larger type."""
    st.html(f'<p class="marble-claim">{html.escape(sentence, quote=False)}</p>')


def measured(key: str) -> int | None:
    """A button that measures; how often it was pressed in this session, None while it never was."""
    runs = f"{key}_runs"
    if st.button("Measure again" if runs in st.session_state else "Measure", key=key):
        st.session_state[runs] = st.session_state.get(runs, 0) + 1
    return st.session_state.get(runs)


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """A row of labelled figures."""
    items = "".join(
        f"<div><dt>{html.escape(label)}</dt><dd>{html.escape(value)}</dd></div>" for label, value in pairs
    )
    st.html(f'<dl class="marble-facts">{items}</dl>')


def name_tag(checkpoint: str, colour: str, extra: str = "") -> None:
    """A checkpoint's name beside its colour."""
    more = f'<span style="opacity:.65;font-size:.9rem">{html.escape(extra)}</span>' if extra else ""
    st.html(
        f'<p class="marble-name"><i style="background:{colour}"></i>'
        f"<strong>{html.escape(checkpoint)}</strong>{more}</p>"
    )
