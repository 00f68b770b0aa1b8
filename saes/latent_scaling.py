"""Latent scaling: how much of a crosscoder's latent another model has, whatever the norms of its decoder say.

    β_j^y = Σ_i f_j(x_i) ⟨d_j, y_i⟩ / (‖d_j‖² Σ_i f_j(x_i)²)          least squares of y on f_j d_j

d_j is the decoder of the model that the question is about (`own`), one for both sides of a ratio; y is what a
model (`other`) has at the same tokens:

    error            y = x^m − (x̂^m − f_j d_j^m)    what all other latents leave over: a high ratio is complete
                     shrinkage (the model has the feature; training shrank its decoder away)
    reconstruction   y = x̂^m − b^m                  a high ratio is decoupling (other latents write it there)

    ν = |β^other| / β^own          specific to own: ν^error < 0.2 and ν^reconstruction < 0.5, for every other

[Minder 2025], in normalised units (x^m / σ_m). We take |β| where the source drops latents with β^other < 0: of a
feature that the other model lacks β^other is noise about zero, and half of those would go. ν is NaN where
β^own ≤ 0, and where the latent never fires. Reconstructions are taken without b: it stands beside every latent.

A model that the crosscoder does not read (a control) is compared by its error alone, with the reconstruction of
the model that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor

from saes.arrays import Activations, read
from saes.dictionary import Dictionary
from saes.errors import DictionaryError
from saes.heldout import counted_chunks
from saes.sparse import Pattern, inner

ERROR_BOUND, RECONSTRUCTION_BOUND = 0.2, 0.5
RESAMPLES = 200


class Stand(NamedTuple):
    """A model beside the crosscoder's: its activations, and which of the crosscoder's models it stands for."""

    activations: Activations
    model: str


@dataclass(frozen=True)
class Scaling:
    """β by latent, own model and other model, with 95 % intervals of ν by bootstrap over groups of tokens."""

    beta: Float[np.ndarray, "latent own other"]
    low: Float[np.ndarray, "latent own other"]
    high: Float[np.ndarray, "latent own other"]

    @property
    def ratio(self) -> Float[np.ndarray, "latent own other"]:
        """ν."""
        n = self.beta.shape[1]
        own = np.diagonal(self.beta[:, :, :n], axis1=1, axis2=2)[:, :, None]
        return _ratio(self.beta, own)


@dataclass(frozen=True)
class LatentScaling:
    """Both kinds of scaling; `names` are the crosscoder's models, then those beside them."""

    names: tuple[str, ...]
    n_models: int
    error: Scaling
    reconstruction: Scaling
    fires: Int[np.ndarray, "latent"]

    def specific(self, own: str, others: Sequence[str] | None = None) -> Bool[np.ndarray, "latent"]:
        """Latents whose ν lie under both bounds for every one of `others` (all of the crosscoder's by default)."""
        o = self._index(own)
        if o >= self.n_models:
            raise DictionaryError(f"the crosscoder does not read {own!r}: none of its latents can be its own")
        chosen = [self._index(name) for name in others or self.names[: self.n_models] if name != own]
        if not chosen:
            raise DictionaryError(f"name a model that {own!r} is compared with")
        read = [m for m in chosen if m < self.n_models]  # those beside have no reconstruction of their own
        error, rest = self.error.ratio[:, o, chosen], self.reconstruction.ratio[:, o, read]
        under = np.concatenate([error < ERROR_BOUND, rest < RECONSTRUCTION_BOUND], axis=1)
        return np.asarray(under.all(axis=1))

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise DictionaryError(f"there is no model {name!r} here: choose {', '.join(self.names)}")
        return self.names.index(name)


def latent_scaling(
    crosscoder: Dictionary,
    activations: Activations,
    group: Int[np.ndarray, "token"] | None = None,
    counted: Bool[np.ndarray, "token"] | None = None,
    beside: Mapping[str, Stand] | None = None,
    report: Callable[[int], None] = lambda n: None,
) -> LatentScaling:
    """β and ν of every latent for every pair of models, over the `counted` tokens (all by default); intervals
    resample `group` (documents). `report` is told the tokens done."""
    if crosscoder.n_models < 2 and not beside:
        raise DictionaryError("latent scaling compares models: give a crosscoder, or models beside")
    beside = beside or {}
    n = len(activations)
    for name, stand in beside.items():
        if len(stand.activations) != n:
            raise DictionaryError(f"{name!r} has {len(stand.activations)} tokens, the crosscoder's models {n}")
    group = np.zeros(n, dtype=np.int64) if group is None else np.asarray(group, dtype=np.int64)
    counted = np.ones(n, dtype=bool) if counted is None else np.asarray(counted)
    names = (*crosscoder.names, *beside)
    sums = _Sums(int(group.max()) + 1, crosscoder.n_latents)
    for x, rows in counted_chunks(activations, counted):
        others = {name: read(stand.activations, rows)[:, 0] for name, stand in beside.items()}
        sums.add(*_entries(crosscoder, x, others, {k: s.model for k, s in beside.items()}), group[rows])
        report(len(rows))
    found = sums.finished()
    added = _overlaps(crosscoder, [s.model for s in beside.values()])
    n_models = crosscoder.n_models
    squares = np.diagonal(added[:, :, :n_models], axis1=1, axis2=2)
    error = _scaling(found, 1, added, squares)
    rest = _scaling(found, 1 + n_models * len(names), np.zeros_like(added[:, :, :n_models]), squares)
    return LatentScaling(names, n_models, error, rest, found.fires)


@torch.no_grad()
def _entries(
    crosscoder: Dictionary,
    x: Float[Tensor, "token model d"],
    others: Mapping[str, Float[Tensor, "token d"]],
    stands_for: Mapping[str, str],
) -> tuple[Int[np.ndarray, "entry"], Int[np.ndarray, "entry"], Float[np.ndarray, "entry column"]]:
    """Token and latent of every entry; f², then f⟨d^own, x^m − x̂^m⟩ and f⟨d^own, x̂^m − b^m⟩ for all pairs."""
    code = crosscoder.encode_sparse(x)
    written = crosscoder.decode_sparse(code, len(x))
    scales = crosscoder.scales
    left = [(x[:, m] - written[:, m]) / scales[m] for m in range(crosscoder.n_models)]
    made = [(written[:, m] - crosscoder.b_dec[m]) / scales[m] for m in range(crosscoder.n_models)]
    for name, theirs in others.items():
        m = crosscoder.model_index(stands_for[name])
        left.append((theirs - written[:, m]) / scales[m])
    pattern = Pattern(code.rows, code.latents, len(x), crosscoder.n_latents)
    decoders = [crosscoder.W_dec[:, o] / scales[o] for o in range(crosscoder.n_models)]
    columns = [code.values.square()]
    for side in (left, made):
        columns += [code.values * inner(pattern, y, d.contiguous()) for d in decoders for y in side]
    stacked = torch.stack(columns, dim=1).double().cpu().numpy()
    return code.rows.cpu().numpy(), code.latents.cpu().numpy(), stacked


class _Found(NamedTuple):
    """Sums by (latent, group), the pairs that have an entry, in order."""

    latent: Int[np.ndarray, "pair"]
    group: Int[np.ndarray, "pair"]
    sums: Float[np.ndarray, "pair column"]
    fires: Int[np.ndarray, "latent"]
    n_groups: int

    def by_latent(self, column: int) -> csr_matrix:
        shape = (len(self.fires), self.n_groups)
        return csr_matrix((self.sums[:, column], (self.latent, self.group)), shape=shape)


class _Sums:
    """Adds entries up by latent and group, a chunk at a time."""

    def __init__(self, n_groups: int, n_latents: int) -> None:
        self._n_groups = n_groups
        self._fires = np.zeros(n_latents, dtype=np.int64)
        self._keys: list[np.ndarray] = []
        self._sums: list[np.ndarray] = []

    def add(
        self,
        tokens: Int[np.ndarray, "entry"],
        latents: Int[np.ndarray, "entry"],
        columns: Float[np.ndarray, "entry column"],
        group: Int[np.ndarray, "token"],
    ) -> None:
        self._fires += np.bincount(latents, minlength=len(self._fires))
        keys, sums = _summed(latents * self._n_groups + group[tokens], columns)
        self._keys.append(keys)
        self._sums.append(sums)

    def finished(self) -> _Found:
        if not self._keys:
            raise DictionaryError("no token counts: latent scaling needs some")
        keys, sums = _summed(np.concatenate(self._keys), np.concatenate(self._sums))
        return _Found(keys // self._n_groups, keys % self._n_groups, sums, self._fires, self._n_groups)


def _summed(
    keys: Int[np.ndarray, "entry"], columns: Float[np.ndarray, "entry column"]
) -> tuple[Int[np.ndarray, "pair"], Float[np.ndarray, "pair column"]]:
    """Rows of one key added up; keys ascend."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[starts], np.add.reduceat(columns[order], starts, axis=0) if len(keys) else columns


def _overlaps(crosscoder: Dictionary, stands_for: Sequence[str]) -> Float[np.ndarray, "latent own other"]:
    """⟨d^own, d^other⟩ in normalised units: what f_j d_j^other itself adds to the error."""
    decoders = (crosscoder.W_dec / crosscoder.scales[:, None]).double().cpu().numpy()
    theirs = [*range(crosscoder.n_models), *(crosscoder.model_index(name) for name in stands_for)]
    return np.einsum("jod,jmd->jom", decoders, decoders[:, theirs])


def _scaling(
    found: _Found,
    first: int,
    added: Float[np.ndarray, "latent own other"],
    squares: Float[np.ndarray, "latent own"],
) -> Scaling:
    """β and the intervals of ν from the sums in column `first` and those after it, own by own; `added` (times f²)
    is what the sums leave out."""
    n_latents, n_models, n_all = added.shape
    even = np.full(found.n_groups, 1 / found.n_groups)
    drawn = np.random.default_rng(0).multinomial(found.n_groups, even, size=RESAMPLES).T
    weights = np.concatenate(
        [np.ones((found.n_groups, 1)), drawn], axis=1
    )  # all as they are, then the resamples
    f2 = found.by_latent(0) @ weights

    def covariance(own: int, other: int) -> np.ndarray:
        """Σ f ⟨d^own, y^other⟩ of all tokens, then of each resample."""
        return found.by_latent(first + own * n_all + other) @ weights + added[:, own, other, None] * f2

    beta, low, high = (np.full((n_latents, n_models, n_all), np.nan) for _ in range(3))
    for own in range(n_models):
        below = covariance(own, own)
        for other in range(n_all):
            above = covariance(own, other)
            with np.errstate(divide="ignore", invalid="ignore"):
                beta[:, own, other] = above[:, 0] / (squares[:, own] * f2[:, 0])
            low[:, own, other], high[:, own, other] = _quantiles(_ratio(above[:, 1:], below[:, 1:]))
    return Scaling(beta, low, high)


def _ratio(other: np.ndarray, own: np.ndarray) -> np.ndarray:
    """|other| / own; NaN where own is not above zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(own > 0, np.abs(other) / own, np.nan)


def _quantiles(samples: Float[np.ndarray, "latent resample"]) -> tuple[np.ndarray, np.ndarray]:
    """2.5 % and 97.5 % over the resamples that have a figure; NaN where fewer than half do."""
    enough = np.isfinite(samples).mean(axis=1) >= 0.5
    low, high = (np.full(len(samples), np.nan) for _ in range(2))
    if enough.any():
        low[enough], high[enough] = np.nanquantile(samples[enough], (0.025, 0.975), axis=1)
    return low, high
