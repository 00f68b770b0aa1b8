"""Kinds of tokens for a reader who looks at every token, finer than `workbench.token_kinds`, whose four are stored.

markers                 chat markers and other special tokens
part of a character     bytes that are no whole characters: of an emoji, of a letter of a rare script
space                   only blanks, tabs and line breaks
digits                  only digits (and the blank before them)
letters of any script   holds a letter or a combining mark: words, parts of them, single letters
punctuation and signs   anything else: marks, whole emoji, control characters
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import numpy as np

from workbench.vocabulary import TokenText

KINDS = MARKERS, PART, SPACE, DIGITS, LETTERS, SIGNS = (
    "markers", "part of a character", "space", "digits", "letters of any script", "punctuation and signs",
)  # fmt: skip


def kind_of(token: TokenText) -> str:
    """The kind of one token; the first that applies."""
    if token.special:
        return MARKERS
    try:
        text = token.data.decode("utf-8")
    except UnicodeDecodeError:
        return PART
    if text.isspace():
        return SPACE
    if text.strip().isdecimal():
        return DIGITS
    return LETTERS if any(unicodedata.category(sign)[0] in "LM" for sign in text) else SIGNS


def kinds_of(tokens: Iterable[TokenText]) -> np.ndarray:
    """[token] of str: `kind_of` each."""
    return np.array([kind_of(token) for token in tokens])
