"""Opening a lab's dictionaries, and what is wrong with one in one sentence.

Apart from what trains and scores them, so that a dashboard, which only reads, need not wait for `transformers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from saes import folder
from saes.dictionary import Dictionary
from saes.errors import DictionaryError
from workbench.errors import Failure


@contextlib.contextmanager
def dictionary_sentences(name: str) -> Iterator[None]:
    """Turn what `saes` refuses into the lab's `Failure`, with the dictionary's name before it."""
    try:
        yield
    except DictionaryError as error:
        raise Failure(f"dictionary {name!r}: {error}") from error


def open_dictionary(path: Path, name: str) -> Dictionary:
    """The dictionary in an artefact's folder."""
    with dictionary_sentences(name):
        return folder.load(path)
