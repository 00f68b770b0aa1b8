"""The inference transcoder of one layer: it reads what an MLP reads and writes what the MLP writes.

    pre = x W_enc + b_enc        f_j = pre_j if pre_j > threshold_j else 0
    ŷ = Σ_j f_j W_dec_j + b_dec (+ W_skip x)

[Dunefsky 2024; the linear path W_skip as in Paulo 2025]. Input and output may differ in width. `scales` is the
scale of the *output*, in whose units decoders are compared. A trained one has thresholds however its latents were
selected in training, since SAELens has no TopK transcoder that could open one; those of `saes.transcoder_controls`
may take the k farthest from zero (`abstopk`) and are not saved.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, einsum

from saes.dictionary import Dictionary
from saes.errors import DictionaryError
from saes.sparse import Code


@dataclass(frozen=True)
class Transcoder(Dictionary):
    """One model; `site` is read, `target_site` is written."""

    W_dec: Float[Tensor, "latent model d_out"]
    b_dec: Float[Tensor, "model d_out"]
    W_skip: Float[Tensor, "d_out d"] | None = None
    target_site: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_models != 1 or self.activation not in ("jumprelu", "abstopk"):
            raise DictionaryError(
                "a transcoder reads one model and is 'jumprelu' (a control: 'abstopk'); "
                f"found {self.n_models} and {self.activation!r}"
            )
        if self.W_skip is not None and self.W_skip.shape != (self.d_out, self.d):
            raise DictionaryError(
                f"W_skip has shape {tuple(self.W_skip.shape)}; it has to be {(self.d_out, self.d)}"
            )

    def _widths(self) -> tuple[int, int]:
        return self.W_enc.shape[1], self.W_dec.shape[2]

    def output(self, code: Code, x: Float[Tensor, "token model d"]) -> Float[Tensor, "token model d_out"]:
        """ŷ, the linear path with it."""
        y_hat = self.decode_sparse(code, len(x))
        if self.W_skip is None:
            return y_hat
        return y_hat + einsum("tmd,od->tmo", x, self.W_skip)
