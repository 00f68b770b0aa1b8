"""What evaluations share: a checkpoint's activations divided as in training, dictionaries judged on the rest.

Each step tells the build's progress how far it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from saes.arrays import Activations, Part
from workbench.checkpoint import Checkpoint
from workbench.device import best_device
from workbench.dictionaries import split_rows
from workbench.dictionary_scores import SPLICED_TOKENS
from workbench.grow import Build
from workbench.points import Site
from workbench.quality_scores import Judged, Row, Subject, judge, spliced_rows
from workbench.site import with_fast_attention
from workbench.tokens import TokenSet


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
