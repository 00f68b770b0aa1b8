"""BatchTopK training of SAEs (one model) and N-way crosscoders, as a generator of steps.

In normalised units z^m = (x^m − μ^m)/σ_m, with the models' coordinates side by side:

    f = ReLU(W_enc z + b_enc),  s_j = Σ_m ‖d_j^m‖,  keep the k·B largest f_j·s_j of the batch
    loss = (1/N) Σ_m ‖x^m − x̂^m‖² / (d·σ_m²) + AuxK = mean over coordinates of (z − ẑ)² + AuxK

[Bussmann 2024; Lindsey 2024; Minder 2025]. The norms s_j only select; no gradient passes through them. k
falls from `k_start`, the learning rate ends at zero, thresholds are calibrated afterwards.

    run = train(activations, config)
    for step in run: ...            # Step; the generator's return value is the Dictionary
    dictionary = fit(activations, config, on_step=print)       # the same without the loop
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saes.arrays import Activations, read, shuffled_batches, spread
from saes.auxk import auxk_loss
from saes.calibrate import Units, calibrated, measure
from saes.config import TrainConfig
from saes.dictionary import Dictionary
from saes.errors import DictionaryError
from saes.sparse import BatchTopK, native_bfloat16, sparse_decode, sparse_encode
from saes.state import WEIGHTS, State, read_state, restore_moments, write_state

BETAS = (0.9, 0.99)  # 0.999 remembers the first steps' large gradients for most of a run of under 1,000 steps


@dataclass(frozen=True)
class Step:
    """One report: `step` steps of `n_steps` are done. Figures are of the last batch."""

    step: int
    n_steps: int
    loss: float
    fvu: float
    l0: float
    dead_share: float


def train(
    activations: Activations,
    config: TrainConfig,
    *,
    names: Sequence[str] | None = None,
    site: str = "",
    calibration: Activations | None = None,
    state_dir: Path | str | None = None,
    resume: Path | str | None = None,
) -> Generator[Step, None, Dictionary]:
    """Train; yields a `Step` every `log_every` steps and at the end, returns the calibrated `Dictionary`.

    `calibration`: activations for the thresholds (held out, if there are some; by default the training set).
    `state_dir`: where the state is written every `state_every` steps. `resume`: a state to continue from.
    """
    shape = _check(activations, config)
    names = tuple(names) if names is not None else tuple(f"model{m}" for m in range(shape[1]))
    if len(names) != shape[1]:
        raise DictionaryError(f"{shape[1]} models need {shape[1]} names, found {len(names)}")
    identity = {"config": config.to_dict(), "shape": list(shape), "names": list(names)}
    if resume is not None:
        state = _resumed(read_state(resume, identity, config.device), config)
    else:
        state = _begin(activations, config)
    batches = shuffled_batches(activations, config.batch_size, config.seed, start=state.step)
    while state.step < config.n_steps:
        report = _advance(state, next(batches).to(config.device), config)
        done = state.step
        if state_dir is not None and config.state_every and done % config.state_every == 0:
            _finite(float(report.loss), done)
            write_state(state, state_dir, identity)
        if done % config.log_every == 0 or done == config.n_steps:
            yield _report(report, state, config)
    raw = to_dictionary(state, names, config.k, site)
    return calibrated(raw, calibration if calibration is not None else activations)


def fit(
    activations: Activations,
    config: TrainConfig,
    *,
    on_step: Callable[[Step], object] | None = None,
    **options: Any,
) -> Dictionary:
    """`train` to its end; `on_step` sees every report."""
    run = train(activations, config, **options)
    while True:
        try:
            step = next(run)
        except StopIteration as end:
            return end.value
        if on_step is not None:
            on_step(step)


@dataclass(frozen=True)
class _Report:
    """Tensors, not numbers: reading them waits for the device, which happens only where a Step is made."""

    loss: Tensor
    mse: Tensor
    entries: int


def _advance(state: State, x: Float[Tensor, "token model d"], config: TrainConfig) -> _Report:
    """One step: select, encode, decode, AuxK, Adam."""
    z = state.units.normalise(x)
    for group in state.optimizer.param_groups:
        group["lr"] = config.lr_at(state.step)
    norms = state.W_dec.detach().view(config.n_latents, x.shape[1], -1).norm(dim=2).sum(dim=1)
    n_entries = round(config.k_at(state.step) * z.shape[0])
    pattern, pre = state.select(z, state.W_enc, state.b_enc, norms, n_entries)
    latents = torch.relu(sparse_encode(z, state.W_enc, state.b_enc, pattern, pre))
    z_hat = sparse_decode(latents, state.W_dec, pattern) + state.b_dec
    mse = (z - z_hat).square().mean()
    state.silent_steps = torch.where(pattern.fires > 0, 0, state.silent_steps + 1)
    loss = mse
    if config.aux_coeff > 0:
        aux = auxk_loss(z, z_hat, state.W_enc, state.b_enc, state.W_dec, state.silent_steps, config)
        loss = mse if aux is None else mse + aux
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.weights, config.grad_clip)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.step += 1
    return _Report(loss.detach(), mse.detach(), pattern.rows.numel())


def _report(report: _Report, state: State, config: TrainConfig) -> Step:
    loss = float(report.loss)
    _finite(loss, state.step)
    return Step(
        step=state.step,
        n_steps=config.n_steps,
        loss=loss,
        fvu=float(report.mse),
        l0=report.entries / config.batch_size,
        dead_share=float((state.silent_steps >= config.dead_after).float().mean()),
    )


def _finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise DictionaryError(
            f"the loss is {loss} at step {step}; lower lr, or look for outliers in the activations"
        )


def _check(activations: Activations, config: TrainConfig) -> tuple[int, int, int]:
    n = len(activations)
    if n < config.batch_size:
        raise DictionaryError(
            f"{n} tokens do not fill one batch of {config.batch_size}; give more or lower batch_size"
        )
    one = read(activations, spread(activations, 1)[:1])
    return n, one.shape[1], one.shape[2]


def _begin(activations: Activations, config: TrainConfig) -> State:
    units = measure(activations)
    weights = starting_weights(units.mean.shape[0], units.mean.shape[1], config)
    return _state(0, weights, torch.zeros(config.n_latents, dtype=torch.long), units, config)


def starting_weights(n_models: int, d: int, config: TrainConfig) -> dict[str, Tensor]:
    """Random unit decoders, the encoder their transpose, zero biases (z has mean zero, so b_dec is the mean).

    Every model starts from the same direction, so that a difference between them was learned. Unit length
    makes the first reconstructions overshoot, k_start directions at once, and the correction spreads the
    directions apart: starting at the least-squares length, or from data points, fits somewhat better and
    leaves over half of the latents dead.
    """
    rng = torch.Generator().manual_seed(config.seed)
    direction = torch.randn(config.n_latents, d, generator=rng)
    W_dec = torch.nn.functional.normalize(direction.repeat(1, n_models), dim=1)
    zeros = torch.zeros(config.n_latents)
    return {"W_enc": W_dec.clone(), "b_enc": zeros, "W_dec": W_dec, "b_dec": torch.zeros(n_models * d)}


def _resumed(saved: Any, config: TrainConfig) -> State:
    t = saved.tensors
    state = _state(
        saved.step,
        {name: t[name] for name in WEIGHTS},
        t["silent_steps"],
        Units(t["mean"], t["scales"]),
        config,
    )
    restore_moments(state, t)
    state.select.bound = saved.bound
    return state


def _state(step: int, weights: dict[str, Tensor], silent: Tensor, units: Units, config: TrainConfig) -> State:
    device = config.device
    w = {name: weights[name].to(device).requires_grad_() for name in WEIGHTS}
    proposal = torch.bfloat16 if device == "cpu" and native_bfloat16() else None
    return State(
        step=step,
        silent_steps=silent.to(device),
        units=Units(units.mean.to(device), units.scales.to(device)),
        optimizer=torch.optim.Adam(list(w.values()), lr=config.lr, betas=BETAS, fused=True),
        select=BatchTopK(proposal),
        **w,
    )


@torch.no_grad()
def to_dictionary(state: State, names: tuple[str, ...], k: int, site: str) -> Dictionary:
    """Fold μ and σ into the weights, and scale every latent so that Σ_m‖d_j^m‖ is N over the mean σ.

    The latter changes no reconstruction; for one model it makes every decoder row a unit vector in raw units,
    so that activations of different latents compare. Thresholds are zero until calibrated.
    """
    mean, sigma = state.units.mean.double(), state.units.scales.double()
    n, d = mean.shape
    W_enc = state.W_enc.detach().double().view(-1, n, d)
    W_dec = state.W_dec.detach().double().view(-1, n, d)
    size = W_dec.norm(dim=2).sum(dim=1).clamp_min(1e-12) * sigma.mean() / n
    raw_enc = W_enc / sigma[:, None] * size[:, None, None]
    b_enc = state.b_enc.detach().double() * size - torch.einsum("fmd,md->f", raw_enc, mean)
    return Dictionary(
        W_enc=raw_enc.permute(1, 2, 0).float().contiguous(),
        b_enc=b_enc.float(),
        W_dec=(W_dec * sigma[:, None] / size[:, None, None]).float().contiguous(),
        b_dec=(state.b_dec.detach().double().view(n, d) * sigma[:, None] + mean).float(),
        threshold=torch.zeros(len(size), device=mean.device),
        scales=state.units.scales,
        names=names,
        k=k,
        site=site,
    )
