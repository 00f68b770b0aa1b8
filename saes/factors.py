"""What is known to be true of each token: a table of binary factors, and the documents tokens come from.

Documents are dealt into two halves at random: what is chosen (a unit, a threshold, a probe) is chosen on the
first, what is reported is measured on the second. A factor counts if it is on in at least `MIN_TOKENS` tokens
of at least `MIN_DOCUMENTS` documents of each half, and off in as many; of factors that are on in the very same
tokens one counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.sparse import csc_matrix, csr_matrix

from saes.errors import DictionaryError

MIN_TOKENS = 10
MIN_DOCUMENTS = 5


@dataclass(frozen=True)
class FactorTable:
    """`labels` is bool [token factor]; `parents[f]` is the factor that is on wherever f is, -1 where there is
    none."""

    labels: csr_matrix
    document: Int[np.ndarray, " token"]
    names: tuple[str, ...]
    parents: Int[np.ndarray, " factor"]

    def __post_init__(self) -> None:
        n_tokens, n_factors = self.labels.shape
        if len(self.document) != n_tokens:
            raise DictionaryError(f"{n_tokens} tokens need a document each, found {len(self.document)}")
        if len(self.names) != n_factors or len(self.parents) != n_factors:
            found = f"{len(self.names)} names and {len(self.parents)} parents"
            raise DictionaryError(f"{n_factors} factors need a name and a parent each, found {found}")

    @classmethod
    def of(
        cls,
        tokens: Int[np.ndarray, " pair"],
        factors: Int[np.ndarray, " pair"],
        document: Int[np.ndarray, " token"],
        names: tuple[str, ...],
        parents: Int[np.ndarray, " factor"] | None = None,
    ) -> FactorTable:
        """From (token, factor) pairs; a pair that is there twice counts once."""
        labels = csr_matrix((np.ones(len(tokens)), (tokens, factors)), shape=(len(document), len(names)))
        labels.sum_duplicates()
        labels.data = np.ones(len(labels.data), bool)
        return cls(labels, np.asarray(document), names, np.full(len(names), -1) if parents is None else parents)

    def __len__(self) -> int:
        return len(self.document)

    @property
    def n_factors(self) -> int:
        return self.labels.shape[1]

    @property
    def positives(self) -> Int[np.ndarray, " factor"]:
        """On how many tokens each factor is on."""
        return np.bincount(self.labels.indices, minlength=self.n_factors)

    @property
    def positive_documents(self) -> Int[np.ndarray, " factor"]:
        """In how many documents each factor is on at all."""
        row = np.repeat(self.document, np.diff(self.labels.indptr))
        pairs = np.unique(row.astype(np.int64) * self.n_factors + self.labels.indices)
        return np.bincount(pairs % self.n_factors, minlength=self.n_factors)

    def column(self, factor: int) -> np.ndarray:
        """Bool [token]."""
        on = np.zeros(len(self), bool)
        on[self.tokens_of(factor)] = True
        return on

    def tokens_of(self, factor: int) -> Int[np.ndarray, " positive"]:
        """Tokens with the factor, ascending."""
        columns = self.by_factor
        return columns.indices[columns.indptr[factor] : columns.indptr[factor + 1]]

    @cached_property
    def by_factor(self) -> csc_matrix:
        """The labels, factor by factor."""
        columns = self.labels.tocsc()
        columns.sort_indices()
        return columns

    def on(self, rows: Int[np.ndarray, " chosen"]) -> FactorTable:
        """The table of some tokens."""
        return replace(self, labels=self.labels[rows], document=self.document[rows])

    def only(self, factors: Int[np.ndarray, " chosen"]) -> FactorTable:
        """The table of some factors; a parent that is left out gives way to the next above it that is kept."""
        place = np.full(self.n_factors + 1, -1)
        place[factors] = np.arange(len(factors))
        parents = []
        for factor in factors:
            above = int(self.parents[factor])
            while above >= 0 and place[above] < 0:
                above = int(self.parents[above])
            parents.append(int(place[above]))
        names = tuple(self.names[f] for f in factors)
        return FactorTable(self.labels[:, factors].tocsr(), self.document, names, np.array(parents, int))


class Halves(NamedTuple):
    """Rows of the tokens of each half, and the factors that count, as tables of those rows alone."""

    first_rows: Int[np.ndarray, " first"]
    second_rows: Int[np.ndarray, " second"]
    first: FactorTable
    second: FactorTable


def halved(table: FactorTable, seed: int = 0) -> Halves:
    """Deal the documents into two halves and keep the factors that count in both."""
    documents = np.unique(table.document)
    chosen = np.random.default_rng(seed).permutation(documents)[: len(documents) // 2]
    inside = np.isin(table.document, chosen)
    rows = np.flatnonzero(inside), np.flatnonzero(~inside)
    enough = np.ones(table.n_factors, bool)
    for half in (table.on(r) for r in rows):
        enough &= (half.positives >= MIN_TOKENS) & (len(half) - half.positives >= MIN_TOKENS)
        enough &= half.positive_documents >= MIN_DOCUMENTS
    kept = table.only(distinct(table, np.flatnonzero(enough)))
    return Halves(rows[0], rows[1], kept.on(rows[0]), kept.on(rows[1]))


def distinct(table: FactorTable, factors: Int[np.ndarray, " chosen"]) -> Int[np.ndarray, " kept"]:
    """Of factors with equal tokens the last, which is the deepest where names are sorted paths."""
    last = {table.tokens_of(int(f)).tobytes(): int(f) for f in factors}
    return np.array(sorted(last.values()), int)
