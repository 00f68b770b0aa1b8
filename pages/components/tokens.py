"""Token strips: texts as tokens, tinted by a value, each token readable by hover and by keyboard.

The component builds its DOM with `textContent`: a text that holds HTML or a script shows as text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import streamlit as st

from pages.components import theme

if TYPE_CHECKING:
    from workbench.vocabulary import TokenText


class Token(TypedDict, total=False):
    """One token: `value` tints it, `lines` are said on hover, `under` stands below a boxed one."""

    text: str
    value: float
    colour: str
    lines: list[str]
    under: str
    special: bool


class Strip(TypedDict, total=False):
    """One text: `head` above it (its first part in bold), `peak` marked, cut around the peak if `clip`; `chosen` is
    the token that a click chose.

    A token whose value is `max` (1 unless told) has the full tint.
    """

    tokens: list[Token]
    max: float
    head: list[str]
    peak: int
    chosen: int
    clip: bool
    label: str


_component = st.components.v2.component(
    "marble_tokens",
    html='<div class="strips"></div>',
    css=theme.source("tokens.css", "readout.css"),
    js=theme.source("dom.js", "tokens.js"),
)


def readable(token: TokenText) -> str:
    """A token as it stands in running text; as signs (see `workbench.vocabulary`) where that is no text."""
    try:
        return token.shown if token.special else token.data.decode("utf-8")
    except UnicodeDecodeError:
        return token.shown


def from_shown(text: str) -> Token:
    """A token that came as signs, as it stands in running text; markers and half characters stay signs."""
    from workbench.vocabulary import read

    try:
        return Token(text=read(text).decode("utf-8"), special=text.startswith("<|") and text.endswith("|>"))
    except UnicodeDecodeError:
        return Token(text=text)


def running(tokens: Sequence[TokenText], lines: Sequence[list[str]]) -> list[Token]:
    """Tokens as running text, each with what is said on hover."""
    return [
        Token(text=readable(t), lines=line, special=t.special) for t, line in zip(tokens, lines, strict=True)
    ]


def strips(
    texts: Sequence[Strip],
    colour: str,
    key: str,
    boxed: bool = False,
    choose: Callable[[int, int], None] | None = None,
) -> None:
    """Draw texts one under the other; `boxed` sets every token in a box of its own. A token that is clicked goes to
    `choose`: the number of its text, and its place in it."""

    def clicked() -> None:
        if choose is not None and (at := st.session_state[key].get("token")):
            choose(*(int(part) for part in at.split(".")))

    data: dict[str, Any] = {"strips": list(texts), "colour": colour, "boxed": boxed}
    if choose is None:
        _component(key=key, data=data)
    else:
        _component(key=key, data=data | {"choosing": True}, on_token_change=clicked)
