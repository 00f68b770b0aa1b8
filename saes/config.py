"""How a dictionary is trained: one frozen dataclass, checked when it is made.

Architectures: `batchtopk` [Bussmann 2024] keeps the k·B largest entries of a batch, `topk` [Gao 2024] the k
largest of each token, `matryoshka_batchtopk` [Bussmann 2025] is the former with a loss on the
reconstructions from the first `widths[0]`, `widths[1]`, … latents too, so that early latents stay general.
`l1` is the crosscoder of [Lindsey 2024], for contrast (`saes.l1_run`).
SAELens' own trainer makes `standard`, `gated`, `jumprelu`, `abstopk` and `matching_pursuit` (`saes.saelens`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

from saes.errors import DictionaryError

BATCHTOPK, TOPK, MATRYOSHKA = SPARSE = ("batchtopk", "topk", "matryoshka_batchtopk")
STANDARD, GATED, JUMPRELU, ABSTOPK, MATCHING_PURSUIT = SAELENS = (
    "standard", "gated", "jumprelu", "abstopk", "matching_pursuit",
)  # fmt: skip
L1 = "l1"
ARCHITECTURES = (*SPARSE, L1, *SAELENS)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run. Shares are of the whole run; `steps_for` turns tokens into steps."""

    arch: str = BATCHTOPK
    n_latents: int = 2048
    k: int = 16
    n_steps: int = 800
    batch_size: int = 2048
    lr: float = 4e-3
    warmup_share: float = 0.02
    decay_share: float = 0.3  # the learning rate falls to zero over the last part of the run
    decoder_norm: float = 1.0  # length of the starting rows; 0.1 fits faster and leaves more latents silent
    k_start: int = 64  # k falls from here ...
    k_anneal_share: float = 0.4  # ... to k over this part of the run
    aux_k: int = 32
    aux_coeff: float = 1 / 32
    aux_latents: int = 256  # of the dead ones, those silent longest
    aux_tokens: int = 512  # of each batch
    dead_after_share: float = 0.1
    grad_clip: float = 1.0
    widths: tuple[int, ...] = ()  # inner widths of a Matryoshka dictionary; empty: a 16th and a 4th of it
    skip: bool = False  # a transcoder's linear path from input to output beside its latents
    dedicated: float = 0.0  # share of a crosscoder's latents that each model has to itself
    seed: int = 0  # of the starting weights
    data_seed: int = 0  # of the order of the batches; runs that train together share it
    device: str = "cpu"
    state_every: int = 0  # steps between checkpoints; 0: none
    log_every: int = 25

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise DictionaryError(
                f"there is no architecture {self.arch!r} here: choose {', '.join(ARCHITECTURES)}"
            )
        for name in ("n_latents", "k", "n_steps", "batch_size", "log_every"):
            if getattr(self, name) < 1:
                called = "n_latents, the width," if name == "n_latents" else name
                raise DictionaryError(f"{called} is {getattr(self, name)}; it has to be at least 1")
        if not 0 <= self.seed < 2**63 or not 0 <= self.data_seed < 2**63:
            raise DictionaryError(f"seed is {self.seed}; it has to lie between 0 and 2^63")
        if self.k > self.n_latents:
            raise DictionaryError(
                f"k is {self.k} but there are {self.n_latents} latents; k cannot be the larger"
            )
        if self.widths and self.arch != MATRYOSHKA:
            raise DictionaryError(f"inner widths belong to {MATRYOSHKA}; {self.arch} has none")
        if not 0 <= self.dedicated <= 0.5:
            raise DictionaryError(f"dedicated is {self.dedicated}; each model's share is between 0 and 0.5")
        inner = (0, *self.widths, self.n_latents)
        if any(a >= b for a, b in itertools.pairwise(inner)):
            raise DictionaryError(
                f"inner widths {list(self.widths)} have to rise from above 0 to below {self.n_latents}"
            )
        for name in ("lr", "decoder_norm"):
            if not 0 < getattr(self, name) < math.inf:  # NaN is not above anything
                raise DictionaryError(f"{name} is {getattr(self, name)}; it has to be a number above 0")
        for name in ("warmup_share", "decay_share", "k_anneal_share", "dead_after_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise DictionaryError(f"{name} is {getattr(self, name)}; a share lies between 0 and 1")

    def k_at(self, step: int) -> float:
        """k falls linearly from `k_start` (at most the width) to k over the first `k_anneal_share` of the
        run."""
        span = self.k_anneal_share * self.n_steps
        start = max(self.k, min(self.k_start, self.n_latents))
        return float(self.k) if step >= span else start + (self.k - start) * step / span

    def lr_at(self, step: int) -> float:
        """Linear warm-up, constant, then linear decay that would reach zero one step after the last."""
        up = (step + 1) / max(1.0, self.warmup_share * self.n_steps)
        down = (self.n_steps - step) / max(1.0, self.decay_share * self.n_steps)
        return self.lr * min(1.0, up, down)

    @property
    def levels(self) -> tuple[int, ...]:
        """Widths at which the loss is taken, the whole dictionary last; one where nothing is nested."""
        if self.arch != MATRYOSHKA:
            return (self.n_latents,)
        inner = self.widths or tuple(w for w in (self.n_latents // 16, self.n_latents // 4) if w >= 1)
        return (*inner, self.n_latents)

    @property
    def dead_after(self) -> int:
        """Steps of silence after which a latent counts as dead."""
        return max(1, round(self.dead_after_share * self.n_steps))

    @staticmethod
    def steps_for(n_tokens: int, batch_size: int) -> int:
        return max(1, n_tokens // batch_size)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
