"""A held-out document as two checkpoints read it: where in the text itself their predictions part.

A document is cut in windows as the token set cuts it, each read after BOS alone, so that the KL of its tokens is
what `workbench.behaviour` sums over documents.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from workbench.answering import Voice, read_by_both
from workbench.errors import Misuse
from workbench.parted_predictions import Carrier, Parted, carriers, joined
from workbench.tokens import TokenSet
from workbench.vocabulary import read

MOST_TOKENS = 1_024  # read of a document: a screen or two of text
N_BEGINNING = 12  # tokens that a document is told by


class DocumentRead(NamedTuple):
    """The first `len(parted)` of a document's `n_tokens`; `windows`: the rows of `parted` at which one begins."""

    parted: Parted
    windows: list[int]
    n_tokens: int

    def mean_kl(self, model: int) -> float:
        """KL of `parted.kl[model]`, nats per token that was read."""
        return float(self.parted.kl[model].mean())

    def carriers(self, model: int) -> list[Carrier]:
        """The tokens with most of it."""
        return carriers(self.parted.kl[model])


def read_document(
    first: Voice, second: Voice, token_set: TokenSet, document: int, most: int = MOST_TOKENS
) -> DocumentRead:
    """A document's windows in order, whole ones until `most` tokens are read, at least one."""
    windows = windows_of(token_set, document)
    n_tokens = int((token_set.stops - token_set.starts)[windows].sum())
    parts: list[Parted] = []
    begins: list[int] = []
    for window in windows:
        rows = slice(int(token_set.starts[window]), int(token_set.stops[window]))
        at = sum(map(len, parts))
        if parts and at + rows.stop - rows.start > most:
            break
        begins.append(at)
        ids = [token_set.settings["bos"], *token_set.tokens[rows].tolist()]
        parts.append(read_by_both(first, second, ids))
    return DocumentRead(joined(parts), begins, n_tokens)


def windows_of(token_set: TokenSet, document: int) -> np.ndarray:
    """The windows that a document was cut in."""
    found = np.flatnonzero(np.asarray(token_set.document)[token_set.starts] == document)
    if not len(found):
        last = token_set.documents.height - 1
        raise Misuse(f"there is no document {document}: the {token_set.name} set has documents 0 to {last}")
    return found


def beginnings(token_set: TokenSet, domain: str) -> dict[int, str]:
    """The documents of a domain (`token_set.domain`), each with the words that it begins with."""
    vocabulary, ids = token_set.vocabulary, token_set.tokens
    begun = {}
    for document in np.flatnonzero(token_set.domain == domain).tolist():
        start, stop = token_set.documents.select("start", "stop").row(document)
        data = b"".join(read(vocabulary[i]) for i in ids[start : min(stop, start + N_BEGINNING)])
        begun[document] = data.decode("utf-8", errors="replace")
    return begun
