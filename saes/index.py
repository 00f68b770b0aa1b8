"""Feature index: every activation of every latent, sorted by latent, from one encoding pass.

Three arrays (token, value, and where each latent starts) answer top examples, equal-interval samples,
histograms, densities and co-activation without a scan: a latent's entries are one slice. Within a latent they
are in token order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64

from saes.arrays import Activations, in_order
from saes.dictionary import Dictionary
from saes.errors import DictionaryError

FILES = ("tokens", "values", "starts")


class Examples(NamedTuple):
    """Tokens (row numbers of the activations) and how strongly the latent fires there."""

    tokens: Int64[np.ndarray, " example"]
    values: Float32[np.ndarray, " example"]


class Histogram(NamedTuple):
    counts: Int64[np.ndarray, " bin"]
    edges: Float[np.ndarray, " edge"]


class CoActivation(NamedTuple):
    """Upper-triangle pairs (first < second) of latents that fire on the same token, and on how many."""

    first: Int64[np.ndarray, " pair"]
    second: Int64[np.ndarray, " pair"]
    counts: Int64[np.ndarray, " pair"]


@dataclass(frozen=True)
class FeatureIndex:
    """The entries of latent j are `starts[j]:starts[j + 1]` of `tokens` and `values`."""

    tokens: Int[np.ndarray, " entry"]
    values: Float32[np.ndarray, " entry"]
    starts: Int64[np.ndarray, " latent_and_one"]
    n_tokens: int

    @classmethod
    def build(cls, dictionary: Dictionary, activations: Activations, limit: int | None = None) -> FeatureIndex:
        rows, latents, values, n = [], [], [], 0
        for x, where in in_order(activations, limit=limit):
            code = dictionary.encode_sparse(x.to(dictionary.device))
            rows.append((code.rows.cpu().numpy() + where[0]).astype(np.int32))
            latents.append(code.latents.cpu().numpy().astype(np.int32))
            values.append(code.values.cpu().numpy().astype(np.float32))
            n += x.shape[0]
        return cls.from_entries(
            *(np.concatenate(part) for part in (rows, latents, values)),
            n_latents=dictionary.n_latents,
            n_tokens=n,
        )

    @classmethod
    def from_entries(
        cls,
        rows: Int[np.ndarray, " entry"],
        latents: Int[np.ndarray, " entry"],
        values: Float[np.ndarray, " entry"],
        *,
        n_latents: int,
        n_tokens: int,
    ) -> FeatureIndex:
        """From entries in token order. The sort is by counting, as sparse CSR to CSC: linear in the
        entries."""
        key = latents.astype(np.int16) if n_latents < 2**15 else latents
        order = np.argsort(key, kind="stable")
        starts = np.zeros(n_latents + 1, dtype=np.int64)
        np.cumsum(np.bincount(latents, minlength=n_latents), out=starts[1:])
        return cls(rows[order], values[order].astype(np.float32), starts, n_tokens)

    @property
    def n_latents(self) -> int:
        return len(self.starts) - 1

    def strengths(self) -> FeatureIndex:
        """The same entries with |f| for f. Latents of two signs (`abstopk`) fire by what is far from zero."""
        values = np.asarray(self.values)
        return self if not len(values) or values.min() >= 0 else replace(self, values=np.abs(values))

    def entries(self, latent: int) -> Examples:
        """All activations of a latent, in token order."""
        if not 0 <= latent < self.n_latents:
            raise DictionaryError(f"there is no latent {latent}; the index holds 0 to {self.n_latents - 1}")
        part = slice(int(self.starts[latent]), int(self.starts[latent + 1]))
        return Examples(np.asarray(self.tokens[part], dtype=np.int64), np.asarray(self.values[part]))

    def top(self, latent: int, n: int) -> Examples:
        """The n strongest activations (farthest from zero), strongest first; of equal ones the earlier token
        first."""
        tokens, values = self.entries(latent)
        if len(values) > 4 * n:
            sizes = np.abs(values)
            edge = np.partition(sizes, len(sizes) - n)[len(sizes) - n]
            strong = np.flatnonzero(sizes >= edge)
            tokens, values = tokens[strong], values[strong]
        order = np.argsort(-np.abs(values), kind="stable")[:n]
        return Examples(tokens[order], values[order])

    def interval_examples(
        self, latent: int, n_intervals: int, per_interval: int, seed: int = 0
    ) -> list[Examples]:
        """Random examples from equal intervals of (0, max |f|], strongest interval first; an interval may be
        empty."""
        tokens, values = self.entries(latent)
        rng = np.random.default_rng([seed, latent])
        sizes = np.abs(values)
        top = float(sizes.max()) if len(sizes) else 1.0
        which = np.clip(np.ceil(sizes / top * n_intervals).astype(int) - 1, 0, n_intervals - 1)
        groups = []
        for interval in reversed(range(n_intervals)):
            inside = np.flatnonzero(which == interval)
            chosen = rng.permutation(inside)[:per_interval]
            chosen = chosen[np.argsort(-sizes[chosen], kind="stable")]
            groups.append(Examples(tokens[chosen], values[chosen]))
        return groups

    def histogram(self, latent: int, bins: int) -> Histogram:
        """Counts of the latent's |f| in equal bins of [0, max |f|]; silent tokens are not counted."""
        values = np.abs(self.entries(latent).values)
        top = float(values.max()) if len(values) else 1.0
        counts, edges = np.histogram(values, bins=bins, range=(0.0, top))
        return Histogram(counts.astype(np.int64), edges)

    def densities(self) -> Float[np.ndarray, " latent"]:
        """Share of tokens each latent fires on."""
        return np.diff(self.starts) / max(self.n_tokens, 1)

    def coactivation(self) -> CoActivation:
        """FᵀF of the binary code, as its upper triangle without the diagonal (which is `densities`)."""
        from scipy.sparse import csc_matrix  # a fifth of a second to import, and only this method needs it

        ones = np.ones(len(self.tokens), dtype=np.int32)
        fires = csc_matrix((ones, np.asarray(self.tokens), self.starts), shape=(self.n_tokens, self.n_latents))
        pairs = (fires.T @ fires).tocoo()
        upper = pairs.row < pairs.col
        first, second, counts = (a[upper].astype(np.int64) for a in (pairs.row, pairs.col, pairs.data))
        order = np.lexsort((second, first))
        return CoActivation(first[order], second[order], counts[order])

    def save(self, path: Path | str) -> Path:
        """Three .npy files in `path`, to be memory-mapped by `load`."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            np.save(path / f"{name}.npy", getattr(self, name))
        np.save(path / "n_tokens.npy", np.array(self.n_tokens))
        return path

    @classmethod
    def load(cls, path: Path | str) -> FeatureIndex:
        path = Path(path)
        try:
            tokens, values, starts = (
                np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in FILES
            )
            n_tokens = int(np.load(path / "n_tokens.npy", allow_pickle=False))
        except (OSError, ValueError, EOFError, TypeError, SyntaxError) as error:
            gist = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DictionaryError(f"{path} is not a whole feature index ({gist}); build it again") from None
        if {tokens.ndim, values.ndim, starts.ndim} != {1} or not len(starts) or (np.diff(starts) < 0).any():
            raise DictionaryError(f"{path} is not a feature index (its arrays are no lists); build it again")
        if not len(tokens) == len(values) == starts[-1]:
            found = f"{len(tokens)} tokens, {len(values)} values and {starts[-1]} entries"
            raise DictionaryError(f"{path} holds {found}, which should be equal; build it again")
        return cls(tokens, values, np.asarray(starts), n_tokens)


def as_tensor(index: FeatureIndex, latent: int) -> Float[torch.Tensor, " token"]:
    """One latent's activation on every token, dense: what probes and factor statistics read."""
    out = torch.zeros(index.n_tokens)
    tokens, values = index.entries(latent)
    out[torch.from_numpy(tokens)] = torch.from_numpy(np.array(values))
    return out
