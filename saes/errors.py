"""The one error a user of this library meets: a sentence that says what was found and what to do."""

from __future__ import annotations


class DictionaryError(ValueError):
    """Something that was given (a file, a shape, a setting, an activation) cannot be used."""


class StateError(DictionaryError):
    """A training state on disk is not this run's, or not whole."""
