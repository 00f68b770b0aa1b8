"""The embedding as a place to look round in: which tokens lie near which, and all of them on a plane.

W_E holds a row a token. Where a model's unembedding W_U is a matrix of its own (untied) it is a second such place.

    cosine of tokens i and j = ⟨w_i, w_j⟩ / (‖w_i‖ ‖w_j‖)

Embeddings of trained models share a direction [Mu 2018, arXiv 1702.01417], so cosines of unrelated tokens are above
zero: every cosine stands beside those of random pairs of tokens of the same matrix.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from workbench.encoding import read_text
from workbench.errors import Misuse
from workbench.feature_geometry import Plane, plane
from workbench.vocabulary import with_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

W_E, W_U = "W_E", "W_U"
N_RANDOM = 4_000  # random pairs of tokens


class Chance(NamedTuple):
    """Cosines of `n` random pairs of different tokens: mean, and where the middle 95 % of them lie."""

    mean: float
    low: float
    high: float
    n: int

    def n_below(self, cosines: Float[np.ndarray, "neighbour"]) -> int:
        """How many cosines are no larger than 97.5 % of random pairs stay below."""
        return int((cosines <= self.high).sum())


class Neighbours(NamedTuple):
    """The tokens of largest cosine with one, itself left out; largest first."""

    ids: Int[np.ndarray, "neighbour"]
    cosines: Float[np.ndarray, "neighbour"]


@dataclasses.dataclass(frozen=True)
class Space:
    """One matrix of a model with a row a token (padding rows, which no token has, left out)."""

    name: str
    rows: Float[np.ndarray, "token d"]

    def __post_init__(self) -> None:
        if len(self.rows) < 3:
            raise Misuse(f"{self.name} has {len(self.rows)} rows: neighbours need at least three tokens")

    @property
    def n(self) -> int:
        return len(self.rows)

    def unit(self) -> Float[np.ndarray, "token d"]:
        """Rows of length 1; a row of zeros stays."""
        return unit(self.rows)

    def norms(self) -> Float[np.ndarray, "token"]:
        return np.linalg.norm(self.rows, axis=1)

    @property
    def median_norm(self) -> float:
        return float(np.median(self.norms()))

    def neighbours(self, id_: int, k: int = 10) -> Neighbours:
        """The `k` nearest tokens of one."""
        if not 0 <= id_ < self.n:
            raise Misuse(f"{self.name} has tokens 0 to {self.n - 1}; there is no token {id_}")
        cosines = self.unit() @ unit(self.rows[id_])
        cosines[id_] = -np.inf
        best = np.argsort(-cosines, kind="stable")[: min(k, self.n - 1)]
        return Neighbours(best, cosines[best])

    def chance(self, seed: int = 0, n: int = N_RANDOM) -> Chance:
        """What random pairs have: without it no one knows whether 0.3 is much."""
        rng = np.random.default_rng(seed)
        first = rng.integers(0, self.n, n)
        second = (first + rng.integers(1, self.n, n)) % self.n  # never the same
        rows = self.unit()
        cosines = (rows[first] * rows[second]).sum(axis=1)
        low, high = np.quantile(cosines, (0.025, 0.975))
        return Chance(float(cosines.mean()), float(low), float(high), n)

    def plane(self) -> Plane:
        """PCA of the rows in two dimensions, and the share of the variance on each axis."""
        return plane(torch.from_numpy(self.rows))


def unit(rows: Float[np.ndarray, "*rows d"]) -> Float[np.ndarray, "*rows d"]:
    """Vectors of length 1; a zero stays."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), np.finfo(rows.dtype).tiny)


def spaces(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Space]:
    """W_E, and W_U where it is another matrix, on the CPU in fp32."""
    embed = model.get_input_embeddings().get_parameter("weight")
    unembed = model.get_output_embeddings().get_parameter("weight")
    tied = embed.data_ptr() == unembed.data_ptr() or (
        embed.shape == unembed.shape and bool(torch.equal(embed, unembed))
    )
    matrices = {W_E: embed} if tied else {W_E: embed, W_U: unembed}
    return {
        name: Space(name, matrix.detach()[: min(len(tokenizer), len(matrix))].float().cpu().numpy())
        for name, matrix in matrices.items()
    }


def find_token(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    """The token that `text` is with a blank before it, as it stands in running text; else as typed; else the last
    token that it is cut into. With a blank typed, as typed comes first. An id (`#365`) is that id."""
    if text.startswith("#") and text[1:].isdecimal() and int(text[1:]) < len(tokenizer):
        return int(text[1:])
    if not text:
        raise Misuse("no token is named: type a word, or an id such as #365")
    cuts = [
        read_text(tokenizer, each, markers=True)["input_ids"]
        for each in (with_bytes(text), with_bytes(" " + text))
    ]
    whole = [ids[0] for ids in reversed(cuts) if len(ids) == 1]
    if text.startswith(" "):
        whole = [ids[0] for ids in cuts if len(ids) == 1]
    found = whole or [ids[-1] for ids in cuts if ids]
    if not found:
        raise Misuse(f"this tokenizer reads nothing in {text!r}: type another word")
    return int(found[0])
