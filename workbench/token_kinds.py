"""A small classification of tokens by their text, for figures that are told apart by kind.

markers        chat markers and other special tokens
digits         only digits (and the blank before them)
words          holds a letter: whole words, parts of them, single letters
punctuation    anything else: marks, blanks, line breaks, broken bytes
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from workbench.vocabulary import TokenText

MARKERS, DIGITS, WORDS, PUNCTUATION = KINDS = ("markers", "digits", "words", "punctuation")


def kind_of(token: TokenText) -> str:
    """The kind of one token; the first that applies."""
    text = token.data.decode("utf-8", "replace").strip()
    if token.special:
        return MARKERS
    if text.isdecimal():
        return DIGITS
    return WORDS if any(letter.isalpha() for letter in text) else PUNCTUATION


def kinds_of(tokens: Iterable[TokenText]) -> np.ndarray:
    """[token] of str: `kind_of` each."""
    return np.array([kind_of(token) for token in tokens])
