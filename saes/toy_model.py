"""Toy models of superposition: more sparse features than dimensions to hold them [Elhage 2022].

    x_i = 0 with probability 1 − density, else uniform on [0, 1]
    h = W x        x̂ = ReLU(Wᵀ h + b)        L = E Σ_i I_i (x_i − x̂_i)²,   I_i = decay^i

    features per dimension = ‖W‖²_F / m           D_i = ‖W_i‖² / Σ_j (Ŵ_i · W_j)²

D_i is the share of a dimension that feature i has to itself: 1 alone, 3/4 in a tetrahedron, 2/3 in a triangle,
1/2 in an antipodal pair, 2/5 in a pentagon, 3/8 in a square antiprism. Every density and seed is trained in one
batched product; the seed with the least loss on one common sample stands for its density.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor, einsum

from saes.errors import DictionaryError

SHAPES = {
    "alone": Fraction(1),
    "tetrahedron": Fraction(3, 4),
    "triangle": Fraction(2, 3),
    "antipodal pair": Fraction(1, 2),
    "pentagon": Fraction(2, 5),
    "square antiprism": Fraction(3, 8),
}
REPRESENTED = 0.5  # ‖W_i‖ from which feature i counts as held: learned lengths lie near 0 or near 1
SCORED = 32_768  # samples that the seeds are compared on
DECAY_SHARE = 0.5  # the learning rate falls to zero over the last part of the run
LARGEST = 256  # features or dimensions: above this the batched run no longer ends in seconds


@dataclass(frozen=True)
class ToyConfig:
    """n features in m dimensions. `importance_decay` 1 makes all features equally important."""

    n: int = 5
    m: int = 2
    density: float = 0.05
    importance_decay: float = 1.0
    steps: int = 1_000
    batch_size: int = 512
    lr: float = 0.01
    n_seeds: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n", "m"):
            if not 1 <= getattr(self, name) <= LARGEST:
                raise DictionaryError(f"{name} is {getattr(self, name)}; it has to lie between 1 and {LARGEST}")
        for name in ("steps", "batch_size", "n_seeds"):
            if getattr(self, name) < 1:
                raise DictionaryError(f"{name} is {getattr(self, name)}; it has to be at least 1")
        if not self.lr > 0:
            raise DictionaryError(f"lr is {self.lr}; it has to be above 0")
        if not 0 < self.importance_decay <= 1:
            raise DictionaryError(
                f"importance_decay is {self.importance_decay}; it has to be above 0 and at most 1"
            )
        checked_density(self.density)

    @property
    def importance(self) -> Float[Tensor, " feature"]:
        return self.importance_decay ** torch.arange(self.n, dtype=torch.float32)


@dataclass(frozen=True)
class Toy:
    """One trained model: the best seed at a density."""

    W: Float[Tensor, "hidden feature"]
    b: Float[Tensor, " feature"]
    density: float
    loss: float


@dataclass(frozen=True)
class ToyStep:
    """`step` steps of `n_steps` are done; `toys` are the present best, one a density."""

    step: int
    n_steps: int
    toys: tuple[Toy, ...]


def checked_density(density: float) -> float:
    """`density` if it is a probability above zero."""
    if not 0 < density <= 1:
        raise DictionaryError(f"density is {density}; it has to be above 0 and at most 1")
    return density


def sample(
    n_samples: int, n: int, densities: Float[Tensor, " density"], rng: torch.Generator
) -> Float[Tensor, "density sample feature"]:
    """Sparse features. All densities share their draws: a lower one has a part of a higher one's features."""
    strength, drawn = torch.rand(2, n_samples, n, generator=rng)
    return torch.where(drawn < densities[:, None, None], strength, 0.0)


def reconstruct(
    x: Float[Tensor, "... sample feature"],
    W: Float[Tensor, "... hidden feature"],
    b: Float[Tensor, "... feature"],
) -> Float[Tensor, "... sample feature"]:
    """x̂ = ReLU(WᵀWx + b)."""
    return torch.relu((x @ W.mT) @ W + b[..., None, :])


def reconstruct_all(
    x: Float[Tensor, "density sample feature"],
    W: Float[Tensor, "density seed hidden feature"],
    b: Float[Tensor, "density seed feature"],
) -> Float[Tensor, "density seed sample feature"]:
    """The same for every seed on the same samples, their WᵀW side by side in one matrix product a density."""
    gram = einsum("dshi,dshj->disj", W, W)
    pre = (x @ gram.flatten(2)).unflatten(2, gram.shape[2:])
    return torch.relu(pre + b[:, None]).transpose(1, 2)


def loss(
    x: Float[Tensor, "... sample feature"],
    x_hat: Float[Tensor, "... sample feature"],
    importance: Float[Tensor, " feature"],
) -> Float[Tensor, "..."]:
    """Σ_i I_i (x_i − x̂_i)², mean over samples."""
    return (importance * (x - x_hat).square()).sum(dim=-1).mean(dim=-1)


def features_per_dimension(W: Float[Tensor, "hidden feature"]) -> float:
    """‖W‖²_F / m."""
    return float(W.square().sum()) / W.shape[0]


def dimensionality(W: Float[Tensor, "hidden feature"]) -> Float[Tensor, " feature"]:
    """D_i = ‖W_i‖² / Σ_j (Ŵ_i·W_j)²; 0 for a feature without a direction."""
    overlaps = einsum("hi,hj->ij", W, W)
    own = overlaps.diagonal()
    shared = overlaps.square().sum(dim=1)
    return torch.where(own > 0, own.square() / shared.clamp_min(torch.finfo(W.dtype).tiny), 0.0)


def represented(W: Float[Tensor, "hidden feature"]) -> list[int]:
    """Features that the model holds at all."""
    return (W.norm(dim=0) >= REPRESENTED).nonzero().squeeze(1).tolist()


def nearest_shape(value: float) -> str:
    """The arrangement whose dimensionality is nearest."""
    return min(SHAPES, key=lambda name: abs(float(SHAPES[name]) - value))


def train(
    config: ToyConfig, densities: Sequence[float] | None = None, report_every: int = 50
) -> Generator[ToyStep, None, tuple[Toy, ...]]:
    """Train every seed at every density (default: the configuration's); yields progress, returns the best."""
    chosen = [config.density] if densities is None else [checked_density(d) for d in densities]
    if not chosen:
        raise DictionaryError("no density was given; name at least one")
    rng = torch.Generator().manual_seed(config.seed)
    level = torch.tensor(chosen)
    start = torch.randn(config.n_seeds, config.m, config.n, generator=rng) / math.sqrt(config.m)
    W = start.expand(len(chosen), -1, -1, -1).clone().requires_grad_()
    b = torch.zeros(len(chosen), config.n_seeds, config.n, requires_grad=True)
    optimizer = torch.optim.Adam([W, b], lr=config.lr)
    common = sample(SCORED, config.n, level, torch.Generator().manual_seed(config.seed + 1))
    for step in range(config.steps):
        x = sample(config.batch_size, config.n, level, rng)
        losses = loss(x[:, None], reconstruct_all(x, W, b), config.importance)
        descend(optimizer, losses, config.lr, step / config.steps)
        done = step + 1
        if done % report_every == 0 and done < config.steps:
            yield ToyStep(done, config.steps, _best(W, b, chosen, losses.detach()))
    found = _best(W, b, chosen, _scores(W, b, common, config.importance))
    yield ToyStep(config.steps, config.steps, found)
    return found


def fit(
    config: ToyConfig,
    densities: Sequence[float] | None = None,
    on_step: Callable[[ToyStep], object] | None = None,
) -> tuple[Toy, ...]:
    """`train` to its end."""
    run = train(config, densities)
    while True:
        try:
            step = next(run)
        except StopIteration as end:
            return end.value
        if on_step is not None:
            on_step(step)


def descend(optimizer: torch.optim.Optimizer, losses: Tensor, lr: float, at: float) -> None:
    """One step of every run, `at` a share of the whole. Their losses add, so none feels another."""
    for group in optimizer.param_groups:
        group["lr"] = lr * min(1.0, (1 - at) / DECAY_SHARE)
    optimizer.zero_grad(set_to_none=True)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def _scores(
    W: Tensor, b: Tensor, x: Float[Tensor, "density sample feature"], importance: Tensor
) -> Float[Tensor, "density seed"]:
    """Loss of every run, a seed at a time: all at once would not fit in a processor's cache."""
    seeds = range(W.shape[1])
    return torch.stack([loss(x, reconstruct(x, W[:, s], b[:, s]), importance) for s in seeds], dim=1)


def _best(
    W: Tensor, b: Tensor, densities: Sequence[float], losses: Float[Tensor, "density seed"]
) -> tuple[Toy, ...]:
    best = losses.argmin(dim=1).tolist()
    return tuple(
        Toy(W[d, s].detach().clone(), b[d, s].detach().clone(), density, float(losses[d, s]))
        for d, (density, s) in enumerate(zip(densities, best, strict=True))
    )
