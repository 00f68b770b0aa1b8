"""What evaluations share: a checkpoint's activations divided as in training, dictionaries judged on the rest.

Each step tells the build's progress how far it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from saes import folder
from saes.arrays import Activations, Part
from saes.config import TrainConfig
from saes.dictionary import Dictionary
from workbench.checkpoint import Checkpoint
from workbench.device import best_device
from workbench.dictionaries import save_whole, split_rows, train_together
from workbench.dictionary_scores import SPLICED_TOKENS
from workbench.grow import Build
from workbench.points import Site
from workbench.quality_scores import Judged, Row, Subject, judge, spliced_rows
from workbench.site import with_fast_attention
from workbench.tokens import TokenSet

OTHER_SEEDS = 2  # trained beside a dictionary
RANDOM_SEED = 0


class Made(NamedTuple):
    """The controls of a dictionary, the mean of what is replaced, and why what is missing is."""

    subjects: list[Subject]
    mean: Float[np.ndarray, "model d"]
    missing: dict[str, str]


class Source(NamedTuple):
    """Activations of one origin: rows to train on, rows for thresholds, held-out rows."""

    training: Activations
    calibration: Activations
    heldout: Activations

    @property
    def d_model(self) -> int:
        return int(self.heldout[np.arange(1)].shape[2])


def divided(arrays: Mapping[str, Activations], sets: Mapping[str, TokenSet]) -> Source:
    """Activations of both token sets, divided as a dictionary's training divides them."""
    fitted, held_back = split_rows(sets["dictionary"])
    both = arrays["dictionary"]
    return Source(Part(both, fitted), Part(both, held_back), arrays["heldout"])


def other_seeds(settings: TrainConfig) -> list[TrainConfig]:
    """The same training from other starting weights."""
    return [dataclasses.replace(settings, seed=settings.seed + n) for n in range(1, OTHER_SEEDS + 1)]


def trained(
    build: Build,
    label: str,
    settings: Sequence[TrainConfig],
    source: Source,
    names: tuple[str, ...],
    written: Source | None = None,
) -> list[Dictionary]:
    """Dictionaries trained together on a source; those of an interrupted build are read again. `written`: what
    transcoders are to write."""
    kept = [build.draft.path / "resume" / f"{label}-{config.seed}" for config in settings]
    if not all(path.is_dir() for path in kept):
        states = build.draft.path / "resume" / f"states-{label}"
        of = f"{label} of {build.config['dictionary']}"
        about: dict[str, Any] = {"names": names, "site": ""}
        about |= {"targets": written.training} if written else {}
        found = train_together(build, of, settings, source.training, source.calibration, states, **about)
        for path, dictionary in zip(kept, found, strict=True):
            save_whole(dictionary, path)
    return [folder.load(path) for path in kept]


def judge_all(build: Build, label: str, subjects: Sequence[Subject], heldout: TokenSet) -> list[Judged]:
    """One pass of each subject over its held-out activations."""
    counted = int((~np.asarray(heldout.special)).sum())
    build.progress.start(len(subjects) * counted, "tokens", label=f"judge {label}")
    return [judge(subject, heldout, build.progress.advance) for subject in subjects]


def splice_all(
    build: Build,
    label: str,
    subjects: Sequence[Subject],
    mean: Float[np.ndarray, "model d"],
    heldout: TokenSet,
    site: Site,
) -> list[Row]:
    """CE scores and KL of the subjects that read the model, on the windows that all are spliced on."""
    windows = heldout.sample_windows(SPLICED_TOKENS, seed=0)
    n_models = subjects[0].dictionary.n_models
    total = int((heldout.stops - heldout.starts)[windows].sum()) * n_models
    build.progress.start(total, "tokens", label=f"splice {label}")
    return spliced_rows(
        subjects,
        mean,
        heldout,
        windows,
        site,
        lambda name: with_fast_attention(Checkpoint.of(build.lab, name).model(best_device())),
        build.progress.advance,
    )
