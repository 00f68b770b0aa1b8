"""Alive latents and how near they lie, of an SAE, of one trained equally on Gaussian activations, and of one
trained equally from another seed.

The ratio of alive latents to dimensions alone mostly measures the width that was chosen, so the control stands
beside it. Counted are held-out tokens without chat markers and the control's rows are drawn as `evaluate` draws
them: the Dictionaries and the Superposition page say the same of one SAE.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from saes.arrays import ActivationArrays, Activations
from saes.controls import GaussianLike, random_directions
from saes.dictionary import Dictionary
from saes.heldout import HeldoutSums, heldout_sums
from saes.index import FeatureIndex
from saes.metrics import nearest_cosine, nearest_row_cosine
from saes.trainer import Step, fit
from workbench.dictionaries import train_settings, trainable
from workbench.dictionary_folder import dictionary_sentences, open_dictionary
from workbench.grow import Build
from workbench.judging import Source, divided
from workbench.part_steps import activations_name
from workbench.quality_build import GAUSSIAN_SEEDS
from workbench.recipe import DictionaryConfig
from workbench.tokens import SETS, TokenSet


class Crowded(NamedTuple):
    """Sums by document over the held-out tokens that count, and the living latents' nearest cosines."""

    sums: HeldoutSums
    nearest: Float[np.ndarray, "alive"]

    @property
    def n_alive(self) -> int:
        return int(self.sums.alive.sum())


class Widths(NamedTuple):
    """An SAE beside its Gaussian control: the manifest's figures, `cosines` (of, cosine), the SAE itself and
    one of another seed, with that one's index of all held-out tokens."""

    figures: dict[str, Any]
    cosines: pl.DataFrame
    own: Crowded
    reseeded: Crowded
    reseeded_index: FeatureIndex


def widths(build: Build, config: DictionaryConfig) -> Widths:
    """Alive latents, FVU, L0 and neighbours' cosines of an SAE and of its Gaussian control."""
    sets, real = _stored(build, config)
    alike = trainable(config, build.plan.recipe, build.parents[f"dictionary/{config.name}"].figures["k"])
    gaussian = GaussianLike(real.training, len(real.training), GAUSSIAN_SEEDS[0])
    label = f"Gaussian control of {config.name}"
    with dictionary_sentences(label):
        calibration = gaussian.another(len(real.calibration), GAUSSIAN_SEEDS[1])
        control = _trained(build, label, alike, gaussian, calibration)
        like = _crowded(control, gaussian.another(len(real.heldout), GAUSSIAN_SEEDS[2]), sets["heldout"])
    label = f"another seed of {config.name}"
    with dictionary_sentences(label):
        again = dataclasses.replace(alike, seed=alike.seed + 1)
        other = _trained(build, label, again, real.training, real.calibration)
        reseeded = _crowded(other, real.heldout, sets["heldout"])
        index = FeatureIndex.build(other, real.heldout)
    own, d_model = crowded(build, config), real.d_model
    random = random_directions(own.n_alive, d_model, 0)
    near = {
        "dictionary": own.nearest,
        "gaussian": like.nearest,
        "random": nearest_row_cosine(random).numpy() if own.n_alive > 1 else np.zeros(0, np.float32),
    }
    figures: dict[str, Any] = {"d_model": d_model, "d_sae": config.d_sae, "tokens": own.sums.n_tokens}
    for prefix, found in (("", own), ("gaussian_", like)):
        figures |= {
            f"{prefix}alive": found.n_alive,
            f"{prefix}alive_per_dimension": found.n_alive / d_model,
            f"{prefix}fvu": found.sums.fvu(0).value,
            f"{prefix}l0": found.sums.l0().value,
        }
    figures |= {f"{of}_cosine": float(np.median(values)) for of, values in near.items() if len(values)}
    rows = [pl.DataFrame({"cosine": v}).select(pl.lit(of).alias("of"), "cosine") for of, v in near.items()]
    return Widths(figures, pl.concat(rows), own, reseeded, index)


def crowded(build: Build, config: DictionaryConfig) -> Crowded:
    """An SAE of the lab on its held-out tokens."""
    sets, real = _stored(build, config)
    own = open_dictionary(build.parents[f"dictionary/{config.name}"].path, config.name)
    with dictionary_sentences(config.name):
        return _crowded(own, real.heldout, sets["heldout"])


def _crowded(dictionary: Dictionary, heldout: Activations, token_set: TokenSet) -> Crowded:
    group, counted = np.asarray(token_set.document), ~np.asarray(token_set.special)
    sums = heldout_sums(dictionary, heldout, group, counted)
    near = nearest_cosine(dictionary, sums.alive).numpy(force=True)
    return Crowded(sums, near[~np.isnan(near)])


def _stored(build: Build, config: DictionaryConfig) -> tuple[dict[str, TokenSet], Source]:
    """The token sets, and the activations of the SAE's checkpoint divided as in its training."""
    (checkpoint,) = config.checkpoints
    source = build.parents[f"activations/{activations_name(checkpoint, config.layer, config.point)}"]
    tokens = next(a for key, a in build.parents.items() if key.startswith("activations/tokens-"))
    sets = {name: TokenSet(tokens.path, name) for name in SETS}
    arrays = {name: ActivationArrays([source.path / f"{name}.npy"]) for name in SETS}
    return sets, divided(arrays, sets)


def _trained(
    build: Build, label: str, config: DictionaryConfig, training: Activations, calibration: Activations
) -> Dictionary:
    """An SAE of the same settings as `config`'s."""
    build.progress.start(config.steps, "steps", label=label)
    done = 0

    def on_step(step: Step) -> None:
        nonlocal done
        build.progress.advance(step.step - done, fvu=step.fvu, dead=step.dead_share)
        done = step.step

    settings = train_settings(config)
    made = fit(training, settings, on_step=on_step, names=config.checkpoints, calibration=calibration)
    return made.to("cpu")
