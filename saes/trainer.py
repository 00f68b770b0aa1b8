"""Training of sparse dictionaries, as a generator of steps.

    run = train(activations, config)
    for step in run: ...            # Step; the generator's return value is the Dictionary
    dictionary = fit(activations, config, on_step=print)       # the same without the loop
    narrow, wide = fit_together(activations, [config, replace(config, n_latents=8192)])

Several configurations (seeds, widths, k, architectures) train together over one pass through the activations.
Thresholds are calibrated afterwards. What a step does is `saes.sparse_run`'s matter, or `saes.saelens`'s.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from saes.arrays import Activations, Paired, read, shuffled_batches, spread
from saes.calibrate import Units, calibrated, measure
from saes.config import L1, SPARSE, TrainConfig
from saes.dictionary import Dictionary
from saes.errors import DictionaryError, StateError
from saes.l1_run import L1Run
from saes.run import Report, Run
from saes.sparse_run import SparseRun
from saes.state import read_states, write_states
from saes.transcoder import Transcoder


@dataclass(frozen=True)
class Step:
    """One report: `step` steps of `n_steps` are done. Figures are of the last batch."""

    step: int
    n_steps: int
    loss: float
    fvu: float
    l0: float
    dead_share: float


def train_together(
    activations: Activations,
    configs: Sequence[TrainConfig],
    *,
    names: Sequence[str] | None = None,
    site: str = "",
    targets: Activations | None = None,
    target_site: str = "",
    calibration: Activations | None = None,
    start: Dictionary | None = None,
    state_dir: Path | str | None = None,
    resume: Path | str | None = None,
) -> Generator[tuple[Step, ...], None, tuple[Dictionary, ...]]:
    """Train one dictionary a configuration, all on the same batches. Each ends as it would alone.

    Yields a `Step` of each every `log_every` steps and at the end, returns the calibrated dictionaries.
    `targets`: what transcoders are to write where `activations` is what they read (`target_site` names it).
    `calibration`: activations for the thresholds (held out, if there are some; by default the training set).
    `start`: a finished dictionary that all start from, instead of random weights; give `k_start` = k and a smaller
    `lr`, or it is torn up first. `state_dir`: where the state is written every `state_every` steps. `resume`: a
    state to continue from.
    """
    lead = _lead(configs)
    data = activations if targets is None else Paired(activations, targets)
    shape = _check(data, lead)
    _check_kinds(configs, targets is not None, shape[1])
    names = tuple(names) if names is not None else tuple(f"model{m}" for m in range(shape[1]))
    if len(names) != shape[1]:
        raise DictionaryError(f"{shape[1]} models need {shape[1]} names, found {len(names)}")
    told = [_identity(c) for c in configs]
    identity: dict[str, Any] = {"configs": told, "shape": list(shape), "names": list(names)}
    if start is not None:
        identity["start"] = _checked_start(start, configs, shape, targets is not None)
    saved = None if resume is None else read_states(resume, identity, lead.device)
    units = measure(activations)
    target_units = None if targets is None else measure(targets)
    runs = [_begin(units, config, target_units, start) for config in configs]
    if saved is not None:
        if not torch.allclose(saved.runs[0].tensors["mean"].cpu(), units.mean, rtol=1e-3, atol=1e-5):
            raise StateError(f"{resume} was trained on other activations; start the run without it")
        for run, state in zip(runs, saved.runs, strict=True):
            run.restore(saved.step, state.tensors, state.note)
    done = runs[0].step
    batches = shuffled_batches(data, lead.batch_size, lead.data_seed, start=done)
    while done < lead.n_steps:
        x = next(batches).to(lead.device)
        reports = [run.advance(x) for run in runs]
        done += 1
        if state_dir is not None and lead.state_every and done % lead.state_every == 0:
            for report in reports:
                _finite(float(report.loss), done)
            write_states(runs, state_dir, identity)
        if done % lead.log_every == 0 or done == lead.n_steps:
            yield tuple(_step(*of, lead) for of in zip(reports, runs, strict=True))
    held = calibration if calibration is not None else activations
    raw = [_at_target(run.dictionary(names, site), target_site) for run in runs]
    return tuple(calibrated(d, held) if run.needs_thresholds else d for d, run in zip(raw, runs, strict=True))


def train(activations: Activations, config: TrainConfig, **options: Any) -> Generator[Step, None, Dictionary]:
    """`train_together` of one configuration: yields its steps, returns its dictionary."""
    run = train_together(activations, [config], **options)
    while True:
        try:
            (step,) = next(run)
        except StopIteration as end:
            return end.value[0]
        yield step


def fit_together(
    activations: Activations,
    configs: Sequence[TrainConfig],
    *,
    on_step: Callable[[tuple[Step, ...]], object] | None = None,
    **options: Any,
) -> tuple[Dictionary, ...]:
    """`train_together` to its end; `on_step` sees every report."""
    return _to_the_end(train_together(activations, configs, **options), on_step)


def fit(
    activations: Activations,
    config: TrainConfig,
    *,
    on_step: Callable[[Step], object] | None = None,
    **options: Any,
) -> Dictionary:
    """`train` to its end; `on_step` sees every report."""
    return _to_the_end(train(activations, config, **options), on_step)


def _to_the_end(run: Generator[Any, None, Any], on_step: Callable[[Any], object] | None) -> Any:
    while True:
        try:
            step = next(run)
        except StopIteration as end:
            return end.value
        if on_step is not None:
            on_step(step)


def _identity(config: TrainConfig) -> dict[str, Any]:
    """What has to be the same for a run to go on: all but where it runs and how often it reports."""
    return {k: v for k, v in config.to_dict().items() if k not in ("device", "state_every", "log_every")}


def _lead(configs: Sequence[TrainConfig]) -> TrainConfig:
    """The first configuration; what all that train together have to agree on is checked."""
    if not configs:
        raise DictionaryError("no configuration was given; name at least one")
    for name in ("n_steps", "batch_size", "data_seed", "device", "state_every", "log_every"):
        if len({getattr(config, name) for config in configs}) > 1:
            raise DictionaryError(
                f"dictionaries that train together share their batches: give all the same {name}, "
                f"found {[getattr(config, name) for config in configs]}"
            )
    try:
        torch.zeros(1, device=configs[0].device)
    except (RuntimeError, AssertionError):
        raise DictionaryError(f"there is no device {configs[0].device!r} here: choose cpu") from None
    return configs[0]


def _check_kinds(configs: Sequence[TrainConfig], transcoders: bool, n_models: int) -> None:
    """A transcoder is of one model and on the sparse path; only it has a linear path beside its latents."""
    for config in configs:
        if transcoders and (config.arch not in SPARSE or n_models > 1):
            raise DictionaryError(
                f"a transcoder is one of {', '.join(SPARSE)} and reads one model; "
                f"found {config.arch} and {n_models}"
            )
        if config.dedicated and n_models * config.dedicated > 1:
            raise DictionaryError(
                f"{n_models} models cannot each have {config.dedicated:g} of the latents to themselves"
            )
        if config.dedicated and n_models == 1:
            raise DictionaryError("dedicated latents are a crosscoder's: give two models or more")
        if config.skip and not transcoders:
            raise DictionaryError("skip is a transcoder's linear path: give targets, or leave it out")


def _at_target(dictionary: Dictionary, target_site: str) -> Dictionary:
    if isinstance(dictionary, Transcoder):
        return replace(dictionary, target_site=target_site)
    return dictionary


def _checked_start(
    start: Dictionary, configs: Sequence[TrainConfig], shape: tuple[int, int, int], transcoders: bool
) -> str:
    """What tells this start from another when a run is resumed. Only what trains on the sparse path, and has the
    shape of the dictionary, can go on from one."""
    found = (start.n_latents, start.n_models, start.d)
    for config in configs:
        wanted = (config.n_latents, *shape[1:])
        if (
            transcoders
            or isinstance(start, Transcoder)
            or config.arch not in SPARSE
            or start.activation == "abstopk"
        ):
            raise DictionaryError(
                f"only dictionaries of {', '.join(SPARSE)} go on from another; found {config.arch}"
            )
        if found != wanted:
            raise DictionaryError(
                f"the dictionary to start from has [latent, model, d] {list(found)} and the training "
                f"{list(wanted)}: make them equal"
            )
    digest = hashlib.sha256()
    for weight in (start.W_enc, start.b_enc, start.W_dec, start.b_dec):
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _begin(
    units: Units, config: TrainConfig, target_units: Units | None, start: Dictionary | None = None
) -> Run:
    if config.arch in SPARSE:
        return SparseRun(units, config, target_units, start)
    if config.arch == L1:
        return L1Run(units, config)
    from saes.saelens import SaeLensRun

    return SaeLensRun(units, config)


def _step(report: Report, run: Run, config: TrainConfig) -> Step:
    loss = float(report.loss)
    _finite(loss, run.step)
    return Step(run.step, config.n_steps, loss, float(report.mse), float(report.l0), run.dead_share())


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
