"""What a dictionary has to beat, each as a `Dictionary` or as `Activations`, so that one scorer serves all.

    PCA                x̂ = x̄ + U Uᵀ(x − x̄), U the k leading principal components of each model
    neurons            the k coordinates farthest from their mean are kept, the rest stay at the mean
    random             random unit decoder, encoder its transpose, one threshold such that L0 = k, the
                       reconstruction scaled and shifted by least squares: ⟨x − x̄, Df − mean⟩ / ‖Df − mean‖²
    Gaussian           activations N(x̄, Σ) with the real ones' mean and covariance Σ: what a dictionary finds
                       where there is nothing but covariance

With N models PCA and neurons may spend k numbers on each model, a crosscoder k on all of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, einsum

from saes.arrays import BLOCK_ROWS, Activations, read, spread
from saes.calibrate import CALIBRATION_ROWS, calibrated, measure
from saes.dictionary import Dictionary
from saes.errors import DictionaryError
from saes.pca import PCA, fit_pca

EIGENVALUE_FLOOR = 0.0  # rounding leaves eigenvalues of a singular covariance a little below zero


class GaussianLike:
    """`n` rows of noise N(mean, covariance of `like`), the models' coordinates jointly.

    x = x̄ + U √Λ z with the exact eigendecomposition of the covariance over all rows of `like`. The noise z
    of a row depends on the seed and the row alone (a generator a block of `BLOCK_ROWS` rows): it is the same
    in every epoch and in any order, and nothing is stored.
    """

    def __init__(self, like: Activations, n: int, seed: int = 0) -> None:
        n_models, d = read(like, np.arange(1)).shape[1:]
        pca = fit_pca(_SideBySide(like), n_models * d)
        factor = pca.basis[0].double() * pca.variances[0].double().clamp_min(EIGENVALUE_FLOOR).sqrt()
        self._shape, self._n, self._seed = (n_models, d), n, seed
        self._mean, self._factor = pca.mean[0], factor.float()

    def another(self, n: int, seed: int) -> GaussianLike:
        """Other rows of the same distribution."""
        if seed == self._seed:
            raise DictionaryError(f"seed {seed} gives these very rows again; choose another")
        made = object.__new__(GaussianLike)
        made.__dict__.update(self.__dict__ | {"_n": n, "_seed": seed})
        return made

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, rows: np.ndarray) -> Float[Tensor, "token model d"]:
        rows = np.asarray(rows)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self._n:
            raise DictionaryError(f"there are {self._n} rows; found row {rows.min()} to {rows.max()}")
        blocks, place = np.unique(rows // BLOCK_ROWS, return_inverse=True)
        width = len(self._mean)
        noise = np.empty((len(blocks), BLOCK_ROWS, width), dtype=np.float32)
        for at, block in enumerate(blocks.tolist()):
            np.random.default_rng([self._seed, block]).standard_normal(out=noise[at], dtype=np.float32)
        z = torch.from_numpy(noise[place, rows % BLOCK_ROWS])
        return (z @ self._factor.T + self._mean).view(len(rows), *self._shape)


class _SideBySide:
    """Several models' activations as those of one of N·d coordinates."""

    def __init__(self, activations: Activations) -> None:
        self._activations = activations

    def __len__(self) -> int:
        return len(self._activations)

    def __getitem__(self, rows: np.ndarray) -> Float[Tensor, "token one flat"]:
        return self._activations[rows].flatten(1)[:, None]


def pca_dictionary(pca: PCA, names: tuple[str, ...]) -> Dictionary:
    """PCA as a dictionary whose every latent is on: N·k of them, the signs kept."""
    n, _, k = pca.basis.shape
    blocks = einsum("mdk,mn->mdnk", pca.basis, torch.eye(n)).flatten(2)
    return _signed(blocks, pca.mean, torch.ones(n), names, n * k)


def neurons(activations: Activations, k: int, names: tuple[str, ...]) -> Dictionary:
    """The k coordinates (of N models: N·k of all) farthest from their mean, in units of each model's σ."""
    units = measure(activations)
    n, d = units.mean.shape
    blocks = torch.eye(n * d).view(n, d, n * d)
    return _signed(blocks, units.mean, units.scales, names, min(n * k, n * d))


def _signed(
    W: Float[Tensor, "model d latent"],
    mean: Float[Tensor, "model d"],
    scales: Float[Tensor, " model"],
    names: tuple[str, ...],
    k: int,
) -> Dictionary:
    """Orthonormal directions, the k farthest from zero kept with their signs; latents in units of σ."""
    W_enc = W / scales[:, None, None]
    return Dictionary(
        W_enc=W_enc,
        b_enc=-einsum("mdf,md->f", W_enc, mean),
        W_dec=(W * scales[:, None, None]).permute(2, 0, 1).contiguous(),
        b_dec=mean,
        threshold=torch.zeros(W.shape[2]),
        scales=scales,
        names=names,
        k=k,
        activation="abstopk",
    )


@torch.no_grad()
def random_like(
    activations: Activations,
    n_latents: int,
    k: int,
    names: tuple[str, ...],
    seed: int = 0,
    calibration: Activations | None = None,
) -> Dictionary:
    """Random directions with the best threshold, scale and offset that they can have (see the module's head).

    `calibration`: activations for the threshold (held back, if there are some).
    """
    units = measure(activations)
    n, d = units.mean.shape
    W_dec = random_directions(n_latents, n * d, seed).view(n_latents, n, d)
    W_enc = W_dec.permute(1, 2, 0) / units.scales[:, None, None]
    raw = Dictionary(
        W_enc=W_enc.contiguous(),
        b_enc=-einsum("mdf,md->f", W_enc, units.mean),
        W_dec=(W_dec * units.scales[:, None]).contiguous(),
        b_dec=torch.zeros(n, d),
        threshold=torch.zeros(n_latents),
        scales=units.scales,
        names=names,
        k=k,
    )
    return rescaled(calibrated(raw, activations if calibration is None else calibration), activations)


def random_directions(n: int, width: int, seed: int) -> Float[Tensor, "latent width"]:
    """`n` directions drawn evenly from the unit sphere."""
    rng = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, width, generator=rng), dim=1)


def rescaled(
    dictionary: Dictionary, activations: Activations, targets: Activations | None = None
) -> Dictionary:
    """With the scale of W_dec a model, and the b_dec that goes with it, that fit best by least squares on rows
    spread over the set. `targets`: what a transcoder is to write."""
    rows = spread(activations, CALIBRATION_ROWS)
    x = read(activations, rows)
    y = dictionary.reconstruct(x).double()
    x = x if targets is None else read(targets, rows)
    x_mean, y_mean = x.double().mean(dim=0), y.mean(dim=0)
    away_x, away_y = x.double() - x_mean, y - y_mean
    scale = (away_x * away_y).sum(dim=(0, 2)) / away_y.square().sum(dim=(0, 2)).clamp_min(1e-12)
    return replace(
        dictionary,
        W_dec=(dictionary.W_dec * scale[:, None]).float(),
        b_dec=(x_mean - scale[:, None] * y_mean).float(),
    )
