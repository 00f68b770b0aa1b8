"""Token sets, read: the same tokens in the same order for every checkpoint of a family.

A row is one token that a model reads, BOS left out. Documents are cut in windows of at most `n_ctx`; a
window is BOS and then the rows from its `start` to its `stop`, so `position` (the token's place in the
window, BOS at 0) is 1 at every start. A window never holds two documents.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from workbench.errors import Failure, unknown
from workbench.lab import Lab

if TYPE_CHECKING:
    import polars as pl

SETS = ("dictionary", "heldout")
ARRAYS = {"tokens": np.int32, "document": np.int32, "position": np.int32, "special": np.bool_}


class WindowBatch(NamedTuple):
    """Windows side by side, padded on the right.

    `ids` Int[window position] begin with BOS; `rows` Int[window position-1] is the row of the set that the
    token at the position after stands in, -1 where there is padding.
    """

    ids: np.ndarray
    rows: np.ndarray

    @property
    def real(self) -> np.ndarray:
        """Bool[window position-1]: where there is a token and no padding."""
        return self.rows >= 0


@dataclasses.dataclass(frozen=True)
class TokenSet:
    """One set of tokens (`dictionary` or `heldout`), memory-mapped."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        if self.name not in SETS:
            raise unknown("token set", self.name, SETS)

    def __len__(self) -> int:
        return len(self.tokens)

    def _array(self, what: str) -> np.ndarray:
        path = self.folder / f"{self.name}-{what}.npy"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Failure(f"{path} cannot be read as an array ({error}): grow the token sets again") from error
        if array.dtype != ARRAYS[what] or array.ndim != 1:
            raise Failure(
                f"{path} holds {array.dtype} of shape {array.shape}, expected {ARRAYS[what].__name__} [token]: "
                "grow the token sets again"
            )
        return array

    @cached_property
    def tokens(self) -> np.ndarray:
        """int32 [token]."""
        return self._array("tokens")

    @cached_property
    def document(self) -> np.ndarray:
        """int32 [token]: row of `documents`; never decreases."""
        return self._array("document")

    @cached_property
    def position(self) -> np.ndarray:
        """int32 [token]: place in the window, from 1 (0 is BOS)."""
        return self._array("position")

    @cached_property
    def special(self) -> np.ndarray:
        """bool [token]: chat-template tokens."""
        return self._array("special")

    @cached_property
    def documents(self) -> pl.DataFrame:
        """One row a document: document, id, domain, kind, year, president, party, author, start, stop."""
        import polars as pl

        return pl.read_parquet(self.folder / f"{self.name}-documents.parquet")

    @cached_property
    def factors(self) -> pl.DataFrame:
        """(token, factor) pairs, sorted by token."""
        import polars as pl

        return pl.read_parquet(self.folder / f"{self.name}-factors.parquet")

    @cached_property
    def factor_names(self) -> list[str]:
        return json.loads((self.folder / "factors.json").read_text(encoding="utf-8"))

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every token id as `workbench.vocabulary` shows it (`␣the`; a broken byte as ⟨E2⟩)."""
        return json.loads((self.folder / "vocabulary.json").read_text(encoding="utf-8"))

    @cached_property
    def settings(self) -> dict[str, int]:
        """`bos`, `pad`, `n_ctx`."""
        return json.loads((self.folder / "sets.json").read_text(encoding="utf-8"))

    @cached_property
    def domain(self) -> np.ndarray:
        """[document]: prose, world, chat, or `rollout:NAME` for what checkpoint NAME wrote."""
        pairs = self.documents.select("domain", "author").iter_rows()
        return np.array([f"{domain}:{author}" if author else domain for domain, author in pairs])

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [window]: first row of each window."""
        return np.flatnonzero(np.asarray(self.position) == 1)

    @cached_property
    def stops(self) -> np.ndarray:
        """int64 [window]: row after the last of each window."""
        return np.append(self.starts[1:], len(self))

    def window_of(self, row: int) -> int:
        """The window that a row lies in."""
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def rows_of(self, windows: np.ndarray) -> np.ndarray:
        """The rows of some windows, in the windows' order."""
        return np.concatenate([np.arange(self.starts[w], self.stops[w]) for w in windows])

    def sample_windows(self, n_tokens: int, seed: int) -> np.ndarray:
        """Windows drawn at random without return until they hold `n_tokens`; all if the set is smaller."""
        order = np.random.default_rng(seed).permutation(len(self.starts))
        lengths = (self.stops - self.starts)[order]
        return np.sort(order[: int(np.searchsorted(np.cumsum(lengths), n_tokens)) + 1])

    def batches(self, tokens_per_batch: int, windows: np.ndarray | None = None) -> Iterator[WindowBatch]:
        """The windows (all by default), long ones first, as many at a time as fit the budget with padding."""
        chosen = np.arange(len(self.starts)) if windows is None else windows
        lengths = (self.stops - self.starts)[chosen]
        chosen = chosen[np.argsort(-lengths, kind="stable")]
        lengths = self.stops - self.starts
        at = 0
        while at < len(chosen):
            n = max(1, tokens_per_batch // int(lengths[chosen[at]] + 1))
            yield self._batch(chosen[at : at + n])
            at += n

    def _batch(self, windows: np.ndarray) -> WindowBatch:
        starts, stops = self.starts[windows, None], self.stops[windows, None]
        rows = starts + np.arange(int((stops - starts).max()))
        rows = np.where(rows < stops, rows, -1)
        ids = np.where(rows >= 0, self.tokens[rows], self.settings["pad"])
        bos = np.full((len(windows), 1), self.settings["bos"])
        return WindowBatch(np.concatenate([bos, ids], axis=1).astype(np.int64), rows)


def token_set(lab: Lab, family: str, name: str = "heldout") -> TokenSet:
    """A token set of a family of checkpoints (`base` for the lab's own)."""
    return TokenSet(lab.find("activations", f"tokens-{family}").path, name)
