"""What the difference between two checkpoints' streams at one token is made of, in a crosscoder's latents.

    δ = a_B − a_A = Σ_j f_j (d_j^B − d_j^A) + (b^B − b^A) + (ε^B − ε^A)

f is one code for all of the crosscoder's checkpoints, b its decoder bias, ε what it leaves over. The share of a
term t is its signed projection on the difference, ⟨t, δ⟩ / ‖δ‖²: all shares add up to 1, one below zero works
against the difference. The last, of ε, is what the crosscoder does not explain. Activations, decoders and bias are
in the models' own units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from saes.dictionary import Dictionary
from workbench.answering import Voice
from workbench.points import Site

if TYPE_CHECKING:
    import polars as pl

OTHERS, BIAS, ERROR = "the other latents that fire", "decoder bias", "left unexplained"


@dataclasses.dataclass(frozen=True)
class Shares:
    """The parts of one difference, the largest shares (in size) first. `moved` is ‖δ‖ / ‖a_A‖."""

    latents: Int[np.ndarray, "active"]
    activations: Float[np.ndarray, "active"]
    shares: Float[np.ndarray, "active"]
    bias: float
    error: float
    moved: float

    def table(self, latents: pl.DataFrame, n: int) -> pl.DataFrame:
        """what, latent, activation, share and the columns of `latents` (latent, label, w_…): `n` latents, the
        others in one row, the bias, and last what is left unexplained. The shares add up to 1."""
        import polars as pl

        schema: dict[str, Any] = {"latent": pl.Int32, "activation": pl.Float64, "share": pl.Float64}
        columns = (self.latents[:n], self.activations[:n], self.shares[:n])
        told = pl.DataFrame(
            [list(map(_plain, row)) for row in zip(*columns, strict=True)], schema, orient="row"
        )
        told = told.join(latents, on="latent", how="left", maintain_order="left")
        rest = [(OTHERS, float(self.shares[n:].sum()))] if len(self.latents) > n else []
        rest += [(BIAS, self.bias), (ERROR, self.error)]
        rows = pl.DataFrame(rest, {"what": pl.String, "share": pl.Float64}, orient="row")
        named = told.with_columns(pl.format("latent {}", "latent").alias("what"))
        whole = pl.concat([named, rows], how="diagonal")
        first = ["what", "latent", "activation", "share"]
        return whole.select(*first, *(c for c in whole.columns if c not in first))


def _plain(value: Any) -> Any:
    return value.item()


def difference_shares(
    dictionary: Dictionary, x: Float[Tensor, "model d"], first: str, second: str
) -> Shares | None:
    """The difference from `first` to `second` at one token, whose activations in all of the crosscoder's
    checkpoints are `x`; None where the two streams are equal."""
    a, b = dictionary.model_index(first), dictionary.model_index(second)
    code = dictionary.encode(x[None])[0].double().numpy()
    streams, decoders, bias = (part.double().numpy() for part in (x, dictionary.W_dec, dictionary.b_dec))
    difference = streams[b] - streams[a]
    squared = float(difference @ difference)
    if squared == 0:
        return None
    on = np.flatnonzero(code)
    shares = code[on] * ((decoders[on, b] - decoders[on, a]) @ difference) / squared
    left = difference - code[on] @ (decoders[on, b] - decoders[on, a]) - (bias[b] - bias[a])
    order = np.argsort(-np.abs(shares), kind="stable")
    return Shares(
        latents=on[order],
        activations=code[on][order],
        shares=shares[order],
        bias=float((bias[b] - bias[a]) @ difference) / squared,
        error=float(left @ difference) / squared,
        moved=float(np.sqrt(squared) / np.linalg.norm(streams[a])),
    )


def streams(voices: Sequence[Voice], site: Site, ids: Sequence[int]) -> Float[Tensor, "token model d"]:
    """What stands at the site in every checkpoint, on the same ids."""
    import torch

    from workbench.site import read_sites

    read = []
    for voice in voices:
        with voice.lock:
            batch = torch.tensor([list(ids)], device=voice.model.device)
            read.append(read_sites(voice.model, [site], batch)[site][0].float().cpu())
    return torch.stack(read, dim=1)


def unreadable(dictionary: str, reads: Sequence[str], first: str, second: str) -> str:
    """Why the latents behind a difference cannot be read, in a sentence; empty where they can."""
    missing = [name for name in (first, second) if name not in reads]
    if not missing:
        return ""
    return (
        f"{dictionary} reads {', '.join(reads)} and was never trained on {' or '.join(missing)}: its latents "
        f"cannot be read there. Choose two of {', '.join(reads)} to see them."
    )
